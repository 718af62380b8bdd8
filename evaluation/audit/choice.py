"""How simulated people choose from a list: position bias times a softmax of their utility.

    p(choose place r) ∝ log2(1 + r)^−b · exp(u(person, item at r)),   r from 1

Several choices from one list are made one after the other, none twice (Gumbel top-k). b = 1 is the discount of DCG: who looks at lists
looks at the top. u is the world's own where there is one (planted), or a model fitted on events that no compared row has learned
from (`evaluation.audit.utility`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recsys.recommender import Request


class Utilities(Protocol):
    """What items are worth to people."""

    @property
    def said(self) -> str:
        """Which model it is, in a sentence."""
        ...

    def of_all(self, requests: Sequence[Request]) -> np.ndarray:
        """Utility [R, N] (nats) of every item to each of these people, as of their requests' histories."""
        ...


@dataclass(frozen=True)
class Choice:
    """The choice model."""

    utilities: Utilities
    position: float = 1.0  # b; 0: people read a list to its end
    choices: int = 3  # of a list

    def log_weights(self, utility: np.ndarray) -> np.ndarray:
        """log of what probabilities are in proportion to [R, n], from the utility of what stands at each place; −inf stays."""
        places = np.arange(1, utility.shape[1] + 1)
        return utility - self.position * np.log(np.log2(1 + places))

    def choose(self, lists: np.ndarray, utility: np.ndarray, stream: np.random.Generator) -> np.ndarray:
        """Items chosen [R, choices], −1 where a list holds fewer. `utility` [R, N] of every item."""
        here = np.where(lists >= 0, np.take_along_axis(utility, lists.clip(min=0), axis=1), -np.inf)
        keys = self.log_weights(here) + stream.gumbel(size=here.shape)
        best = np.argsort(-keys, axis=1, kind="stable")[:, : self.choices]
        return np.take_along_axis(lists, best, axis=1)

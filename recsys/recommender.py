"""The one call that everything here answers: popularity, retrieval, and every personalization method.

Items and users are integers inside (see `recsys.data.interactions`); raw ids live at the edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

EMPTY = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked: a user at a moment, the events strictly before it, and optionally words.

    `history` and `history_times` (unix seconds) are oldest first, and hold nothing at or after `time`.
    `exclude` lists items that may not be returned, `allow`, where given, the only ones that may: an item is
    available iff it is in `allow` (or there is none) and not in `exclude`. It holds in the sampler and in the
    scorer alike. Requests that share an allow-list had better share the array: it is looked at once.
    """

    request_id: str
    user: int | None  # None: a user the run has never seen
    time: int  # unix seconds (an ordinal where the data has order but no time)
    history: np.ndarray = field(default_factory=lambda: EMPTY)  # [h] item integers
    history_times: np.ndarray = field(default_factory=lambda: EMPTY)  # [h]
    query: str | None = None
    exclude: np.ndarray = field(default_factory=lambda: EMPTY)  # item integers, any order
    allow: np.ndarray | None = None  # item integers, any order; None: the whole catalogue

    def available(self, items: np.ndarray) -> np.ndarray:
        """Bool, the shape of `items`: may the request be answered with it?"""
        fine = ~np.isin(items, self.exclude)
        return fine if self.allow is None else fine & np.isin(items, self.allow)


@dataclass(frozen=True)
class Ranked:
    """A ranked answer, best first: `items` [k] and their `scores` [k]. k ≤ n when fewer items are allowed.

    Not `proven`: the search for it was cut short, so some other item may belong into it.
    """

    items: np.ndarray
    scores: np.ndarray
    proven: bool = True


@runtime_checkable
class Recommender(Protocol):
    """Answers requests with ranked lists.

    `temperature == 0` asks for the best n in order. Above 0 it asks for n distinct items drawn without
    replacement from the method's own distribution at that temperature, in draw order; a recommender that has
    no distribution ignores it and says so with `draws = False`. The same seed gives the same list, alone or
    in a batch.
    """

    name: str
    draws: bool

    def recommend(
        self, requests: Sequence[Request], n: int, temperature: float = 0.0, seed: int = 0
    ) -> list[Ranked]: ...


@runtime_checkable
class ProbabilisticRecommender(Recommender, Protocol):
    """A recommender that has a distribution over the allowed items."""

    def draw(
        self, requests: Sequence[Request], n: int, temperature: float = 1.0, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """`n` i.i.d. draws a request, with replacement: items [R, n] and their log-probabilities [R, n]."""
        ...

    def log_prob(
        self, requests: Sequence[Request], items: np.ndarray, temperature: float = 1.0
    ) -> np.ndarray:
        """Exact log-probability [R] of one item a request; −inf where the item is excluded."""
        ...

    def context_tokens(self, requests: Sequence[Request]) -> float:
        """Mean number of tokens of personal context that the method adds in front of the shared prompt."""
        ...

"""With which probability each item of a drawn list was drawn, given those before it: exact, and summed again in a slow reference.

Draws without replacement from p take item k with

    P(k | those before) = p_k / (1 − Σ_{j before} p_j)

and where caps pass over what no longer fits, the sum runs over that too (a draw that does not fit is rejected).
Lists in sequence read each item before the next is drawn: their scores are log P themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from recsys.data.caps import Caps
from recsys.recommender import Ranked, Recommender, Request

# Mass that is left below which 1 − Σ is lost in rounding (log p are of 32 bits): then what is left is summed itself
LITTLE = 0.05
MOST_SUMMED = 1 << 17  # items of a catalogue whose probabilities are all computed for one list


@runtime_checkable
class Distribution(Protocol):
    """A recommender that says the probability of every item as it draws."""

    def log_probs(self, requests: Sequence[Request], temperature: float = 1.0) -> np.ndarray: ...


def probabilities(
    recommender: Recommender,
    request: Request,
    ranked: Ranked,
    n_items: int,
    temperature: float,
    sequence: bool = False,
    caps: Caps | None = None,
    passed: np.ndarray | None = None,
) -> np.ndarray | None:
    """P of each item [k] of a list as it was drawn. `passed`: items shown on pages before, which are passed over.

    None where nothing was drawn, and where it would take the probabilities of more than `MOST_SUMMED` items.
    """
    if temperature <= 0 or not recommender.draws:
        return None
    if sequence:
        return np.exp(ranked.scores)
    p = np.exp(np.asarray(ranked.scores, np.float64))
    left = 1.0 - np.concatenate([[0.0], np.cumsum(p)[:-1]]) if len(p) else np.zeros(0)
    if caps is None and passed is None and (not len(left) or left[-1] > LITTLE):
        return np.minimum(p / left, 1.0)
    if n_items > MOST_SUMMED or not isinstance(recommender, Distribution):
        return None
    every = np.exp(recommender.log_probs([request], temperature)[0])
    return given_before(every, ranked.items, caps, () if passed is None else passed)


def given_before(
    p: np.ndarray, items: np.ndarray, caps: Caps | None = None, passed: Collection[int] | np.ndarray = ()
) -> np.ndarray:
    """P [k] of each of `items`, drawn one after the other from `p` [N], those that do not fit rejected."""
    left = p.copy()
    left[np.asarray(passed, np.int64)] = 0.0
    counts, found = None if caps is None else caps.start(), np.zeros(len(items))
    for place, item in enumerate(items.tolist()):
        found[place] = p[item] / left.sum()
        left[item] = 0.0
        if counts is not None:
            left[counts.add(item)] = 0.0
    return found

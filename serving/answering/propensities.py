"""With which probability each item of a drawn list was drawn, given those before it: exact, and summed again in a slow reference.

Draws without replacement from p take item k with

    P(k | those before) = p_k / (m − Σ_{j before} p_j)

where m is the mass of what is available (1 where p is among that already), and where caps pass over what no longer fits, the sum runs over that too (a draw that does not fit is rejected).
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
class OfWhole(Protocol):
    """A recommender whose scores are log p in the whole catalogue, and the mass of what is available."""

    def log_left(self, requests: Sequence[Request], temperature: float = 1.0) -> np.ndarray: ...


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
    mass: float | None = None,
) -> np.ndarray | None:
    """P of each item [k] of a list as it was drawn. `passed`: items shown on pages before, which are passed over.
    `mass`: that of `masses`, where it is known.

    None where nothing was drawn, and where it would take the probabilities of more than `MOST_SUMMED` items.
    """
    if temperature <= 0 or not recommender.draws:
        return None
    if sequence:
        return np.exp(ranked.scores)
    if not len(ranked.items):
        return np.zeros(0)
    if caps is None and passed is None:
        p = np.exp(np.asarray(ranked.scores, np.float64))
        mass = masses(recommender, [request], temperature)[0] if mass is None else mass
        left = mass - np.concatenate([[0.0], np.cumsum(p)[:-1]])
        if left[-1] > LITTLE * mass:  # not where the mass is unknown, which is NaN
            return np.minimum(p / left, 1.0)
    if n_items > MOST_SUMMED or not isinstance(recommender, Distribution):
        return None
    every = np.exp(recommender.log_probs([request], temperature)[0])
    return given_before(every, ranked.items, caps, () if passed is None else passed)


def masses(recommender: Recommender, requests: Sequence[Request], temperature: float) -> np.ndarray:
    """The probability [R] of all that is available to each request, in the distribution that scores are of; NaN where it is not
    affordable. Asked before the lists of the same requests are made, it costs no second reading of their prompts.
    """
    if not isinstance(recommender, OfWhole):
        return np.ones(len(requests))
    return np.exp(recommender.log_left(requests, temperature))


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

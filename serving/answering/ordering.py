"""The order of a finished list: as it was made, as a smooth walk from item to item, or by score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from recsys.recommender import Ranked

Order = Literal["as made", "smooth", "score"]


def check_order(order: str) -> None:
    """Raises `ValueError` for an order that is none of `Order`."""
    if order not in get_args(Order):
        raise ValueError(f"order is {order!r}; expected one of {', '.join(map(repr, get_args(Order)))}")


def ordered(ranked: Ranked, order: str, vectors: Callable[[], np.ndarray]) -> Ranked:
    """A list in another order, its items and scores unchanged.

    `vectors()` [N, d] are read for "smooth" alone.
    """
    check_order(order)
    if order == "as made" or len(ranked.items) < 2:
        return ranked
    if order == "score":
        places = np.argsort(-ranked.scores, kind="stable")
    else:
        places = nearest_neighbour_chain(vectors()[ranked.items])
    return Ranked(ranked.items[places], ranked.scores[places])


def nearest_neighbour_chain(vectors: np.ndarray) -> np.ndarray:
    """The rows of `vectors` [n, d] as a greedy chain: the first, then always the most alike that is left.

    Returns their numbers [n]. Alike is meant by cosine; of equals the earlier row. A zero row is alike to
    nothing (cosine 0). Greedy is no shortest path, but a walk from the first item, which stays the first.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors, dtype=np.float64), where=norms > 0)
    alike = unit @ unit.T
    chain = [0] if len(vectors) else []
    left = np.ones(len(vectors), bool)
    while len(chain) < len(vectors):
        left[chain[-1]] = False
        chain.append(int(np.where(left, alike[chain[-1]], -np.inf).argmax()))
    return np.array(chain, dtype=np.int64)

"""Item-kNN (Sarwar et al. 2001): what users of a history's items also had.

A baseline that learns two numbers.

With `shrink` 0 that is the cosine of co-occurrence; a larger one trusts rare pairs less (Bell & Koren 2007). Each item keeps its
`neighbours` most alike. Where events have weights, c_ij is Σ_u w_uj over the users with both: j, which is recommended, counts as much
as their event with it weighs (the strongest of several), i, which stands in a history and has no weight there, as one. n stays a number
of users: a cosine of weights would cancel what an item's events have in common, purchases against views. The half-life, which a ranking by time needs and the paper does not have, and the shrinkage are
validation's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from recsys.config import StageConfig
from recsys.embeddings.lightgcn import strongest_of_pairs
from recsys.embeddings.user_vectors import recency_weights
from recsys.recommender import Ranked, Request

if TYPE_CHECKING:
    from scipy import sparse

BLOCK = 1024  # items compared, or requests scored, at once: 1,024 × 12,000 float32 are 50 MB


class ItemKnnConfig(StageConfig):
    # most alike items that each item keeps; more changes little and costs memory
    neighbours: int = Field(200, ge=1)
    last_items: int = Field(50, ge=1)  # items of a history that vote, the latest
    # items; None: no fading
    half_lives: tuple[float | None, ...] = Field((None, 20, 10, 5, 2, 1, 0.5), min_length=1)
    shrinks: tuple[float, ...] = Field((0.0, 5.0, 20.0, 100.0), min_length=1)  # users; a pair's doubt


def similarities(
    users: np.ndarray,
    items: np.ndarray,
    n_items: int,
    shrink: float,
    neighbours: int,
    weights: np.ndarray | None = None,
) -> sparse.csr_array:
    """sim [N, N] of the edges (users[e], items[e]), each distinct edge once;
    a row holds its `neighbours` largest.

    `weights` [E], all above 0, weigh the edges; None: all count as one. Ties go to the lower item; no item is its own neighbour.
    """
    from scipy import sparse

    pairs, strengths = strongest_of_pairs(users, items, weights)
    shape = (int(pairs[0].max(initial=-1)) + 1, n_items)
    ones = np.ones(pairs.shape[1], np.float32)
    seen = sparse.csr_array((ones, (pairs[0], pairs[1])), shape=shape)
    by_item, roots = seen.T.tocsr(), np.sqrt(np.bincount(pairs[1], minlength=n_items))
    taken = seen if strengths is None else sparse.csr_array((strengths, (pairs[0], pairs[1])), shape=shape)
    blocks = []
    for start in range(0, n_items, BLOCK):
        block = (by_item[start : start + BLOCK] @ taken).tocoo()
        row, column, together = block.row + start, block.col, block.data
        other = row != column
        row, column, together = row[other], column[other], together[other]
        values = together / (roots[row] * roots[column] + shrink)
        order = np.lexsort((column, -values, row))
        row, column, values = row[order], column[order], values[order]
        kept = np.arange(len(row)) - np.searchsorted(row, row) < neighbours
        blocks.append((row[kept], column[kept], values[kept]))
    row, column, values = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return sparse.csr_array((values.astype(np.float32), (row, column)), shape=(n_items, n_items))


class ItemKnn:
    """`Recommender` by item similarities [N, N]; deterministic, so `temperature` and `seed` are unused.

    Items that nothing in the history speaks for follow in the order of `fallback` [N] (popularity counts),
    which is thereby the answer to an empty history.
    """

    name = "Item-kNN"
    draws = False

    def __init__(
        self, similar: sparse.csr_array, half_life: float | None, last_items: int, fallback: np.ndarray
    ):
        self.similar, self.half_life, self.last_items = similar, half_life, last_items
        self._order = np.argsort(-np.asarray(fallback, float), kind="stable")  # by popularity
        self._place = np.argsort(self._order)  # of each item in that order

    def scores(self, requests: Sequence[Request]) -> np.ndarray:
        """score(i | history) [R, N]; zeros without a history."""
        from scipy import sparse

        latest = [request.history[-self.last_items :] for request in requests]
        lengths = np.fromiter(map(len, latest), np.int64, len(latest))
        items = np.concatenate([*latest, np.zeros(0, np.int64)]).astype(np.int64)
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        weights = recency_weights(lengths, self.half_life)
        votes = sparse.csr_array((weights, items, bounds), shape=(len(requests), self.similar.shape[0]))
        return (votes @ self.similar).toarray()

    def recommend(
        self, requests: Sequence[Request], n: int, temperature: float = 0.0, seed: int = 0
    ) -> list[Ranked]:
        answers = []
        for start in range(0, len(requests), BLOCK):
            block = requests[start : start + BLOCK]
            for request, scores in zip(block, self.scores(block), strict=True):
                answers.append(self._best(request, scores, n))
        return answers

    def _best(self, request: Request, scores: np.ndarray, n: int) -> Ranked:
        voted = np.flatnonzero(scores > 0)
        voted = voted[request.available(voted)]
        best = voted[np.lexsort((self._place[voted], -scores[voted]))[:n]]
        if len(best) < n:
            rest = self._order[(scores[self._order] <= 0) & request.available(self._order)]
            best = np.concatenate([best, rest[: n - len(best)]])
        return Ranked(best, scores[best])


def choose_item_knn(
    config: ItemKnnConfig,
    users: np.ndarray,
    items: np.ndarray,
    fallback: np.ndarray,
    hit_rate: Callable[[ItemKnn], float],
    weights: np.ndarray | None = None,
) -> dict[str, Any]:
    """The half-life and the shrinkage with the best validation `hit_rate`, and the rate of every pair,
    ready for JSON.
    """
    rates: list[dict[str, Any]] = []
    for shrink in config.shrinks:
        similar = similarities(users, items, len(fallback), shrink, config.neighbours, weights)
        rates += [
            {"half_life_items": half_life, "shrink_users": shrink,
             "hit_rate": hit_rate(ItemKnn(similar, half_life, config.last_items, fallback))}
            for half_life in config.half_lives
        ]  # fmt: skip
    best = max(rates, key=lambda row: row["hit_rate"])
    return {key: best[key] for key in ("half_life_items", "shrink_users")} | {"validation_hit_rates": rates}

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
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys.embeddings.config import ItemKnnConfig
from recsys.embeddings.lightgcn import strongest_of_pairs
from recsys.embeddings.retrieval import hits_of_scores, hits_of_sparse_scores, rows_at_once
from recsys.embeddings.user_vectors import recency_weights
from recsys.recommender import Ranked, Request

if TYPE_CHECKING:
    from scipy import sparse

PRODUCTS = 1 << 23  # of a block of co-occurrence, which bounds its entries: with similarities 250 MB
REQUESTS = 1024  # scored at once at most


class CoOccurrence:
    """c [N, N] of the edges (users[e], items[e]), each distinct edge once, in blocks of rows that are never kept.

    `weights` [E], all above 0, weigh the edges; None: all count as one. A pass over all rows takes Σ_u |items of u|² products.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, n_items: int, weights: np.ndarray | None = None):
        from scipy import sparse

        pairs, strengths = strongest_of_pairs(users, items, weights)
        shape = (int(pairs[0].max(initial=-1)) + 1, n_items)
        ones = np.ones(pairs.shape[1], np.float32)
        seen = sparse.csr_array((ones, (pairs[0], pairs[1])), shape=shape)
        self._by_item = seen.T.tocsr()
        self._taken = (
            seen if strengths is None else sparse.csr_array((strengths, (pairs[0], pairs[1])), shape=shape)
        )
        self._roots = np.sqrt(np.bincount(pairs[1], minlength=n_items))
        self._work = self._by_item @ np.diff(seen.indptr).astype(np.float64)  # products of each row

    def similar(
        self, shrinks: Sequence[float], neighbours: int, rows: np.ndarray | None = None
    ) -> list[sparse.csr_array]:
        """sim [N, N] for each of `shrinks`, a row its `neighbours` largest, from one pass over c.

        Only of `rows`, distinct and rising, where given: the others are empty. Ties go to the lower item; no item is its own
        neighbour.
        """
        n = len(self._roots)
        wanted = np.arange(n) if rows is None else rows
        parts: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in shrinks]
        lengths = np.zeros(
            (len(shrinks), n), np.int64
        )  # of rows; who keeps pairs by the million keeps no row beside each
        for block in self._blocks(wanted):
            together = (self._by_item[block] @ self._taken).tocsr()
            together.sort_indices()
            row, column = np.repeat(block, np.diff(together.indptr)), together.indices
            other = row != column
            row, column, counts = row[other], column[other], together.data[other]
            roots = self._roots[row] * self._roots[column]
            for part, length, shrink in zip(parts, lengths, shrinks, strict=True):
                values = counts / (roots + shrink)
                kept = _largest_of_rows(row, values, neighbours)
                part.append((column[kept], values[kept].astype(np.float32)))
                length[block] = np.bincount(np.searchsorted(block, row[kept]), minlength=len(block))
        return [_csr(part, length) for part, length in zip(parts, lengths, strict=True)]

    def _blocks(self, rows: np.ndarray) -> list[np.ndarray]:
        """`rows` cut such that a block takes `PRODUCTS` at most, where one row does not take more alone."""
        ends, cuts, done = np.cumsum(self._work[rows]), [0], 0.0
        while cuts[-1] < len(rows):
            cuts.append(max(cuts[-1] + 1, int(np.searchsorted(ends, done + PRODUCTS, side="right"))))
            done = ends[cuts[-1] - 1]
        return [rows[start:end] for start, end in pairwise(cuts)]


def _largest_of_rows(row: np.ndarray, values: np.ndarray, most: int) -> np.ndarray:
    """Which entries of rows that lie one after the other are among their row's `most` largest, ties to the earlier: bool."""
    kept = np.ones(len(row), bool)
    starts = np.flatnonzero(np.r_[True, row[1:] != row[:-1]]) if len(row) else np.zeros(0, np.int64)
    ends = np.r_[starts[1:], len(row)]
    for at in np.flatnonzero(ends - starts > most):
        own = slice(starts[at], ends[at])
        least = np.partition(values[own], -most)[-most]
        above, equal = values[own] > least, np.flatnonzero(values[own] == least)
        above[equal[: most - int(above.sum())]] = True
        kept[own] = above
    return kept


def _csr(parts: list[tuple[np.ndarray, np.ndarray]], lengths: np.ndarray) -> sparse.csr_array:
    """[N, N] of (columns, values) of some rows after the others, which are used up; `lengths` [N] of the rows."""
    from scipy import sparse

    bounds = np.concatenate([[0], np.cumsum(lengths)])
    column, values = np.empty(bounds[-1], np.int32), np.empty(bounds[-1], np.float32)
    at = 0
    while parts:
        some, their = parts.pop(0)
        column[at : at + len(some)], values[at : at + len(some)] = some, their
        at += len(some)
    return sparse.csr_array((values, column, bounds), shape=(len(lengths), len(lengths)))


def similarities(
    users: np.ndarray,
    items: np.ndarray,
    n_items: int,
    shrink: float,
    neighbours: int,
    weights: np.ndarray | None = None,
) -> sparse.csr_array:
    """sim [N, N] of the edges (users[e], items[e]); see `CoOccurrence`."""
    return CoOccurrence(users, items, n_items, weights).similar([shrink], neighbours)[0]


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
        return self.sparse_scores(requests).toarray()

    def sparse_scores(self, requests: Sequence[Request]) -> sparse.csr_array:
        """The same without the zeros [R, N]: an entry for each neighbour of an item in the history."""
        from scipy import sparse

        latest = self.read(requests)
        lengths = np.fromiter(map(len, latest), np.int64, len(latest))
        items = np.concatenate([*latest, np.zeros(0, np.int64)]).astype(np.int64)
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        weights = recency_weights(lengths, self.half_life)
        votes = sparse.csr_array((weights, items, bounds), shape=(len(requests), self.similar.shape[0]))
        return (votes @ self.similar).tocsr()

    def hits(self, requests: Sequence[Request], targets: np.ndarray, k: int) -> np.ndarray:
        """Whether each target is among the k highest, ties against it: `hits_of_scores` [R], in bounded memory."""
        n = self.similar.shape[0]
        found, rows = [np.zeros(0, bool)], rows_at_once(n, REQUESTS)
        for at in range(0, len(requests), rows):
            some, own = requests[at : at + rows], targets[at : at + rows]
            if any(request.allow is not None for request in some):
                found.append(hits_of_scores(self.scores(some), some, own, k))
            else:
                found.append(hits_of_sparse_scores(self.sparse_scores(some), some, own, k))
        return np.concatenate(found)

    def read(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """The items of each history that vote, oldest first."""
        return [request.history[-self.last_items :] for request in requests]

    def recommend(
        self, requests: Sequence[Request], n: int, temperature: float = 0.0, seed: int = 0
    ) -> list[Ranked]:
        answers = []
        for start in range(0, len(requests), REQUESTS):
            block = requests[start : start + REQUESTS]
            scores = self.sparse_scores(block)
            for row, request in enumerate(block):
                own = slice(scores.indptr[row], scores.indptr[row + 1])
                answers.append(self._best(request, scores.indices[own], scores.data[own], n))
        return answers

    def _best(self, request: Request, items: np.ndarray, scores: np.ndarray, n: int) -> Ranked:
        """The best of `items` [v] by their `scores`, all others having none."""
        some = scores > 0
        items, scores = items[some].astype(np.int64), scores[some]
        here = request.available(items)
        voted, scores_of = items[here], scores[here]
        order = np.lexsort((self._place[voted], -scores_of))[:n]
        best, values = voted[order], scores_of[order]
        if len(best) < n:
            # enough of the popular ones that those voted for or excluded among them do not matter
            enough = n + len(items) + len(request.exclude) if request.allow is None else len(self._order)
            popular = self._order[:enough]
            rest = popular[request.available(popular) & ~np.isin(popular, items)][: n - len(best)]
            best = np.concatenate([best, rest])
            values = np.concatenate([values, np.zeros(len(rest), np.float32)])
        return Ranked(best, values)


def choose_item_knn(
    config: ItemKnnConfig,
    users: np.ndarray,
    items: np.ndarray,
    fallback: np.ndarray,
    hit_rate: Callable[[ItemKnn], float],
    weights: np.ndarray | None = None,
    rows: np.ndarray | None = None,
) -> dict[str, Any]:
    """The half-life and the shrinkage with the best validation `hit_rate`, and the rate of every pair,
    ready for JSON. `rows`: the items that the measure's histories hold, where similarities of others need not be made.
    """
    counted = CoOccurrence(users, items, len(fallback), weights)
    rates: list[dict[str, Any]] = []
    for shrink, similar in zip(
        config.shrinks, counted.similar(config.shrinks, config.neighbours, rows), strict=True
    ):
        rates += [
            {"half_life_items": half_life, "shrink_users": shrink,
             "hit_rate": hit_rate(ItemKnn(similar, half_life, config.last_items, fallback))}
            for half_life in config.half_lives
        ]  # fmt: skip
    best = max(rates, key=lambda row: row["hit_rate"])
    return {key: best[key] for key in ("half_life_items", "shrink_users")} | {"validation_hit_rates": rates}

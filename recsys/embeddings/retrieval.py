"""Embedding retrieval: the items whose vectors lie nearest to the user's, by FAISS.
The non-generative baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from recsys.embeddings.config import IndexKind
from recsys.embeddings.user_vectors import UserVectors
from recsys.recommender import Ranked, Request

if TYPE_CHECKING:
    from scipy import sparse

EXACT_UP_TO = 1_000_000  # items; "auto" searches exactly below this
ENTRIES = 1 << 26  # of scores or of found items at once, requests × items: 256 MB


def build_index(vectors: np.ndarray, kind: IndexKind = "auto", seed: int = 0) -> faiss.Index:
    """Inner-product index over item vectors [N, d]:
    exact ("flat"), a graph ("hnsw") or inverted lists ("ivf").

    "auto" is exact up to a million items, then HNSW. IVF uses 4·sqrt(N) lists and probes a sixteenth of them.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    n, dim = vectors.shape
    if kind == "auto":
        kind = "flat" if n <= EXACT_UP_TO else "hnsw"
    if kind == "flat":
        index: Any = faiss.IndexFlatIP(dim)
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = 200, 256
    else:
        lists = max(1, min(n // 39, int(4 * n**0.5)))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = seed
        index.nprobe = max(1, lists // 16)
        index.train(vectors)
    index.add(vectors)
    return index


class EmbeddingRetrieval:
    """`Recommender` over user vectors and item vectors [N, d] of one space;
    deterministic, so `temperature` is unused.

    A request without a known vector gets the items in the order of `fallback` [N] (popularity counts), which
    is the stated cold-start path.
    """

    name = "Embedding Retrieval"
    draws = False

    def __init__(self, users: UserVectors, items: np.ndarray, fallback: np.ndarray, kind: IndexKind = "auto"):
        if users.dim != items.shape[1]:
            raise ValueError(f"user vectors have {users.dim} dimensions and item vectors {items.shape[1]}")
        self.users, self.items = users, np.ascontiguousarray(items, dtype=np.float32)
        self.index = build_index(self.items, kind)
        self.fallback = np.argsort(-np.asarray(fallback, dtype=np.float64), kind="stable")

    def scores(self, requests: Sequence[Request]) -> np.ndarray:
        """Inner products [R, N]; zeros where the user is unknown."""
        return self.users.vectors(requests)[0] @ self.items.T

    def recommend(
        self, requests: Sequence[Request], n: int, temperature: float = 0.0, seed: int = 0
    ) -> list[Ranked]:
        longest = max((len(request.exclude) for request in requests), default=0)
        size = rows_at_once(min(n + longest, len(self.items)), len(requests))
        starts = range(0, len(requests), max(1, size))
        return [one for start in starts for one in self._recommend(requests[start : start + size], n)]

    def _recommend(self, requests: Sequence[Request], n: int) -> list[Ranked]:
        vectors, known = self.users.vectors(requests)
        longest = max(len(request.exclude) for request in requests)
        scores, found = self.index.search(vectors, min(n + longest, len(self.items)))
        answers = []
        for row, request in enumerate(requests):
            if request.allow is not None and known[row]:
                answers.append(self._best_of(request, vectors[row], n))
                continue
            items = found[row] if known[row] else self._popular(request, n)
            values = scores[row] if known[row] else np.zeros(len(items), np.float32)
            allowed = (items >= 0) & request.available(items)
            answers.append(Ranked(items[allowed][:n].astype(np.int64), values[allowed][:n]))
        return answers

    def _popular(self, request: Request, n: int) -> np.ndarray:
        """As many of the fallback's first items as hold `n` that are available; all of it beside an allow-list."""
        return self.fallback if request.allow is not None else self.fallback[: n + len(request.exclude)]

    def _best_of(self, request: Request, vector: np.ndarray, n: int) -> Ranked:
        """The best of an allow-list, which the index cannot search within, exactly."""
        assert request.allow is not None
        items = np.unique(request.allow).astype(np.int64)
        items = items[request.available(items)]
        scores = self.items[items] @ vector
        best = np.argsort(-scores, kind="stable")[:n]
        return Ranked(items[best], scores[best])


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """`rows` [N, d] at unit length (float32); what has no length stays zero."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows, dtype=np.float32), where=norms > 1e-12)


def rows_at_once(width: int, most: int) -> int:
    """How many rows of `width` entries are in memory at once: `ENTRIES` in all, at least one and at most `most`."""
    return min(most, max(1, ENTRIES // max(1, width)))


def retrieval_hits(
    vectors: np.ndarray,
    items: np.ndarray,
    requests: Sequence[Request],
    targets: np.ndarray,
    k: int,
    chunk: int | None = None,
) -> np.ndarray:
    """Whether each target is among the k highest inner products, items that are not available left out:
    bool [R].

    `vectors` [R, d], `items` [N, d]. Ties count against the target; a zero user vector is a miss. `chunk` requests at once; default:
    1,024, fewer where their scores would take more than 256 MiB.
    """
    chunk = rows_at_once(len(items), chunk or 1024)
    hits = np.zeros(len(requests), bool)
    for start in range(0, len(requests), chunk):
        rows = slice(start, start + chunk)
        found = hits_of_scores(vectors[rows] @ items.T, requests[rows], targets[rows], k)
        hits[rows] = found & (np.abs(vectors[rows]).sum(1) > 0)
    return hits


def hits_of_scores(
    scores: np.ndarray, requests: Sequence[Request], targets: np.ndarray, k: int
) -> np.ndarray:
    """Whether each target is among the k highest of its row of `scores` [R, N], which is used up: bool [R].

    Items that are not available are left out; ties count against the target.
    """
    every = np.arange(scores.shape[1])
    for row, request in enumerate(requests):
        scores[row, request.exclude if request.allow is None else ~request.available(every)] = -np.inf
    own = np.take_along_axis(scores, targets[:, None], 1)
    return (~(scores < own)).sum(1) <= k  # what is not a number counts against the target


def hits_of_sparse_scores(
    scores: sparse.csr_array, requests: Sequence[Request], targets: np.ndarray, k: int
) -> np.ndarray:
    """The same of scores ≥ 0 that are mostly zero [R, N], for requests without an allow-list, and never dense: bool [R]."""
    n, every = scores.shape[1], np.arange(len(requests))
    counts = np.fromiter((len(request.exclude) for request in requests), np.int64, len(requests))
    excluded = np.concatenate([*(request.exclude for request in requests), np.zeros(0, np.int64)])
    # an entry as one number: its row, then its item
    barred = np.unique(np.repeat(every, counts) * n + excluded.astype(np.int64))
    of, item = np.divmod(barred, n)
    own, barred_scores = np.asarray(scores[every, targets]), np.asarray(scores[of, item])
    row = np.repeat(every, np.diff(scores.indptr))
    above = np.bincount(row[scores.data >= own[row]], minlength=len(every))
    above -= np.bincount(of[barred_scores >= own[of]], minlength=len(every))
    left = n - np.bincount(of, minlength=len(every))  # all of them score 0 or more
    rank = np.where(own > 0, above, left)
    return np.where(np.isin(every * n + targets, barred), n, rank) <= k

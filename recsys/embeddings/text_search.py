"""Text retrieval: the items whose words (BM25), or whose sentence vectors, fit a query best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from recsys.data.phrases import Phrases
from recsys.recommender import Ranked, Request


class TextSearch:
    """What both have in common: `scores` [R, N] of the queries, items of one score by popularity (`counts` [N]); requests without
    a query, or with one of whose words nothing is known, are answered by popularity alone.
    """

    name = "Text Search"
    draws = False

    def __init__(self, counts: np.ndarray):
        popular = np.log1p(np.asarray(counts, float))
        self._popular = popular / max(float(popular.max(initial=0)), 1.0)  # [N] in [0, 1]
        self._place = np.empty(
            len(popular), np.int64
        )  # [N]: of each item by popularity, the lower integer first
        self._place[np.argsort(-self._popular, kind="stable")] = np.arange(len(popular))

    def of_query(self, query: str) -> np.ndarray:
        """Scores [N] of one query; all 0 where it says nothing."""
        raise NotImplementedError

    def scores(self, requests: Sequence[Request]) -> np.ndarray:
        """[R, N] (float32); zeros without a query."""
        found = np.zeros((len(requests), len(self._popular)), np.float32)
        for row, request in enumerate(requests):
            if request.query:
                found[row] = self.of_query(" ".join(request.query.split()))
        return found

    def recommend(
        self, requests: Sequence[Request], n: int, temperature: float = 0.0, seed: int = 0
    ) -> list[Ranked]:
        """The best n; deterministic, so `temperature` is unused."""
        return [self._best(request, n) for request in requests]

    def _best(self, request: Request, n: int) -> Ranked:
        scores = self.scores([request])[0]  # of one: those of all requests would be users × items
        if request.allow is None:
            some = self._first(scores, n + len(request.exclude))
        else:
            some = np.unique(request.allow).astype(np.int64)
            some = some[(some >= 0) & (some < len(scores))]
        order = some[np.lexsort((self._place[some], -scores[some]))]
        items = order[request.available(order)][:n]
        return Ranked(items, scores[items])

    def _first(self, scores: np.ndarray, k: int) -> np.ndarray:
        """The k best items in any order, without sorting all."""
        if k >= len(scores):
            return np.arange(len(scores))
        least = np.partition(scores, -k)[-k]
        above, equal = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
        first = np.argpartition(self._place[equal], k - len(above) - 1)[: k - len(above)]
        return np.concatenate([above, equal[first]])


class WordSearch(TextSearch):
    """BM25 (Robertson & Zaragoza 2009, by `bm25s`) over titles, column values, and the queries that led to an item and may be
    trained on (`recsys.data.phrases`).
    """

    name = "BM25"

    def __init__(self, phrases: Phrases, counts: np.ndarray):
        import bm25s

        super().__init__(counts)
        titles = phrases.dataset.catalogue.titles
        texts = [" ".join([title, *own]) for title, own in zip(titles, phrases.of, strict=True)]
        self._index = bm25s.BM25()
        self._index.index(_words(texts), show_progress=False)

    def of_query(self, query: str) -> np.ndarray:
        terms = [word for word in _words([query])[0] if word in self._index.vocab_dict]
        return self._index.get_scores(terms) if terms else np.zeros(len(self._popular), np.float32)


class DenseSearch(TextSearch):
    """Cosine of the query's sentence vector to those of the items' texts [N, e]."""

    name = "Dense Text Retrieval"

    def __init__(self, vectors: np.ndarray, encode: Callable[[list[str]], np.ndarray], counts: np.ndarray):
        super().__init__(counts)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        self._vectors = vectors / norms.clip(min=1e-12)
        self._encoded = lru_cache(maxsize=1024)(lambda query: encode([query])[0])

    def of_query(self, query: str) -> np.ndarray:
        return self._vectors @ self._encoded(query)


def _words(texts: Sequence[str]) -> list[list[str]]:
    import bm25s

    return bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)

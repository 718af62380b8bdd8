"""Popularity and recency: they answer the same call as every method, and rank the same for everyone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys.recommender import Ranked, Request


class FixedOrder:
    """The same catalogue order for everyone, minus each request's exclusions. Reads nothing of the user."""

    draws = False

    def __init__(self, name: str, item_scores: np.ndarray):
        """`item_scores` [N]: one number per catalogue item; ties go to the lower item integer."""
        item_scores = np.asarray(item_scores, dtype=float)
        if item_scores.ndim != 1 or not len(item_scores) or not np.isfinite(item_scores).all():
            raise ValueError(
                f"{name} needs one finite score per catalogue item, got shape {item_scores.shape}"
            )
        self.name = name
        self._scores = item_scores
        self._order = np.argsort(-item_scores, kind="stable")

    def recommend(
        self, requests: Sequence[Request], n: int, temperature: float = 0.0, seed: int = 0
    ) -> list[Ranked]:
        """The best n allowed items of the fixed order; `temperature` and `seed` are ignored (`draws` is
        False).
        """
        return [self._best(request, n) for request in requests]

    def scores(self, requests: Sequence[Request]) -> np.ndarray:
        return np.broadcast_to(self._scores, (len(requests), len(self._scores)))

    def _best(self, request: Request, n: int) -> Ranked:
        head = self._order[: n + len(request.exclude)] if request.allow is None else self._order
        items = head[request.available(head)][:n]
        return Ranked(items, self._scores[items])


class Popularity(FixedOrder):
    """Most listened-to first. `counts` [N] are events per item in the training window only, as of its end.

    Its scores are log(1 + count), so that a softmax over them at T0 = 1 draws items in proportion to count +
    1.
    """

    def __init__(self, counts: np.ndarray, name: str = "Popularity"):
        counts = np.asarray(counts, dtype=float)
        if (counts < 0).any():
            raise ValueError("Popularity: a count is negative")
        super().__init__(name, np.log1p(counts))


class Recency(FixedOrder):
    """The items that anyone touched last in the training window, most recent first; items never touched come
    last.

    `items` [E] and `times` [E] (unix seconds) are the training events; a tie in time goes to the later row.
    An item's score is minus its place in the order.
    """

    def __init__(self, items: np.ndarray, times: np.ndarray, n_items: int, name: str = "Recency"):
        items, times = np.asarray(items), np.asarray(times)
        if items.shape != times.shape or (items.size and not 0 <= items.min() <= items.max() < n_items):
            raise ValueError(f"Recency needs one time per event and items in 0..{n_items - 1}")
        last = np.full(n_items, -1)
        # the last write of an item wins
        last[items[np.argsort(times, kind="stable")]] = np.arange(len(items))
        place = np.empty(n_items)
        place[np.argsort(-last, kind="stable")] = np.arange(n_items)
        super().__init__(name, -place)

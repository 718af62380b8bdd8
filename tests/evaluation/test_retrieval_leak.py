"""The check of retrieval leaks on hit-rates of vectors that hold the edge they are asked for."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.metrics import hits
from recsys.embeddings.leaks import (
    LeakError,
    check_retrieval_leak,
)


def test_retrieval_leak_of_co_occurrence_vectors_that_hold_the_edge():
    """Item vectors from a graph that holds the edge being predicted carry the target; others do not."""
    rng = np.random.default_rng(10)
    tastes = rng.integers(0, 4, 120)
    events = np.stack(
        [rng.permutation(np.arange(25) + 25 * taste)[:8] for taste in tastes]
    )  # 120 users × 8 items
    target = events[:, 7]

    def hit_rates(history: np.ndarray, known: np.ndarray) -> np.ndarray:
        seen = np.zeros((120, 100))
        np.put_along_axis(seen, known, 1.0, axis=1)
        to_item = seen.T @ seen  # co-occurrence counts of each pair, the user's own events among them
        np.fill_diagonal(to_item, 0)
        scores = np.stack([to_item[row].sum(axis=0) for row in history])
        np.put_along_axis(scores, history, -np.inf, axis=1)
        return hits(np.argsort(-scores, axis=1, kind="stable")[:, :5], target)

    honest = hit_rates(events[:, :7], events[:, :7])
    leaking = hit_rates(events[:, :7], events)
    check_retrieval_leak(honest, honest)
    with pytest.raises(LeakError):
        check_retrieval_leak(leaking, honest)

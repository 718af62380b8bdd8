"""Chunks of a stream by hand, the budget of steps, and vectors as of a moment."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from llm.methods.user_states import OnlineConfig, steps_of
from llm.streams.chunks import FOREVER, AsOf, chunks_of, last_of_each_user, starts_of
from recsys.data.dataset import Dataset
from recsys.data.splits import FIT, PERSONALIZE, TEST, VALIDATION
from recsys.embeddings.user_vectors import HistoryVectors
from recsys.recommender import Request


def test_the_budget_is_in_steps():
    config = OnlineConfig(passes=3, batch=8, max_steps=10)
    assert [steps_of(n, config) for n in (1, 8, 9, 1000)] == [3, 3, 6, 10]


# -- the stream and the experiment ------------------------------------------------------------------------------


def _dataset(users, times, roles=None) -> Dataset:
    from recsys.data.catalogue import Catalogue

    n = len(users)
    catalogue = Catalogue(np.array(["a", "b"], object), ["a", "b"], {})
    queries = pd.DataFrame({"user": [], "item": [], "timestamp": [], "query": []})
    return Dataset(np.array([f"u{u}" for u in range(max(users) + 1)], object), catalogue, np.array(users),
                   np.arange(n) % 2, np.array(times), np.ones(n, np.float32),
                   np.full(n, TEST, np.int8) if roles is None else np.array(roles, np.int8), queries)  # fmt: skip


def test_chunks_by_hand_and_ties_stay_together():
    """User 0: FIT, then 7 events, 4 of them (⌈3.5⌉) bootstrap; the fifth is of the fourth's second and goes with it."""
    data = _dataset(
        [0] * 8 + [1] * 2,
        [1, 2, 3, 4, 5, 5, 6, 7, 1, 2],
        [FIT, *[PERSONALIZE] * 3, *[VALIDATION] * 2, *[TEST] * 4],
    )
    events, part = chunks_of(data, (PERSONALIZE, VALIDATION, TEST), 3, before=0.5)
    assert events.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert part.tolist() == [0, 0, 0, 0, 0, 2, 3, 0, 1]
    assert starts_of(data, events[part > 0]).tolist() == [6, 2]
    assert starts_of(data, events[:0]).tolist() == [FOREVER] * 2
    assert last_of_each_user(data, events[part == 0]).tolist() == [5]  # user 1 has a single one


def test_vectors_as_of_a_moment_hold_nothing_later():
    vectors = HistoryVectors(np.eye(2, dtype=np.float32), None, "s")
    request = Request("r", 0, 9, np.array([0, 1]), np.array([3, 7]))
    stale = AsOf(vectors, np.array([7]))
    assert stale.vectors([request])[0].tolist() == [[1.0, 0.0]]
    assert stale.vectors([replace(request, time=5, history=request.history[:1], history_times=request.history_times[:1])])[0].tolist() == [[1.0, 0.0]]  # fmt: skip
    assert not stale.vectors([replace(request, user=0, history=request.history[1:], history_times=request.history_times[1:])])[1].any()  # fmt: skip

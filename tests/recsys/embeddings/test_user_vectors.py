"""Point-in-time user vectors: the fade by hand, the join of brought embeddings, and the planted answer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recsys.door.tables import DataError
from recsys.door.vectors import read_vectors
from recsys.embeddings.leaks import LeakError, check_planted_answer
from recsys.embeddings.user_vectors import (
    BroughtVectors,
    HistoryVectors,
    partners_of_other_users,
    recency_weights,
)
from recsys.recommender import Request
from recsys.seeds import rng


def test_recency_weights_by_hand():
    np.testing.assert_allclose(recency_weights(np.array([4]), None), [0.5] * 4)
    fade = np.array([0.25, 0.5, 1.0])  # half-life of one item
    np.testing.assert_allclose(
        recency_weights(np.array([0, 3, 0, 1]), 1), [*(fade / np.sqrt((fade**2).sum())), 1.0], rtol=1e-6
    )


def test_history_vectors_equal_a_plain_loop():
    generator = np.random.default_rng(0)
    messages = generator.normal(size=(9, 4)).astype(np.float32)
    histories = [generator.integers(0, 9, n) for n in (0, 1, 5, 12)]
    ours, known = HistoryVectors(messages, 3.0, "x").of_histories(histories, chunk=2)
    assert known.tolist() == [False, True, True, True]
    for row, history in enumerate(histories[1:], 1):
        total = np.zeros(4)
        for age, item in enumerate(history[::-1]):
            total += 0.5 ** (age / 3.0) * messages[item]
        np.testing.assert_allclose(ours[row], total / np.linalg.norm(total), rtol=1e-4, atol=1e-6)


def planted_events():
    from recsys.embeddings.leaks import Events

    generator = np.random.default_rng(3)
    return Events(generator.integers(0, 4, 80), generator.integers(0, 10, 80), generator.integers(0, 30, 80))


def builder(strict: bool):
    messages = np.random.default_rng(1).normal(size=(10, 4)).astype(np.float32)

    def build(events):
        mine = events.users == 2
        order = np.argsort(events.times[mine], kind="stable")
        times, items = events.times[mine][order], events.items[mine][order]
        end = np.searchsorted(times, 15, side="left" if strict else "right")
        vectors, _ = HistoryVectors(messages, 5.0, "x").of_histories([items[:end]])
        return {"vector": vectors, "recent": items[:end][-5:]}

    return build


def test_the_planted_answer_is_not_seen_and_would_be_if_the_history_were_not_strict():
    events = planted_events()
    assert ((events.users == 2) & (events.times == 15)).any()
    check_planted_answer(builder(strict=True), events, user=2, time=15, target=7)
    with pytest.raises(LeakError):
        check_planted_answer(builder(strict=False), events, user=2, time=15, target=7)


def test_brought_vectors_join_backward_and_strictly_earlier():
    users, times = np.array([0, 0, 1, 0]), np.array([10, 20, 15, 30])
    brought = BroughtVectors(users, times, np.array([[1.0], [2.0], [9.0], [3.0]]), "v1")

    def at(user, time):
        vectors, known = brought.vectors([Request("r", user, time)])
        return vectors[0, 0] if known[0] else None

    assert [at(0, 10), at(0, 11), at(0, 20), at(0, 21), at(0, 99)] == [None, 1.0, 1.0, 2.0, 3.0]
    assert [at(1, 15), at(1, 16), at(2, 99), at(None, 99)] == [None, 9.0, None, None]


def test_a_future_brought_vector_changes_nothing():
    users, times = np.array([0, 0]), np.array([10, 20])
    honest = BroughtVectors(users, times, np.array([[1.0], [2.0]]), "v")
    planted = BroughtVectors(
        np.append(users, 0), np.append(times, 25), np.array([[1.0], [2.0], [777.0]]), "v"
    )
    request = [Request("r", 0, 25)]
    np.testing.assert_array_equal(honest.vectors(request)[0], planted.vectors(request)[0])


def test_partners_are_a_permutation_without_own_users():
    users = np.repeat(np.arange(6), [1, 5, 3, 2, 4, 5])
    for seed in range(20):
        partner = partners_of_other_users(users, rng(seed, "p"))
        assert sorted(partner.tolist()) == list(range(len(users)))
        assert (users[partner] != users).all()
    most = np.array([0, 0, 0, 1])
    assert (most[partners_of_other_users(most, rng(0))] != most).all()
    with pytest.raises(ValueError, match="at least two users"):
        partners_of_other_users(np.array([3, 3]), rng(0))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"user_id": ["a"], "vector": [[1.0]]}, "no column 'timestamp'"),
        ({"user_id": ["a", "b"], "timestamp": [1, 2], "vector": [[1.0, 2.0], [1.0]]}, "row 2"),
        ({"user_id": ["a"], "timestamp": [1], "vector": [[float("nan")]]}, "not finite"),
        ({"user_id": ["a"], "timestamp": ["1.5x"], "vector": [[1.0]]}, "whole seconds"),
        ({"user_id": ["z"], "timestamp": [1], "vector": [[1.0]]}, "no user_id in it is known"),
    ],
)
def test_bad_embedding_files_are_refused_by_place(tmp_path, frame, message):
    path = tmp_path / "u.parquet"
    pd.DataFrame(frame).to_parquet(path)
    with pytest.raises(DataError, match=message):
        read_vectors(path, "user_id", {"a": 0, "b": 1})

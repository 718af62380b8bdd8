"""The leak checks, each with the leak put back."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from recsys.embeddings.leaks import (
    Events,
    LeakError,
    check_no_overlap,
    check_planted_answer,
    check_retrieval_leak,
)
from recsys.embeddings.summary import print_summary


def test_overlap_is_refused_with_an_example():
    check_no_overlap(np.array([[1, 2, 10]]), np.array([[1, 2, 11]]))
    with pytest.raises(LeakError, match=r"share 1 instances, the first is \(1, 2, 10\)"):
        check_no_overlap(np.array([[1, 2, 10], [3, 4, 5]]), np.array([[1, 2, 10]]))
    with pytest.raises(LeakError, match="share 1 users"):
        check_no_overlap(np.array(["u1", "u2"]), np.array(["u2"]), what="users")


def test_retrieval_leak_is_found_and_honest_vectors_pass():
    rng = np.random.default_rng(9)
    validation = rng.binomial(1, 0.15, 600).astype(float)
    honest = rng.binomial(10, 0.17, 600) / 10
    leaking = rng.binomial(10, 0.45, 600) / 10
    found = check_retrieval_leak(honest, validation)
    assert found.lower_bound < found.margin
    with pytest.raises(LeakError, match=r"0\.4\d+ of the training .* 0\.1\d+ of the validation .*cross-fit"):
        check_retrieval_leak(leaking, validation)


def test_a_summary_says_when_one_user_decides_nothing(capsys):
    found = asdict(check_retrieval_leak(np.array([1.0]), np.array([0.0])))
    print_summary({"hit_rate_k": 30, "item_knn": None, "leak_check": found})
    assert "leak check not possible: fewer than two users" in capsys.readouterr().out


def test_retrieval_leak_decides_nothing_with_one_user():
    assert check_retrieval_leak(np.array([1.0]), np.array([0.0])).lower_bound is None
    with pytest.raises(ValueError, match=r"hit-rate in 0\.\.1"):
        check_retrieval_leak(np.array([2.0, 1.0]), np.array([0.0, 0.0]))


EVENTS = Events(
    users=np.array([0, 0, 0, 0, 1, 1]),
    items=np.array([5, 6, 7, 8, 5, 9]),
    times=np.array([10, 20, 30, 40, 15, 35]),
)


def _inputs(strict: bool):
    def build(events):
        earlier = events.times < 30 if strict else events.times <= 30
        mine = earlier & (events.users == 0)
        order = np.argsort(events.times[mine], kind="stable")
        counts = np.bincount(events.items[earlier], minlength=10)
        return {"history": events.items[mine][order], "counts": counts}

    return build


def test_planted_answer_passes_honest_inputs_and_names_the_leaking_one():
    check_planted_answer(_inputs(strict=True), EVENTS, user=0, time=30, target=7)
    with pytest.raises(LeakError, match="'history'"):
        check_planted_answer(_inputs(strict=False), EVENTS, user=0, time=30, target=3)


def test_planted_answer_finds_end_of_crawl_totals():
    def build(events):
        return {"popularity": np.bincount(events.items, minlength=10)}

    with pytest.raises(LeakError, match="'popularity'"):
        check_planted_answer(build, EVENTS, user=0, time=30, target=7)


def test_planted_answer_that_can_see_nothing_is_refused():
    with pytest.raises(ValueError, match="proves nothing"):
        check_planted_answer(lambda events: {"x": np.zeros(1)}, EVENTS, user=0, time=30, target=7)

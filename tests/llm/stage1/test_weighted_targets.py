"""What Stage 1 and Stage 2 learn from, by weight: drawn frequencies and losses are in proportion."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llm.methods.per_user.training import Diaries, Lessons
from llm.methods.stage2 import Instances, batch_rows
from llm.stage1.adapt import window_loss
from llm.stage1.windows import Shares, Window, WindowBatches, WindowBuilder, windows_of_epoch
from llm.stage1.words import Words
from recsys.data.phrases import Phrases
from recsys.data.splits import FIT, PERSONALIZE
from recsys.embeddings.user_vectors import HistoryVectors
from recsys.seeds import torch_generator
from tests.support.prompts import N, builder, dataset


def weighed(spread: float = 1.5):
    """The world of prompts, each event with a weight of its own."""
    data = dataset()
    weights = np.exp(np.random.default_rng(4).normal(size=len(data.users)) * spread).astype(np.float32)
    return replace(data, weights=weights)


# -- Stage 1 ----------------------------------------------------------------------------------------------------------


def mean_total(data, shares: Shares, epochs: int) -> np.ndarray:
    """What each event's loss counts in an epoch, on average [E]."""
    windows, total = WindowBuilder(data, builder(), shares, seed=0), np.zeros(len(data.users))
    for epoch in range(epochs):
        for events in windows_of_epoch(data, FIT, 4, seed=1, epoch=epoch):
            made = windows.window(events, epoch)
            np.add.at(
                total,
                events[-len(made.items) :],
                np.ones(len(made.items)) if made.weights is None else made.weights,
            )
    return total / epochs


def test_a_targets_share_of_a_windows_losses_is_in_proportion_to_its_weight():
    data = weighed()
    plain = mean_total(
        dataset(), Shares(0.0, 0.0, 0.0), 300
    )  # ties are drawn: a tied event counts for a part
    found = mean_total(data, Shares(0.0, 0.0, 0.0), 1500)
    fit = data.events(FIT)
    expected = data.weights[fit] * plain[fit]
    np.testing.assert_allclose(found[fit] / found[fit].sum(), expected / expected.sum(), rtol=0.25, atol=2e-4)
    np.testing.assert_allclose(np.corrcoef(found[fit] / plain[fit], data.weights[fit])[0, 1], 1, atol=0.005)
    assert (found[data.roles != FIT] == 0).all()


def test_a_window_whose_last_item_is_its_only_target_weighs_it_as_its_event():
    data = weighed()
    windows = WindowBuilder(data, builder(), Shares(0.0, 1.0, 0.0), seed=0)
    seen = 0
    for events in windows_of_epoch(data, FIT, 4, seed=1, epoch=0):
        made = windows.window(events, 0)
        assert made.weights is not None
        own = data.weights[events].astype(float)
        np.testing.assert_allclose(made.weights, (own / own.mean())[-len(made.items) :], rtol=1e-6)
        seen += len(made.items) == 1 < len(events)
    assert seen > 10


def test_a_heavy_users_windows_come_as_often_as_they_weigh():
    data = dataset()
    data = replace(data, weights=np.where(data.users == 1, 20, 1).astype(np.float32))
    fit = data.events(FIT)
    counts = Counter(
        int(data.users[window[0]])
        for epoch in range(200)
        for window in windows_of_epoch(data, FIT, 4, 1, epoch)
    )
    plain = Counter(
        int(data.users[window[0]])
        for epoch in range(200)
        for window in windows_of_epoch(dataset(), FIT, 4, 1, epoch)
    )
    expected = {user: plain[user] * (20 if user == 1 else 1) for user in np.unique(data.users[fit]).tolist()}
    share = counts[1] / sum(counts.values())
    assert share == pytest.approx(expected[1] / sum(expected.values()), rel=0.05)
    batches = WindowBatches(WindowBuilder(data, builder(), Shares(0.3, 0.3, 0.0), 0), FIT, 4, 8)
    first = [[window.tokens for window in batches[step]] for step in range(9)]
    assert first == [[window.tokens for window in batches[step]] for step in reversed(range(9))][::-1]


def test_the_loss_of_windows_is_the_mean_of_weighted_losses(tiny):
    windows = [
        Window([256, 65, *tiny.item_tokens[[3, 7]].reshape(-1).tolist()], np.array([3, 7]), np.array([2, 5]), np.array([0.5, 1.5])),
        Window([256, 66, *tiny.item_tokens[9].tolist()], np.array([9]), np.array([2]), np.array([2.5])),
    ]  # fmt: skip
    plain = [replace(window, weights=None) for window in windows]
    with torch.no_grad():
        one = float(
            window_loss(tiny, [replace(plain[0], items=plain[0].items[:1], starts=plain[0].starts[:1])])
        )
        both, last = float(window_loss(tiny, plain[:1])), float(window_loss(tiny, plain[1:]))
        found = float(window_loss(tiny, windows))
        mixed = float(window_loss(tiny, [windows[0], plain[1]]))
    two = 2 * both - one
    assert found == pytest.approx((0.5 * one + 1.5 * two + 2.5 * last) / 3, rel=1e-5)
    assert mixed == pytest.approx((0.5 * one + 1.5 * two + last) / 3, rel=1e-5)  # a row from words weighs one


def test_rows_from_words_behind_a_history_are_drawn_by_weight():
    data = dataset()
    fit = data.events(FIT)
    heavy = int(fit[len(fit) // 2])
    weights = np.ones(len(data.users), np.float32)
    weights[heavy] = 9 * len(fit)
    data = replace(data, weights=weights)
    asked: list[int] = []
    honest = data.request

    def watched(event, exclude_seen):
        asked.append(event)
        return honest(event, exclude_seen)

    data.request = watched  # type: ignore[method-assign]
    words = Words(data, builder(), Phrases(data), FIT, 0, 400, 0)
    words.windows(0)
    assert len(asked) > 100
    assert np.mean(np.array(asked) == heavy) == pytest.approx(0.9, abs=0.08)


# -- Stage 2 ----------------------------------------------------------------------------------------------------------


def test_instances_are_trained_on_in_proportion_to_the_weights_of_their_events():
    data = weighed(2.0)
    events = np.flatnonzero(data.history_end > data.offsets[data.users])  # those with a history
    train = Instances(data, events, HistoryVectors(np.eye(N, dtype=np.float32), None, ""))
    np.testing.assert_array_equal(train.weights, data.relative_weights[train.events])
    steps = -(-len(train) // 8)
    drawn = [
        np.concatenate(
            [batch_rows(len(train), 8, epoch * steps + step, 0, train.weights) for step in range(steps)]
        )
        for epoch in range(200)
    ]
    counts = np.array([np.bincount(rows, minlength=len(train)) for rows in drawn])
    assert (counts.sum(1) == len(train)).all()
    shares = len(train) * data.weights[train.events] / data.weights[train.events].sum()
    np.testing.assert_allclose(counts.mean(0), shares, atol=0.2)


def test_without_weights_batches_are_those_of_all_runs_before():
    order = torch.randperm(20, generator=torch_generator(3, "instances", 1)).numpy()
    np.testing.assert_array_equal(batch_rows(20, 8, 4, 3), order[8:16])
    data = dataset()
    events = data.events(PERSONALIZE if len(data.events(PERSONALIZE)) else FIT)
    assert Instances(data, events, HistoryVectors(np.eye(N, dtype=np.float32), None, "")).weights is None


def test_a_persons_own_events_are_drawn_by_weight():
    data = weighed()
    diaries = Diaries.of(data, data.events(FIT))
    world = SimpleNamespace(dataset=data, builder=builder())
    lessons = Lessons(world, diaries, None)  # type: ignore[arg-type]
    course = SimpleNamespace(batch=3, seed=0, epochs=1)
    start, end = diaries.offsets[:2]
    steps = -(-(end - start) // 3)
    drawn = np.concatenate([lessons.batch(0, course, step) for step in range(200 * steps)])  # type: ignore[arg-type]
    weights = data.weights[diaries.events[start:end]]
    counts = np.bincount(drawn - start, minlength=end - start) / 200
    np.testing.assert_allclose(counts, len(weights) * weights / weights.sum(), atol=0.2)

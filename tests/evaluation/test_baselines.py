"""Baselines by hand, and the softmax's draws against its own probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evaluation.baselines import Popularity, Recency
from evaluation.metrics import expected_hit
from evaluation.softmax import SoftmaxOver, _largest, best_temperature
from recsys.recommender import Request


class Table:
    """A scorer with known scores: the same row for everyone."""

    name = "Table"

    def __init__(self, row):
        self.row = np.asarray(row, dtype=float)

    def scores(self, requests):
        return np.tile(self.row, (len(requests), 1))


def asking(count=1, exclude=()):
    items = np.array(exclude, dtype=np.int64)
    return [Request(f"r{at}", user=at, time=at, exclude=items) for at in range(count)]


def test_popularity_by_eye():
    answer = Popularity(np.array([2, 7, 0, 7])).recommend(asking(exclude=[1]), 3)[0]
    assert answer.items.tolist() == [3, 0, 2]
    assert answer.scores == pytest.approx(np.log([8, 3, 1]))


def test_popularity_as_a_softmax_is_proportional_to_count_plus_one():
    method = SoftmaxOver(Popularity(np.array([2, 7, 0])))
    assert np.exp(method.log_prob(asking(3), np.array([0, 1, 2]))) == pytest.approx(np.array([3, 8, 1]) / 12)


def test_recency_by_eye():
    # item 4 at 50; at 30 item 1 stands after item 3; item 0's last is 10; item 2 was never touched
    method = Recency(np.array([0, 3, 4, 1, 0]), np.array([5, 30, 50, 30, 10]), 5)
    assert method.recommend(asking(), 9)[0].items.tolist() == [4, 1, 3, 0, 2]


def test_bad_arrays_are_refused():
    with pytest.raises(ValueError, match="negative"):
        Popularity(np.array([1, -1]))
    with pytest.raises(ValueError, match=r"items in 0\.\.2"):
        Recency(np.array([3]), np.array([1]), 3)
    with pytest.raises(ValueError, match="t0 must be"):
        SoftmaxOver(Table([1.0, 2.0]), t0=0.0)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_draws_have_the_softmax_frequencies(temperature):
    """Chi-square over 20,000 draws, with T0, a temperature and an exclusion, against the formula."""
    scores, t0 = np.array([1.0, 0.2, -0.5, 2.0, 0.9]), 1.3
    weights = np.exp(scores / (t0 * temperature))
    weights[3] = 0.0
    items, log_p = SoftmaxOver(Table(scores), t0).draw(asking(200, exclude=[3]), 100, temperature, seed=1)
    seen = np.bincount(items.ravel(), minlength=5)
    truth = weights / weights.sum()
    assert seen[3] == 0
    assert stats.chisquare(seen[truth > 0], 20_000 * truth[truth > 0]).pvalue > 1e-3
    assert np.exp(log_p) == pytest.approx(truth[items])


def test_draws_without_replacement_follow_the_urn():
    """The ordered pairs of Gumbel top-2 have the probability p_i · p_j / (1 − p_i) of drawing one after the
    other.
    """
    p = np.array([0.5, 0.3, 0.15, 0.05])
    answers = SoftmaxOver(Table(np.log(p))).recommend(asking(12_000), 2, temperature=1.0, seed=2)
    pairs = np.stack([answer.items for answer in answers])
    ordered = [(i, j) for i in range(4) for j in range(4) if i != j]
    seen = [int(((pairs[:, 0] == i) & (pairs[:, 1] == j)).sum()) for i, j in ordered]
    truth = [p[i] * p[j] / (1 - p[i]) for i, j in ordered]
    assert stats.chisquare(seen, 12_000 * np.array(truth)).pvalue > 1e-3


def test_conditioning_on_the_allowed_items():
    """Exclusion divides by the allowed mass: p(i | allowed) = p(i) / Σ allowed p."""
    p = np.array([0.5, 0.3, 0.2])
    method = SoftmaxOver(Table(np.log(p)))
    request = asking(exclude=[0])
    assert np.exp(method.log_prob(request, np.array([1])))[0] == pytest.approx(0.6)
    assert np.exp(method.log_prob(request, np.array([0])))[0] == 0.0


def test_requests_draw_differently_and_a_whole_exclusion_is_refused():
    method = SoftmaxOver(Table(np.zeros(50)))
    items, _ = method.draw(asking(2), 20, seed=0)
    assert items[0].tolist() != items[1].tolist()
    with pytest.raises(ValueError, match="'r0' may have nothing of the catalogue"):
        method.draw(asking(exclude=range(50)), 1)
    assert len(method.recommend(asking(exclude=range(50)), 3)[0].items) == 0


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_distribution_needs_a_temperature(temperature):
    with pytest.raises(ValueError, match="temperature"):
        SoftmaxOver(Table([0.0, 1.0])).draw(asking(), 1, temperature)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-800, 800), min_size=1, max_size=9), st.data())
def test_any_scores_give_a_distribution(row, data):
    exclude = data.draw(st.lists(st.integers(0, len(row) - 1), unique=True, max_size=len(row) - 1))
    method = SoftmaxOver(Table(row))
    requests = asking(1, exclude) * len(row)
    p = np.exp(method.log_prob(requests, np.arange(len(row))))
    assert p.sum() == pytest.approx(1.0)
    items, log_p = method.draw(requests[:1], 8, seed=1)
    assert not np.isin(items, exclude).any()
    assert np.isfinite(log_p).all()


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    method = SoftmaxOver(Table(rng.normal(size=30)))
    whole = method.draw(asking(11), 4, seed=3)[0]
    monkeypatch.setattr("evaluation.softmax.BLOCK", 4)
    assert method.draw(asking(11), 4, seed=3)[0].tolist() == whole.tolist()


def chosen(method, requests, targets, grid, n=30):
    return best_temperature(method.log_prob_at(requests, targets, grid), requests, grid, n=n)


def test_the_best_temperature_equals_a_plain_loop():
    rng = np.random.default_rng(1)
    row = rng.normal(size=40) * 3
    p = np.exp(row / 2) / np.exp(row / 2).sum()
    targets = rng.choice(40, p=p, size=400)
    requests, grid = asking(400), (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    by_hand = []
    for t0 in grid:
        q = np.exp(row / t0) / np.exp(row / t0).sum()
        by_hand.append(np.mean([1 - (1 - q[target]) ** 30 for target in targets]))
    best = grid[int(np.argmax(by_hand))]
    assert best not in (grid[0], grid[-1])
    assert chosen(SoftmaxOver(Table(row)), requests, targets, grid) == best
    # a recommender with a temperature of its own: T0 = 2, so half of the best is wanted on top
    method = SoftmaxOver(Table(row), t0=2.0)
    assert chosen(method, requests, targets, (0.1, best / 2, 16)) == best / 2


def test_the_best_temperature_averages_users_first():
    """User 0 has three instances of item 0, user 1 one of item 2: sharp wins by instance, flat by user."""
    scores = np.log([0.9, 0.07, 0.03])
    requests = [Request(str(at), user=user, time=at) for at, user in enumerate((0, 0, 0, 1))]
    targets = np.array([0, 0, 0, 2])
    grid = (0.5, 3.0)
    sharp, flat = (expected_hit(SoftmaxOver(Table(scores), t).log_prob(requests, targets), 2) for t in grid)
    assert sharp.mean() > flat.mean()
    assert sharp[0] + sharp[3] < flat[0] + flat[3]
    assert chosen(SoftmaxOver(Table(scores)), requests, targets, grid, n=2) == 3.0


def test_the_best_temperature_needs_something_to_choose_from():
    with pytest.raises(ValueError, match="at least one validation instance"):
        best_temperature(np.zeros((0, 1)), [], (1.0,))


@pytest.mark.parametrize("n_items", [5, 64, 1000])
@pytest.mark.parametrize("kinds", [3, 10**6])
def test_the_largest_of_a_row_are_those_of_a_whole_stable_sort(n_items, kinds):
    generator = np.random.default_rng(n_items)
    keys = generator.integers(0, kinds, (20, n_items)).astype(float)
    keys[generator.random(keys.shape) < 0.3] = -np.inf
    keys[0] = -np.inf
    for n in (1, 4, 30):
        found = _largest(torch.from_numpy(keys), n)
        for row, places in zip(keys, found, strict=True):
            order = np.argsort(-row, kind="stable")
            assert places.tolist() == order[: min(n, int((row > -np.inf).sum()))].tolist()

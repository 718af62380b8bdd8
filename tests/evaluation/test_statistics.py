"""Statistics against hand cases, slow loops and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from evaluation.metrics import expected_hit, hits
from evaluation.statistics import (
    AGREEMENT_Z,
    bootstrap_difference,
    holm,
    mean_interval,
    paired_test,
    sampled_agreement,
    smallest_detectable_difference,
    user_means,
)


def test_user_means_by_hand():
    users, means = user_means(np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]), np.array([7, 7, 3]))
    assert users.tolist() == [3, 7]
    assert means.tolist() == [[1.0, 1.0], [0.5, 0.0]]


def test_paired_test_by_hand():
    # differences 1, 2, 3: mean 2, sd 1, t = 2·√3, two degrees of freedom
    found = paired_test(np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    t = 2 * math.sqrt(3)
    assert found.p_value == pytest.approx(2 * stats.t.sf(t, 2))
    half = stats.t.ppf(0.975, 2) / math.sqrt(3)
    assert found.interval == pytest.approx((2 - half, 2 + half))
    assert (found.sd, found.n_users) == (pytest.approx(1.0), 3)


def test_paired_test_without_spread_or_users():
    same = np.array([0.2, 0.4])
    assert paired_test(same, same).p_value == 1.0
    assert paired_test(same[:1], same[:1]).p_value is None
    assert mean_interval(same[:1]) is None


def test_interval_covers_the_mean_95_times_in_100():
    rng = np.random.default_rng(0)
    covered = [low < 0.0 < high for low, high in (mean_interval(rng.normal(size=12)) for _ in range(2000))]
    assert abs(np.mean(covered) - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


def test_bootstrap_equals_a_plain_loop():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.2, 1, size=(60, 3)), rng.normal(size=(60, 2))
    ours = bootstrap_difference(a, b, np.random.default_rng(0), samples=4000)
    means = []
    for _ in range(4000):
        users = rng.integers(0, 60, 60)
        seeds_a, seeds_b = rng.integers(0, 3, 3), rng.integers(0, 2, 2)
        means.append(a[users][:, seeds_a].mean() - b[users][:, seeds_b].mean())
    assert ours == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.03)


def test_bootstrap_is_paired_and_matches_the_t_interval():
    rng = np.random.default_rng(4)
    b = rng.normal(size=(400, 1))
    a = b + rng.normal(0.05, 0.1, size=(400, 1))  # users differ by 1, the pairs by 0.1
    ours = bootstrap_difference(a, b, rng, samples=4000)
    exact = paired_test(a[:, 0], b[:, 0]).interval
    assert ours == pytest.approx(exact, abs=0.002)


def test_holm_by_hand():
    # sorted .01, .02, .04 with factors 3, 2, 1; the last keeps at least what came before; None is no test
    assert holm([0.02, None, 0.01, 0.04]) == pytest.approx([0.04, None, 0.03, 0.04])
    assert holm([None]) == [None]


@pytest.mark.parametrize("users", [8, 610])
def test_smallest_detectable_difference_is_found_80_times_in_100(users):
    effect = smallest_detectable_difference(2.0, users)
    assert effect is not None
    rng = np.random.default_rng(5)
    change = rng.normal(effect, 2.0, size=(2000, users))
    found = (stats.ttest_1samp(change, 0.0, axis=1).pvalue < 0.05).mean()
    assert abs(found - 0.8) < 4 * math.sqrt(0.8 * 0.2 / 2000)


def test_smallest_detectable_difference_at_movielens_size():
    # evaluation protocol: 610 users, differences of .006 to .011 for per-user spreads of about .05 to .1
    assert smallest_detectable_difference(0.0529, 610) == pytest.approx(0.006, abs=1e-4)
    assert smallest_detectable_difference(0.0, 610) is None


def _instances(rng, instances=2000, items=20):
    p = rng.dirichlet(np.full(items, 0.3), size=instances)
    targets = np.array([rng.choice(items, p=row) for row in p])
    return p, targets, np.log(p[np.arange(instances), targets])


def _draw(rng, p, n):
    return np.stack([rng.choice(p.shape[1], size=n, p=row) for row in p])


def _flat(rng, p):
    """Draws at temperature 2 where the scorer scores at 1."""
    flat = np.sqrt(p) / np.sqrt(p).sum(axis=1, keepdims=True)
    return _draw(rng, flat, 3)


def _distinct(rng, p):
    """Draws without replacement where the formula is for draws with."""
    return np.argsort(-(np.log(p) + rng.gumbel(size=p.shape)), axis=1)[:, :3]


@pytest.mark.parametrize("biased", [_flat, _distinct])
def test_agreement_passes_a_true_sampler_and_fails_a_biased_one(biased):
    rng = np.random.default_rng(6)
    p, targets, log_p = _instances(rng)
    weights = np.full((2000, 1), 1 / 2000)
    expected = expected_hit(log_p, 3)[:, None]
    true = hits(_draw(rng, p, 3), targets)[:, None]
    assert sampled_agreement(true, expected, weights, 1).agrees
    assert not sampled_agreement(hits(biased(rng, p), targets)[:, None], expected, weights, 1).agrees


def test_agreement_z_is_standard_normal_also_for_uneven_users_and_several_seeds():
    rng = np.random.default_rng(7)
    expected = rng.uniform(0.01, 0.3, size=(300, 2))
    weights = rng.dirichlet(np.full(300, 3.0))[:, None] * np.array([[0.5, 0.5]])
    zs = []
    for _ in range(600):
        means = rng.binomial(4, expected) / 4
        zs.append(sampled_agreement(means, expected, weights, 4).z)
    assert abs(np.mean(zs)) < 4 / math.sqrt(600)
    assert np.std(zs) == pytest.approx(1.0, abs=0.12)


def test_agreement_with_few_hits_raises_no_false_alarm():
    rng = np.random.default_rng(8)
    expected, weights = np.full((20, 1), 0.002), np.full((20, 1), 1 / 20)
    found = [
        sampled_agreement(rng.binomial(1, expected).astype(float), expected, weights, 1) for _ in range(3000)
    ]
    assert max(one.z for one in found) > AGREEMENT_Z  # the normal limit alone would cry wolf
    assert np.mean([not one.agrees for one in found]) < 0.002


def test_agreement_when_nothing_is_random():
    sure, weights = np.ones((5, 1)), np.full((5, 1), 0.2)
    assert sampled_agreement(sure, sure, weights, 1).agrees
    assert not sampled_agreement(sure * 0, sure, weights, 1).agrees

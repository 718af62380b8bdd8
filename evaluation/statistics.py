"""What a difference between two rows is worth. The unit is the user: a user's instances are averaged first.

Instances of one user are not independent, so n in every test, interval and power calculation is a number of
users.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from recsys.seeds import rng

AGREEMENT_Z = 4.0  # sampled and expected hit-rate may differ by this many standard errors (6e-5 two-sided)
Interval = tuple[float, float]


@dataclass(frozen=True)
class PairedTest:
    """Two-sided paired t-test of a − b over users. None where n is too small for the figure to exist."""

    difference: float
    interval: Interval | None
    p_value: float | None
    sd: float | None  # of the per-user differences
    n_users: int


def user_means(values: np.ndarray, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average over each user's instances: `values` [R] or [R, K], `users` [R] → users [U] ascending, means
    [U] or [U, K].
    """
    values, users = np.asarray(values, dtype=float), np.asarray(users)
    if len(values) != len(users) or not len(users):
        raise ValueError(
            f"expected one user per instance and at least one, got {len(values)} values, {len(users)} users"
        )
    unique, inverse, counts = np.unique(users, return_inverse=True, return_counts=True)
    totals = np.zeros((len(unique), *values.shape[1:]))
    np.add.at(totals, inverse, values)
    return unique, totals / counts.reshape(-1, *[1] * (values.ndim - 1))


def mean_interval(per_user: np.ndarray, alpha: float = 0.05) -> Interval | None:
    """Student-t interval of the mean over users [U] at level 1 − alpha; None for fewer than two users."""
    from scipy import stats

    per_user = np.asarray(per_user, dtype=float)
    if len(per_user) < 2:
        return None
    half = stats.t.ppf(1 - alpha / 2, len(per_user) - 1) * per_user.std(ddof=1) / math.sqrt(len(per_user))
    return float(per_user.mean() - half), float(per_user.mean() + half)


def paired_test(a: np.ndarray, b: np.ndarray, alpha: float = 0.05) -> PairedTest:
    """Two-sided paired t-test over users of per-user means `a` [U] against `b` [U], with the interval of a −
    b.
    """
    from scipy import stats

    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(
            f"a paired test needs the same users on both sides, got shapes {a.shape} and {b.shape}"
        )
    change = a - b
    if len(a) < 2:
        return PairedTest(float(change.mean()), None, None, None, len(a))
    if np.ptp(change) == 0:  # every user differs by the same amount: the t statistic is 0/0 or x/0
        p_value = 1.0 if change[0] == 0 else 0.0
        return PairedTest(float(change[0]), (float(change[0]),) * 2, p_value, 0.0, len(a))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy's remark on nearly equal differences
        result = stats.ttest_rel(a, b)
    low, high = result.confidence_interval(1 - alpha)
    return PairedTest(
        float(change.mean()),
        (float(low), float(high)),
        float(result.pvalue),
        float(change.std(ddof=1)),
        len(a),
    )


def rank_correlation(
    x: np.ndarray, y: np.ndarray, seed: int = 0, resamples: int = 9999
) -> tuple[float | None, float | None]:
    """Spearman's ρ of x [n] and y [n], and its two-sided p: the share of pairings
    whose |ρ| is at least as large.

    Exact where n! ≤ `resamples` (n ≤ 7), else over that many random pairings, of which the one found is one.
    None, None for fewer than three points, or where one side is constant.
    """
    from scipy import stats

    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None, None
    ranks = stats.rankdata(y)
    centred = (ranks - ranks.mean()) / np.linalg.norm(ranks - ranks.mean())

    def size(paired: np.ndarray, axis: int = -1) -> np.ndarray:
        mine = paired - paired.mean(axis=axis, keepdims=True)
        return np.abs((mine * centred).sum(axis=axis)) / np.linalg.norm(mine, axis=axis)

    test = stats.permutation_test(
        (stats.rankdata(x),), size, permutation_type="pairings", vectorized=True, n_resamples=resamples,
        alternative="greater", rng=rng(seed, "rank correlation"),
    )  # fmt: skip
    return float(stats.spearmanr(x, y).statistic), float(test.pvalue)


def bootstrap_difference(
    a: np.ndarray, b: np.ndarray, rng: np.random.Generator, samples: int = 2000, alpha: float = 0.05
) -> Interval | None:
    """Percentile bootstrap over users and seeds of mean(a) − mean(b); a is [U, Ka], b [U, Kb] (users ×
    training seeds).

    Each sample draws users with replacement, the same for both sides (they are paired), and each side's seeds
    with replacement. With one seed a side only users vary. None for fewer than two users.
    """
    if len(a) != len(b):
        raise ValueError(f"a paired bootstrap needs the same users on both sides, got {len(a)} and {len(b)}")
    users = len(a)
    if users < 2:
        return None
    means: list[np.ndarray] = []
    block = max(1, 4_000_000 // users)  # rows of the count matrix held at once: at most 32 MB
    for start in range(0, samples, block):
        size = min(block, samples - start)
        weights = rng.multinomial(users, np.full(users, 1 / users), size=size) / users
        seeds_a, seeds_b = (
            rng.multinomial(k, np.full(k, 1 / k), size=size) / k for k in (a.shape[1], b.shape[1])
        )
        means.append(((weights @ a) * seeds_a).sum(axis=1) - ((weights @ b) * seeds_b).sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def holm(p_values: list[float | None]) -> list[float | None]:
    """Holm's step-down adjustment (Holm 1979) of one family; None (no test was possible) stays None and is
    not counted.
    """
    from statsmodels.stats.multitest import multipletests

    known = [value for value in p_values if value is not None]
    adjusted = iter(multipletests(known, method="holm")[1] if known else [])
    return [None if value is None else float(next(adjusted)) for value in p_values]


def smallest_detectable_difference(
    sd: float | None, n_users: int, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """Smallest true difference of per-user means that a paired two-sided t-test finds with probability
    `power`.

    `sd` is the standard deviation of the per-user differences. None where there is no spread or fewer than
    two users.
    """
    if n_users < 2 or not sd:
        return None
    return _detectable_effect(n_users, alpha, power) * sd


@lru_cache(maxsize=256)
def _detectable_effect(n_users: int, alpha: float, power: float) -> float:
    """The same in standard deviations: one for all comparisons of a table."""
    from statsmodels.stats.power import TTestPower

    effect = TTestPower().solve_power(
        effect_size=None, nobs=n_users, alpha=alpha, power=power, alternative="two-sided"
    )
    return float(np.squeeze(effect))


@dataclass(frozen=True)
class Agreement:
    """Does the sampled hit-rate lie within sampling error of the expected one? `z` in standard errors."""

    z: float
    limit: float
    agrees: bool


def sampled_agreement(
    hit_mean: np.ndarray, expected: np.ndarray, weights: np.ndarray, trials: int
) -> Agreement:
    """Compare a sampled hit-rate with the expected one, given each instance's own hit probability.

    `hit_mean` [R, K] is the mean of `trials` independent 0/1 hits, `expected` [R, K] the probability h of
    each, and `weights` [R, K] (sum 1) are those that turn instances into the printed column. Given h, the
    difference Σ w (hit − h) has mean 0 and variance Σ w² h (1 − h) / trials, so z is standard normal in the
    limit. Where hits are few that limit is not reached; Bernstein's inequality says how much further out z
    may fall with the same exponent: by z²·w_max / (3·σ·trials). Means are compared: a sampler that is too
    sharp may gain on likely targets what it loses on unlikely ones.
    """
    difference = float((weights * (hit_mean - expected)).sum())
    sigma = math.sqrt(float((weights**2 * expected * (1 - expected)).sum()) / trials)
    if sigma < 1e-12:  # all hit probabilities are 0 or 1: nothing may differ at all
        same = abs(difference) < 1e-9
        return Agreement(0.0 if same else math.copysign(1e6, difference), AGREEMENT_Z, same)
    z = difference / sigma
    limit = AGREEMENT_Z + AGREEMENT_Z**2 * float(weights.max()) / (3 * sigma * trials)
    return Agreement(z, limit, abs(z) <= limit)

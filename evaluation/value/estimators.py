"""The value of a policy from lists that another one drew, with intervals over users.

A list is drawn item by item: a_k with probability π(a_k | x, a_1 … a_{k−1}), be it i.i.d., without replacement or within caps. A
reward r_k may depend on the user and on the items up to k (not on those behind it). With the cumulative weights

    w_k = Π_{j ≤ k} π_new(a_j | …) / π_old(a_j | …),      w_0 = 1

the value V = E_new[Σ_k r_k] of a list is estimated by

    IPS    mean_r Σ_k w_k r_k                                          (Precup et al. 2000, per decision; McInerney et al. 2020, RIPS)
    SNIPS  Σ_k (Σ_r w_k r_k) / (Σ_r w_k)                               (Swaminathan & Joachims 2015, each position on its own)
    DR     mean_r Σ_k [ w_k (r_k − q_k) + w_{k−1} v_k ]                (Dudík et al. 2011; Kiyohara et al. 2022, cascade)

where q_k is a prediction of r_k, v_k its mean over π_new(· | a_1 … a_{k−1}). IPS and DR are unbiased where q was learned from others'
lists. Users are independent, lists of one user need not be: intervals are cluster-robust.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from evaluation.statistics import Interval


@dataclass(frozen=True)
class Logged:
    """R lists of at most K items. Shorter ones have `old` = `new` = 1 and rewards, q and v of 0 behind their end.

    `rewards`, `old`, `new` [R, K]; `users` [R]; `q`, `v` [R, K] (None: no DR).
    """

    rewards: np.ndarray
    old: np.ndarray
    new: np.ndarray
    users: np.ndarray
    q: np.ndarray | None = None
    v: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not len(self.rewards) or self.rewards.shape != self.old.shape or self.old.shape != self.new.shape:
            raise ValueError(
                f"expected lists [R, K] of one shape, got {self.rewards.shape}, {self.old.shape}, {self.new.shape}"
            )
        if not (self.old > 0).all() or not (self.old <= 1 + 1e-6).all() or not np.isfinite(self.new).all():
            raise ValueError(
                "a logged probability lies outside (0, 1], or one of the new policy is no number"
            )

    @property
    def weights(self) -> np.ndarray:
        """w_k [R, K]."""
        return np.cumprod(self.new / self.old, 1)


@dataclass(frozen=True)
class Value:
    """An estimate of V, its standard error over users and its interval (None for fewer than two users)."""

    value: float
    error: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Estimates:
    """All estimates, what the lists themselves earned, and how much of them speaks for the new policy.

    `effective` is (Σ w)² / Σ w² of whole lists: of so many lists drawn by the new policy the variance would be.
    """

    logged: Value
    ips: Value
    snips: Value
    dr: Value | None
    effective: float
    largest: float  # the largest weight of a list, over the mean
    lists: int
    users: int


def estimate(logged: Logged, alpha: float = 0.05) -> Estimates:
    """Every estimate of `logged`, with intervals at level 1 − alpha."""
    w, r = logged.weights, logged.rewards
    before = np.concatenate([np.ones((len(w), 1)), w[:, :-1]], 1)
    dr = None
    if logged.q is not None and logged.v is not None:
        dr = of_lists((w * (r - logged.q) + before * logged.v).sum(1), logged.users, alpha)
    total = w.sum(0)
    each = np.divide((w * r).sum(0), total, out=np.zeros(w.shape[1]), where=total > 0)
    influence = (w * (r - each) / np.maximum(w.mean(0), 1e-300)).sum(1)
    snips = of_lists(influence + each.sum(), logged.users, alpha)
    last = w[:, -1]
    return Estimates(
        of_lists(r.sum(1), logged.users, alpha),
        of_lists((w * r).sum(1), logged.users, alpha),
        snips,
        dr,
        float(last.sum() ** 2 / max((last**2).sum(), 1e-300)),
        float(last.max() / max(last.mean(), 1e-300)),
        len(w),
        len(np.unique(logged.users)),
    )


def of_lists(values: np.ndarray, users: np.ndarray, alpha: float = 0.05) -> Value:
    """The mean of lists [R], and its interval where lists of one user [R] hang together (linearised, Student's t)."""
    from scipy import stats

    mean = float(values.mean())
    _, whose = np.unique(users, return_inverse=True)
    sums = np.bincount(whose, values - mean)
    n = len(sums)
    if n < 2:
        return Value(mean, None, None)
    error = math.sqrt(n / (n - 1) * float((sums**2).sum())) / len(values)
    half = float(stats.t.ppf(1 - alpha / 2, n - 1)) * error
    return Value(mean, error, (mean - half, mean + half))

"""Two arms compared as often as one likes: a difference with a confidence sequence that holds at every look at once.

The asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2024 (Annals of Statistics 52, theorem 2.2): with n users
an arm, mean μ̂ and variance σ̂²,

    μ̂ ± σ̂ · √( (2 (n ρ² + 1) / (n² ρ²)) · log( √(n ρ² + 1) / α ) )

covers the mean at all n together with probability 1 − α; ρ says at which n it is narrowest. Of a difference of two independent arms each
has α/2, and the halves are added in squares only for the fixed-n interval: here they are added, which is wider and stays valid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from evaluation.statistics import Interval

NARROWEST = 1000  # users at which the sequence is narrowest


@dataclass(frozen=True)
class Comparison:
    """Arm b minus arm a, of users' means: `interval` for one look that was planned, `always` for any number of looks."""

    difference: float
    interval: Interval | None
    always: Interval | None
    users: tuple[int, int]


def compare(a: np.ndarray, b: np.ndarray, alpha: float = 0.05) -> Comparison:
    """Users' means of both arms, [n_a] and [n_b]; intervals are None below two users an arm."""
    from scipy import stats

    a, b = np.asarray(a, float), np.asarray(b, float)
    n = len(a), len(b)
    if min(n) < 2:
        return Comparison(float(b.mean() - a.mean()) if min(n) else math.nan, None, None, n)
    difference = float(b.mean() - a.mean())
    parts = a.var(ddof=1) / n[0], b.var(ddof=1) / n[1]
    error = math.sqrt(sum(parts))
    # Welch
    freedom = sum(parts) ** 2 / max(sum(p**2 / (m - 1) for p, m in zip(parts, n, strict=True)), 1e-300)
    half = float(stats.t.ppf(1 - alpha / 2, max(freedom, 1.0))) * error
    always = sum(radius(one, alpha / 2) for one in (a, b))
    return Comparison(
        difference, (difference - half, difference + half), (difference - always, difference + always), n
    )


def radius(values: np.ndarray, alpha: float, narrowest: int = NARROWEST) -> float:
    """Half the width of the confidence sequence of the mean of `values` [n]."""
    n = len(values)
    rho2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / narrowest
    scale = 2 * (n * rho2 + 1) / (n**2 * rho2) * math.log(math.sqrt(n * rho2 + 1) / alpha)
    return float(np.std(values, ddof=1)) * math.sqrt(scale)

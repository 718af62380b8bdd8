"""One temperature a row, fitted on validation by the log-likelihood of its targets.

At t = 1 a distribution gains by being sharper (or flatter) before it knows more of anybody, so rows are compared at the temperature at
which each says its best: there, a difference is of what they know. `evaluation.softmax.best_temperature` chooses by the expected
hit-rate instead, which is what draws are served with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.statistics import user_means

LEAST_NATS = -100.0  # of a target that is unreachable in the last bit: it may not decide alone


@dataclass(frozen=True)
class Calibration:
    """The fitted `temperature` and the mean log-likelihood of a target there, in `nats`: users' instances averaged first."""

    temperature: float
    nats: float


def fit_temperature(log_p: np.ndarray, grid: Sequence[float], users: np.ndarray) -> Calibration:
    """From log p [R, G] of validation targets at each temperature of `grid` (ascending): the best, and between its neighbours
    the top of a parabola in log t through the three. `users` [R]. At an end of the grid it is the end.
    """
    t = np.asarray(grid, float)
    if len(t) != log_p.shape[1] or (np.diff(t) <= 0).any():
        raise ValueError(
            f"temperatures must ascend, one for each of {log_p.shape[1]} columns, got {list(grid)}"
        )
    means = user_means(np.maximum(log_p, LEAST_NATS), users)[1].mean(0)
    best = int(means.argmax())
    if not 0 < best < len(t) - 1:
        return Calibration(float(t[best]), float(means[best]))
    x, y = np.log(t[best - 1 : best + 2]) - np.log(t[best]), means[best - 1 : best + 2]
    a, b, _ = np.polyfit(x, y, 2)
    if a >= 0:  # flat to the last bit
        return Calibration(float(t[best]), float(means[best]))
    at = float(np.clip(-b / (2 * a), x[0], x[2]))
    return Calibration(float(t[best] * np.exp(at)), float(np.polyval([a, b, y[1]], at)))

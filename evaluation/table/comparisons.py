"""Rows against one another: per-user means of what was measured, and the paired comparison of two rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evaluation.statistics import (
    bootstrap_difference,
    holm,
    mean_interval,
    paired_test,
    smallest_detectable_difference,
    user_means,
)
from evaluation.table.config import EvaluateConfig
from recsys.seeds import rng

Measured = dict[str, np.ndarray]  # figure -> [R, K]: instances × the replicas that have it
INTERVAL_ALPHA = 0.05  # intervals are 95 %, whatever level the tests use: their names say ci95


@dataclass(frozen=True)
class MeasuredRows:
    """The measured rows by name, and what every comparison between them needs."""

    config: EvaluateConfig
    measured: dict[str, Measured]
    users: np.ndarray  # [R]

    @property
    def n(self) -> int:
        return self.config.n_candidates

    def per_user(self, name: str, figure: str) -> np.ndarray | None:
        """Per-user means [U, K] of a figure, or None where the row has none."""
        values = self.measured[name].get(figure)
        return None if values is None else user_means(values, self.users)[1]

    def mean(self, name: str, figure: str) -> float | None:
        values = self.per_user(name, figure)
        return None if values is None else float(values.mean())

    def own_figure(self, name: str) -> str:
        """What a row is compared on: its expected hit-rate, or the ranked list's hit-rate where it has no
        draws.
        """
        return "expected" if "expected" in self.measured[name] else "top"

    def printed(self, figure: str) -> str:
        name = f"expected_hit_rate@{self.n}"
        return {"expected": name, "top": f"top{self.n}", "expected_matched": name, "log_p_matched": "nats"}[
            figure
        ]

    def only(self, mask: np.ndarray) -> MeasuredRows:
        """The same rows on the instances of `mask` [R] alone."""
        measured = {
            name: {figure: values[mask] for figure, values in row.items()}
            for name, row in self.measured.items()
        }
        return replace(self, measured=measured, users=self.users[mask])

    def mean_and_interval(self, name: str, figure: str) -> tuple[float, list[float] | None]:
        """A figure averaged over users, and its 95 % interval."""
        values = self.per_user(name, figure)
        assert values is not None
        interval = mean_interval(values.mean(axis=1), INTERVAL_ALPHA)
        return float(values.mean()), None if interval is None else list(interval)

    def own_mean(self, name: str) -> tuple[float, list[float] | None]:
        """A row's own figure, averaged over users, and its 95 % interval, which stays within 0 and 1."""
        own = self.per_user(name, self.own_figure(name))
        assert own is not None
        per_user = own.mean(axis=1)
        interval = mean_interval(per_user, INTERVAL_ALPHA)
        bounds = None if interval is None else [max(0.0, interval[0]), min(1.0, interval[1])]
        return float(per_user.mean()), bounds


def contrast(
    table: MeasuredRows, a: str, b: str, bootstrap: bool = True, figure: str | None = None
) -> dict[str, Any]:
    """Row a minus row b, like with like: a `figure` of both, or else expected hit-rates, or both ranked lists if either has no draws.

    The bootstrap is the dear part; without it, its interval is None.
    """
    config = table.config
    if figure is None:
        figure = "expected" if {table.own_figure(a), table.own_figure(b)} == {"expected"} else "top"
    found = no_contrast(a, b, table.printed(figure)) | {"n_users": len(np.unique(table.users))}
    left, right = table.per_user(a, figure), table.per_user(b, figure)
    if left is None or right is None:
        return found
    base = float(right.mean())
    found |= {"value_a": float(left.mean()), "value_b": base}
    if a == b:
        return found | {"difference": 0.0, "relative_pct": 0.0 if base else None}
    test = paired_test(left.mean(axis=1), right.mean(axis=1), INTERVAL_ALPHA)
    resampled = None
    if bootstrap:
        stream = rng(config.seed, "bootstrap", a, b)
        resampled = bootstrap_difference(left, right, stream, config.bootstrap_samples, INTERVAL_ALPHA)
    detectable = smallest_detectable_difference(test.sd, test.n_users, config.alpha, config.power)
    return found | {
        "difference": test.difference,
        "difference_ci95": None if test.interval is None else list(test.interval),
        "bootstrap_ci95": None if resampled is None else list(resampled),
        "relative_pct": percent(test.difference, base),
        # the base is taken as given: the interval's width is that of the difference alone
        "relative_ci95_pct": [percent(end, base) for end in test.interval]
        if test.interval and base
        else None,
        "p_value": test.p_value,
        "smallest_detectable_difference": detectable,
        "smallest_detectable_pct": None if detectable is None else percent(detectable, base),
    }


def no_contrast(a: str, b: str, figure: str) -> dict[str, Any]:
    """A comparison with nothing to compare: every figure None."""
    figures = (
        "value_a", "value_b", "n_users", "difference", "difference_ci95", "bootstrap_ci95", "relative_pct",
        "relative_ci95_pct", "p_value", "smallest_detectable_difference", "smallest_detectable_pct",
    )  # fmt: skip
    return {"a": a, "b": b, "figure": figure} | dict.fromkeys(figures)


def percent(part: float, base: float) -> float | None:
    return 100.0 * part / base if base else None


def corrected(contrasts: Sequence[dict[str, Any]], primary: tuple[str, str]) -> int:
    """Write `p_holm` into each contrast; the primary pair stands outside the family.
    Returns the family's size.
    """
    family = {frozenset((one["a"], one["b"])): one["p_value"] for one in contrasts}
    family.pop(frozenset(primary), None)
    adjusted = dict(zip(family, holm(list(family.values())), strict=True))
    for one in contrasts:
        one["p_holm"] = adjusted.get(frozenset((one["a"], one["b"])))
    return sum(value is not None for value in adjusted.values())

"""Pictures of the engagement predictor and of the music table: PNG bytes, or None: nothing to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from evaluation.report.style import COLOURS, png, style


def reliability_plot(quality: Mapping[str, Any]) -> bytes:
    """What share was engaged where the predictor said p, with the interval over users;
    below, where its predictions lie.

    `quality` as `evaluation.engagement.quality.predictor_quality` gives it.
    A calibrated predictor lies on the diagonal.
    """
    bins = quality["reliability"]
    figure, (axis, below) = plt.subplots(
        2, 1, figsize=(5.4, 5.8), sharex=True, height_ratios=(4, 1), layout="constrained"
    )
    style(axis, f"{quality['chosen']}: {quality['n_shown']:,} shown items of {quality['n_users']:,} users")
    predicted = np.array([row["predicted"] for row in bins])
    observed = np.array([row["observed"] for row in bins])
    bounds = np.array([row["observed_ci95"] or [row["observed"]] * 2 for row in bins]).T
    axis.plot([0, 1], [0, 1], color="#888888", lw=1, ls="--", label="calibrated")
    bars = np.maximum([observed - bounds[0], bounds[1] - observed], 0)
    axis.errorbar(
        predicted, observed, bars, fmt="o-", color=COLOURS[0], lw=1.4, ms=4, capsize=2,
        label="quantile bins, 95 % over users\n"
              f"ECE {quality['ece']:.3f} (by chance {quality['ece_by_chance']:.3f})",
    )  # fmt: skip
    axis.axhline(quality["share_engaged"], color="#c9c9c9", lw=1, label="base rate", zorder=0)
    axis.set_ylabel("share engaged")
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    _histogram(below, bins)
    return png(figure)


def _histogram(axis: plt.Axes, bins: Sequence[Mapping[str, Any]]) -> None:
    """Where the predictions lie: each quantile bin spreads its items over its width,
    so the area is their number.
    """
    style(axis, "")
    last = bins[-1]
    edges = np.array([row["low"] for row in bins] + [max(last["high"], last["low"] + 0.005)])
    counts = np.array([row["n"] for row in bins])
    axis.stairs(counts / counts.sum() / np.diff(edges), edges, fill=True, color=COLOURS[0], alpha=0.6)
    axis.set_ylabel("density")
    axis.set_xlabel("predicted probability of engagement")


def engagement_forest(table: Mapping[str, Any]) -> bytes | None:
    """Each row's predicted engagement and affinity relative to the baseline, with the 95 % interval, and what
    was named before the run. `table` as `music.table.music_table` gives it; None without a comparison.
    """
    base = table["baseline"]
    rows = [row["name"] for row in table["rows"] if row["name"] != base]
    panels = {
        figure: [(row["name"], row[figure]) for row in table["rows"] if _has_interval(row[figure])]
        for figure in ("engagement", "affinity")
    }
    first = table["primary"][0]["a"] if table["primary"] else None
    against = [(f"{one['a']} vs {one['b']}", one) for one in table["primary"] if one["b"] != base]
    panels["engagement"] += [(name, one) for name, one in against if _has_interval(one)]
    shown = {figure: effects for figure, effects in panels.items() if effects}
    if not shown:
        return None
    names = [*rows, *(name for name, _ in against)][::-1]
    figure, axes = plt.subplots(
        1, len(shown), figsize=(2.2 + 3.6 * len(shown), 0.4 * len(names) + 1.3), squeeze=False, sharey=True,
        layout="constrained",
    )  # fmt: skip
    for axis, (title, effects) in zip(axes[0], shown.items(), strict=True):
        style(axis, {"engagement": "predicted engagement", "affinity": "affinity"}[title])
        axis.axvline(0, color="#888888", lw=1)
        for name, one in effects:
            named = title == "engagement" and (name == first or name not in rows)
            colour, place = COLOURS[3 if named else 0], names.index(name)
            axis.plot(one["relative_ci95_pct"], [place, place], color=colour, lw=2, alpha=0.9)
            axis.plot(one["relative_pct"], place, "o", color=colour, ms=6)
        axis.set_xlabel("%")
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].set_ylim(-0.6, len(names) - 0.4)
    figure.suptitle(
        f"relative to {base}, 95 % interval over users (red: named before the run)",
        fontsize=10, x=0.01, ha="left",
    )  # fmt: skip
    return png(figure)


def _has_interval(figure: Mapping[str, Any] | None) -> bool:
    return figure is not None and figure.get("relative_ci95_pct") is not None

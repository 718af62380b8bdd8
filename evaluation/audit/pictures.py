"""Pictures of an audit: every row's figures with their intervals, lifts by taste, and where the exposure goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.audit.audit import MEASURES
from evaluation.report.style import COLOURS, plain, style

Rows = Sequence[Mapping[str, Any]]


def figures_of_rows(rows: Rows) -> Figure:
    """A panel a measure, a dot with its 95 % interval a row."""
    panels = [one for one in MEASURES if any(one in row["figures"] for row in rows)]
    drawn, axes = plt.subplots(
        1, len(panels), figsize=(1.4 + 1.75 * len(panels), 0.9 + 0.24 * len(rows)), sharey=True, squeeze=False
    )
    for axis, measure in zip(axes[0], panels, strict=True):
        for place, row in enumerate(rows):
            _dot(axis, row["figures"].get(measure), place, COLOURS[0])
        style(axis, MEASURES[measure][0])
        axis.title.set_fontsize(7.5)
        axis.tick_params(labelsize=7)
        axis.grid(axis="y", lw=0.3)
    axes[0][0].set_yticks(range(len(rows)), [plain(row["name"]) for row in rows])
    axes[0][0].set_ylim(len(rows) - 0.5, -0.5)
    drawn.tight_layout()
    return drawn


def by_group(rows: Rows, grouping: str, measure: str) -> Figure | None:
    """One measure of each group of people, a colour a group; None where no row has such groups, or the measure."""
    groups = list(
        dict.fromkeys(
            one["group"] for row in rows for one in row["people"].get(grouping, []) if measure in one
        )
    )
    if not groups:
        return None
    drawn, axis = plt.subplots(figsize=(7.6, 1.0 + 0.26 * len(rows)), layout="constrained")
    for number, group in enumerate(groups):
        for place, row in enumerate(rows):
            found = next((one for one in row["people"].get(grouping, []) if one["group"] == group), None)
            label = plain(group) if place == 0 else None
            shift = 0.5 * ((number + 0.5) / len(groups) - 0.5)
            _dot(
                axis, None if found is None else found.get(measure), place + shift, COLOURS[number % 9], label
            )
    if measure == "lift":
        axis.axvline(0, color="#999999", lw=0.8)
    axis.set_yticks(range(len(rows)), [plain(row["name"]) for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    style(axis, plain(f"{MEASURES[measure][0]} by {grouping}, 95 % intervals over people"))
    axis.legend(frameon=False, fontsize=8)
    return drawn


def exposure_of_items(rows: Rows, grouping: str) -> Figure | None:
    """Shares of the exposure by group of items, a bar a row; beside them those of the training events and of what was had next."""
    first = rows[0]["items"].get(grouping)
    if not first:
        return None
    bars = {
        "training events": [one["training"] for one in first],
        "had next": [one["chosen"] for one in first],
    }
    bars |= {row["name"]: [one["exposure"]["value"] or 0.0 for one in row["items"][grouping]] for row in rows}
    drawn, axis = plt.subplots(figsize=(7.6, 1.0 + 0.24 * len(bars)), layout="constrained")
    left = np.zeros(len(bars))
    for number, one in enumerate(first):
        widths = np.array([some[number] for some in bars.values()])
        axis.barh(
            range(len(bars)), widths, left=left, color=_shade(number, len(first)), label=plain(one["group"])
        )
        left = left + widths
    axis.set_yticks(range(len(bars)), [plain(name) for name in bars])
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    style(axis, plain(f"Where the exposure goes, by {grouping}"))
    axis.legend(frameon=False, fontsize=7, ncols=1, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return drawn


def _shade(number: int, count: int) -> Any:
    return plt.get_cmap("viridis")(0.1 + 0.8 * number / max(count - 1, 1))


def _dot(
    axis: Axes, figure: Mapping[str, Any] | None, place: float, colour: str, label: str | None = None
) -> None:
    if figure is None or figure["value"] is None:
        return
    low, high = figure["ci95"] or (figure["value"],) * 2
    bars = [[max(figure["value"] - low, 0)], [max(high - figure["value"], 0)]]
    axis.errorbar(figure["value"], place, xerr=bars, fmt="o", ms=3.5, capsize=1.5, color=colour, label=label)

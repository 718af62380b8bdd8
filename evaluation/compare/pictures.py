"""Pictures of a comparison: differences with their intervals, and learning curves over each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from evaluation.report.style import COLOURS, plain, style

Curves = Mapping[str, Mapping[str, Any]]  # name -> {"losses": [[step, value]], "validation": [[step, value]]}


def differences(found: Mapping[str, Any], figure: str) -> Figure | None:
    """Each row of each later run minus the first run's: points with 95 % intervals; None where nothing was tested so."""
    tests = [
        one for one in found["tests"] if (one["figure"] == "nats") == (figure == "nats") and one["n_users"]
    ]
    tests = [one for one in tests if one["difference"] is not None]
    if not tests:
        return None
    rows = list(dict.fromkeys(one["row"] for one in tests))
    drawn, axis = plt.subplots(figsize=(8.4, 1.2 + 0.32 * len(rows)), layout="constrained")
    runs = found["runs"][1:]
    for number, run in enumerate(runs):
        mine = [one for one in tests if one["run"] == run]
        places = [rows.index(one["row"]) + 0.6 * ((number + 0.5) / len(runs) - 0.5) for one in mine]
        values = np.array([one["difference"] for one in mine])
        ends = np.array([one["difference_ci95"] or [one["difference"]] * 2 for one in mine])
        colour = COLOURS[number % len(COLOURS)]
        axis.errorbar(
            values,
            places,
            xerr=np.maximum([values - ends[:, 0], ends[:, 1] - values], 0),
            fmt="o",
            color=colour,
            ms=4,
            capsize=2,
            label=plain(run),
        )
    axis.axvline(0, color="#999999", lw=0.8)
    axis.set_yticks(range(len(rows)), [plain(row) for row in rows])
    axis.invert_yaxis()
    words = (
        "nats a target, at matched calibration"
        if figure == "nats"
        else "hit-rate (of draws; of lists for rows without)"
    )
    style(axis, plain(f"Minus {found['runs'][0]}: {words}, 95 % over users"))
    axis.legend(frameon=False, fontsize=8)
    return drawn


def curves_together(curves: Mapping[str, Curves]) -> Figure | None:
    """Of each run its curves: a row of panels a learner (training loss, validation), a colour a run; None without a curve."""
    names = list(dict.fromkeys(name for some in curves.values() for name in some))
    panels = [(name, kind) for name in names for kind in ("losses", "validation")]
    panels = [
        (name, kind)
        for name, kind in panels
        if any(len(some.get(name, {}).get(kind, ())) > 1 for some in curves.values())
    ]
    if not panels:
        return None
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    drawn, axes = plt.subplots(
        lines, columns, figsize=(3.6 * columns, 2.6 * lines), squeeze=False, layout="constrained"
    )
    for axis, (name, kind) in zip(axes.flat, panels, strict=False):
        for number, (run, some) in enumerate(curves.items()):
            points: Sequence = some.get(name, {}).get(kind, ())
            if len(points):
                steps, values = zip(*points, strict=True)
                axis.plot(
                    steps,
                    values,
                    color=COLOURS[number % len(COLOURS)],
                    lw=1.3,
                    label=plain(run),
                    ls="-" if number % 2 == 0 else "--",
                )
        style(
            axis,
            plain(f"{name}: {'training loss' if kind == 'losses' else 'validation (higher is better)'}"),
        )
        axis.title.set_fontsize(8)
        axis.set_xlabel("step", fontsize=8)
    axes.flat[0].legend(frameon=False, fontsize=8)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    return drawn

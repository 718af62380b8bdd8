"""Pictures of what methods cost: numbers stored against users, seconds to admit a user against history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import EngFormatter

from evaluation.report.style import COLOURS, png, style

USERS = np.logspace(0, 8, 60)  # 1 to 100 million


def storage(panels: Mapping[str, Mapping[str, tuple[float, float]]]) -> bytes | None:
    """One panel a setting: numbers stored (per user · users + shared) against users, a line a method.

    `panels[title][method]` = (per-user numbers, shared numbers).
    """
    shown = {title: rows for title, rows in panels.items() if rows}
    if not shown:
        return None
    figure, axes = plt.subplots(
        1, len(shown), figsize=(5.6 * len(shown), 4.8), squeeze=False, layout="constrained"
    )
    for axis, (title, rows) in zip(axes[0], shown.items(), strict=True):
        style(axis, title)
        for place, (name, (per_user, shared)) in enumerate(rows.items()):
            dashes = ("-", "--", ":")[place // len(COLOURS) % 3]
            colour = COLOURS[place % len(COLOURS)]
            axis.loglog(USERS, per_user * USERS + shared, dashes, color=colour, lw=1.6, label=name)
        axis.minorticks_off()
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.yaxis.set_major_formatter(EngFormatter(sep=""))
        axis.set_xlabel("users")
        axis.set_ylabel("numbers stored")
        axis.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return png(figure)


def admission(lengths: Sequence[int], seconds: Mapping[str, Sequence[float | None]]) -> bytes | None:
    """Seconds to admit a user (log) against the events of their history, a line a method;
    gaps where nobody was that long.
    """
    if not seconds or not len(lengths):
        return None
    figure, axis = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
    style(axis, "seconds to admit a new user")
    for place, (name, values) in enumerate(seconds.items()):
        points = [(n, value) for n, value in zip(lengths, values, strict=True) if value is not None]
        if points:
            dashes = ("-", "--", ":")[place // len(COLOURS) % 3]
            axis.loglog(
                *np.array(points).T,
                dashes,
                color=COLOURS[place % len(COLOURS)],
                marker="o",
                ms=3,
                lw=1.4,
                label=name,
            )
    axis.minorticks_off()
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.yaxis.set_major_formatter(EngFormatter("s"))
    axis.set_xlabel("events of the user's history")
    axis.set_ylabel("seconds")
    axis.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return png(figure)

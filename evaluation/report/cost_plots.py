"""Pictures of what methods cost: numbers stored against users, seconds to admit a user against history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator

from evaluation.report.style import COLOURS, framed, panels, png, style, widest

USERS = np.logspace(0, 8, 60)  # 1 to 100 million


def storage(settings: Mapping[str, Mapping[str, tuple[float, float]]]) -> bytes | None:
    """One panel a setting: numbers stored (per user · users + shared) against users, a line a method.

    `settings[title][method]` = (per-user numbers, shared numbers).
    """
    shown = {title: rows for title, rows in settings.items() if rows}
    if not shown:
        return None
    named = -(-max(map(len, shown.values())) // 2)  # lines of the longest legend
    figure, axes = panels(len(shown), len(shown), 5.6, 4.0, below=0.2 * named)
    for axis, (title, rows) in zip(axes[0], shown.items(), strict=True):
        style(axis, title)
        for place, (name, (per_user, shared)) in enumerate(rows.items()):
            dashes = ("-", "--", ":")[place % 3]
            colour = COLOURS[place % len(COLOURS)]
            axis.loglog(USERS, per_user * USERS + shared, dashes, color=colour, lw=1.6, label=name)
        _whole_decades(
            axis, [per_user * n + shared for per_user, shared in rows.values() for n in (USERS[0], USERS[-1])]
        )
        axis.minorticks_off()
        axis.xaxis.set_major_locator(LogLocator(numticks=6))
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.yaxis.set_major_formatter(EngFormatter(sep=""))
        axis.set_xlabel("users")
        axis.set_ylabel("numbers stored")
        axis.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    return png(figure)


def _whole_decades(axis: Axes, values: Sequence[float]) -> None:
    """Limits of a logarithmic axis that have a tick on either side of what is drawn."""
    if values:
        low, high = np.log10([min(values), max(values)])
        axis.set_ylim(10 ** np.floor(low - 0.1), 10 ** np.ceil(high + 0.1))


def admission(lengths: Sequence[int], seconds: Mapping[str, Sequence[float | None]]) -> bytes | None:
    """Seconds to admit a user (log) against the events of their history, a line a method;
    gaps where nobody was that long.
    """
    if not seconds or not len(lengths):
        return None
    figure, axis = framed(7.2, 3.8, right=widest(seconds, 7) + 0.6)
    style(axis, "seconds to admit a new user")
    for place, (name, values) in enumerate(seconds.items()):
        points = [(n, value) for n, value in zip(lengths, values, strict=True) if value is not None]
        if points:
            dashes = ("-", "--", ":")[place % 3]
            axis.loglog(
                *np.array(points).T,
                dashes,
                color=COLOURS[place % len(COLOURS)],
                marker="o",
                ms=3,
                lw=1.4,
                label=name,
            )
    _whole_decades(axis, [value for values in seconds.values() for value in values if value])
    axis.minorticks_off()
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.yaxis.set_major_formatter(EngFormatter("s"))
    axis.set_xlabel("events of the user's history")
    axis.set_ylabel("seconds")
    axis.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return png(figure)

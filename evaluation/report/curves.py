"""Pictures, as PNG bytes, of what changes as time goes on, and of what attention looks at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np

from evaluation.report.style import COLOURS, plain, png, style
from evaluation.statistics import Interval

Point = tuple[float, float, tuple[float, float] | None]  # x, y, interval of y
NamedPoint = tuple[float, float, Interval | None, str]  # x, y, interval of y, name


def with_intervals(
    series: Mapping[str, Sequence[Point]], title: str, x: str, y: str, joined: bool = True
) -> bytes:
    """Points with error bars, a colour a series; `joined` draws lines between them.
    Series stand a little apart.
    """
    figure, axis = plt.subplots(figsize=(8.4, 4.6), layout="constrained")
    style(axis, title)
    wide = max((point[0] for points in series.values() for point in points), default=1.0)
    for place, ((name, points), colour) in enumerate(zip(series.items(), COLOURS * 3, strict=False)):
        shift = (place - (len(series) - 1) / 2) * 0.012 * wide if joined else 0.0
        xs, ys = np.array([point[0] for point in points]) + shift, np.array([point[1] for point in points])
        low, high = (
            np.array([point[2] or (point[1], point[1]) for point in points], dtype=float).reshape(-1, 2).T
        )
        bars = np.maximum([ys - low, high - ys], 0)
        axis.errorbar(
            xs, ys, bars, fmt="o-" if joined else "o", color=colour, lw=1.3, ms=4, capsize=2, label=name
        )
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.legend(frameon=False, fontsize=8)
    return png(figure)


def named_points(panels: Mapping[str, Sequence[NamedPoint]], y: str) -> bytes:
    """One small panel each, titled by its key: points with their names beside them;
    all panels share the y axis.
    """
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.9 * columns, 3.4 * lines), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, (title, points) in zip(axes.flat, panels.items(), strict=False):
        style(axis, title)
        axis.title.set_fontsize(9)
        axis.margins(x=0.15)
        for at, value, interval, name in points:
            low, high = interval or (value, value)
            bars = [[max(value - low, 0)], [max(high - value, 0)]]
            axis.errorbar(at, value, bars, fmt="o", color=_colour(name, panels), ms=5, ecolor="#dddddd")
    for axis in axes[:, 0]:
        axis.set_ylabel(y, fontsize=8)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    figure.canvas.draw()  # names are placed by where the points are on the page
    for axis, points in zip(axes.flat, panels.values(), strict=False):
        _write_names(axis, points, panels)
    return png(figure)


def _colour(name: str, panels: Mapping[str, Sequence[NamedPoint]]) -> str:
    """A name has one colour in all panels."""
    names = list(dict.fromkeys(point[3] for points in panels.values() for point in points))
    return COLOURS[names.index(name) % len(COLOURS)]


def _write_names(axis, points: Sequence[NamedPoint], panels: Mapping[str, Sequence[NamedPoint]]) -> None:
    """Names inwards of their points, from the lowest up, each moved up until it covers no other;
    a line leads back.
    """
    size = 7  # points
    taken: list[tuple[float, float, float]] = []  # left, right and bottom of each name, in points
    places = axis.transData.transform([point[:2] for point in points]) * 72 / axis.figure.dpi
    middle = np.mean(axis.transAxes.transform([[0, 0], [1, 1]])[:, 0]) * 72 / axis.figure.dpi
    for row in np.lexsort((places[:, 0], places[:, 1])):
        name, (x, bottom), width = points[row][3], places[row] + (0, 3), 0.6 * size * len(points[row][3])
        left, right = (x + 5, x + 5 + width) if x <= middle else (x - 5 - width, x - 5)
        while any(left < b and a < right and abs(bottom - c) < size + 1 for a, b, c in taken):
            bottom += 1
        taken.append((left, right, bottom))
        colour, shift = _colour(name, panels), bottom - places[row, 1]
        arrow = {"arrowstyle": "-", "color": colour, "lw": 0.5} if shift > size else None
        axis.annotate(
            name, points[row][:2], (5 if x <= middle else -5, shift), textcoords="offset points",
            fontsize=size, ha="left" if x <= middle else "right", color=colour, arrowprops=arrow,
        )  # fmt: skip


def bars(series: Mapping[str, Sequence[tuple[str, float]]], title: str, y: str) -> bytes:
    """Grouped bars on a logarithmic axis: (group, value) of each series."""
    groups = list(dict.fromkeys(group for rows in series.values() for group, _ in rows))
    figure, axis = plt.subplots(figsize=(8.4, 3.6), layout="constrained")
    style(axis, title)
    width = 0.8 / max(len(series), 1)
    for place, ((name, rows), colour) in enumerate(zip(series.items(), COLOURS * 3, strict=False)):
        xs = [groups.index(group) + (place - (len(series) - 1) / 2) * width for group, _ in rows]
        axis.bar(xs, [value for _, value in rows], width, color=colour, label=name)
    axis.set_xticks(range(len(groups)), groups)
    axis.set_yscale("log")
    axis.set_ylabel(y)
    axis.legend(frameon=False, fontsize=8)
    return png(figure)


def attention_strips(weights: Mapping[str, np.ndarray], days: np.ndarray, title: str) -> bytes:
    """One strip a scorer: attention [n] over a history, oldest record first;
    darker red is more (TAP-PER, Figure 3).

    `days` [n] before the question are written below.
    """
    figure, axes = plt.subplots(
        len(weights),
        1,
        figsize=(9.6, 1.1 * len(weights) + 1.2),
        squeeze=False,
        sharex=True,
        layout="constrained",
    )
    most = max(float(alpha.max()) for alpha in weights.values())
    for axis, (name, alpha) in zip(axes[:, 0], weights.items(), strict=True):
        style(axis, f"{name} (most {alpha.max():.3f}, effective records {1 / (alpha**2).sum():.1f})")
        axis.imshow(alpha[None], aspect="auto", cmap="Reds", vmin=0, vmax=most, interpolation="nearest")
        axis.set_yticks([])
    ticks = np.unique(np.linspace(0, len(days) - 1, min(8, len(days))).astype(int))
    axes[-1, 0].set_xticks(ticks, [f"{days[tick]:,.{0 if days[tick] >= 10 else 2}f} d" for tick in ticks])
    axes[-1, 0].set_xlabel("records, oldest first; days before the question")
    figure.suptitle(plain(title), fontsize=10, x=0.01, ha="left")
    figure.colorbar(axes[0, 0].images[0], ax=axes[:, 0], label="α")
    return png(figure)

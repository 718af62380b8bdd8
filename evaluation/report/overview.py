"""The picture of the first screen: every row as a dot with its interval, ranked and sampled figures apart. Each an SVG, inline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from evaluation.report.style import BAND, INK, MARK, SOFT, framed, plain, style, svg, widest
from evaluation.report.verdict import best_row, is_baseline, ranking_of
from evaluation.table.results import Results

WIDTH, A_ROW, AROUND = 5.2, 0.31, 0.4  # inches: at 380 pixels the letters keep two thirds of their size
LETTERS = 11.5  # points


def overview(results: Results) -> list[tuple[str, str]]:
    """(what it shows, SVG) of the panels: ranked lists, and what is drawn. A panel without rows is left out."""
    n = results.protocol["n_candidates"]
    table, best = ranking_of(results), best_row(results)
    expected = [
        {"name": row["name"], "value": row[row["figure"]], "ci95": row["ci95"]}
        for row in results.rows
        if row["figure"] == f"expected_hit_rate@{n}"
    ]
    expected.sort(key=lambda row: -row["value"])
    shaded = {row["name"] for row in results.rows if is_baseline(row)}
    name = None if best is None else best["name"]
    ranked = table["rows"] if table["figure"].startswith("top") else _lists(results, f"top{n}")
    panels = [(f"Ranked lists: hit-rate@{n}", ranked, "ranked")]
    panels.append((f"Draws at t = 1: expected hit-rate@{n}", expected, "drawn"))
    return [(title, _dots(title, rows, shaded, name, key)) for title, rows, key in panels if rows]


def _lists(results: Results, figure: str) -> list[dict[str, Any]]:
    """Rows that have a list, where others (`beam_columns` off) have none."""
    rows = [
        {"name": row["name"], "value": row[figure], "ci95": row["ci95"] if row["figure"] == figure else None}
        for row in results.rows
        if row[figure] is not None
    ]
    return sorted(rows, key=lambda row: -row["value"])


def _dots(
    title: str, rows: Sequence[Mapping[str, Any]], shaded: set[str], best: str | None, name: str
) -> str:
    """One panel, the first row at the top. Baselines have a band and a hollow dot, the best row the mark's colour."""
    names = [row["name"] for row in reversed(rows)]
    left, height = widest(names, LETTERS) + 0.12, A_ROW * len(rows) + 2 * AROUND
    figure, axis = framed(WIDTH, height, left, top=AROUND, bottom=AROUND)
    style(axis, "")
    places = np.arange(len(rows))
    colours = [MARK if one == best else SOFT for one in names]
    is_shaded = np.array([one in shaded for one in names])
    values = np.array([row["value"] for row in reversed(rows)])
    ends = np.array([row["ci95"] or [row["value"]] * 2 for row in reversed(rows)])
    axis.add_collection(
        PatchCollection([Rectangle((0, at - 0.5), 1, 1) for at in places[is_shaded]], color=BAND, lw=0, zorder=0,
                        transform=axis.get_yaxis_transform())
    )  # fmt: skip
    axis.hlines(places, ends[:, 0], ends[:, 1], colors=colours, lw=2)
    inside = [BAND if one else colour for one, colour in zip(is_shaded, colours, strict=True)]
    axis.scatter(values, places, s=36, c=inside, edgecolors=colours, linewidths=1.6, zorder=3)
    axis.set_yticks(range(len(rows)), [plain(one) for one in names], fontsize=LETTERS)
    axis.set_ylim(-0.5, len(rows) - 0.5)
    axis.set_xlim(left=0)
    axis.grid(axis="x", color=BAND, lw=1)
    axis.set_axisbelow(True)
    axis.spines[["left", "bottom"]].set_color(SOFT)
    axis.tick_params(colors=INK, length=0, labelsize=LETTERS)
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}".replace("0.", ".", 1))
    figure.text(0.01, 1 - 0.1 / height, plain(title), va="top", fontsize=LETTERS, color=INK)
    return svg(figure, name)

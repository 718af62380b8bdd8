"""How our pictures look: their colours, a plain axis, and PNG bytes or an inline SVG at the end."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display is needed

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

COLOURS = ("#3b6fb6", "#d1772f", "#3f8f5b", "#b5486b", "#7a5ca8", "#8a6d3b", "#2e9aa6", "#c2a21c", "#666666")

SMALL = 8  # points of ticks and legends

# colours of an inline picture; the page has its own for light, dark and paper, by these names
INK, SOFT, MARK, BAND = "#1d2430", "#5c6675", "#3b6fb6", "#eef1f5"
BY_NAME = {INK: "var(--ink)", SOFT: "var(--soft)", MARK: "var(--mark)", BAND: "var(--band)"}


def style(axis: Axes, title: str) -> None:
    """A title at the left, small tick labels, and no frame above or to the right."""
    axis.set_title(title, fontsize=10, loc="left", y=1.0)
    for one in (axis.xaxis, axis.yaxis):
        if isinstance(locator := one.get_major_locator(), MaxNLocator):  # and not names that were given
            locator.set_params(nbins=4)  # to lay out a tick costs more than to draw a line
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=SMALL)


def panels(
    count: int,
    columns: int,
    width: float,
    height: float,
    beside: float = 0.0,
    below: float = 0.0,
    **shared: bool,
) -> tuple[Figure, np.ndarray]:
    """A figure of `count` axes [lines, columns], each with room for its labels: inches of one.

    `beside` all of them, and `below` each of them, are so many inches for a legend. The places are fixed, as to look for them costs more than to draw.
    """
    lines = -(-count // columns)
    height += below
    wide, high = width * columns + beside, height * lines
    settings: dict[str, Any] = dict(shared)
    figure, axes = plt.subplots(lines, columns, figsize=(wide, high), squeeze=False, **settings)
    across = 0.25 if shared.get("sharey") else 0.84  # inches between two axes
    down = (0.45 if shared.get("sharex") else 0.92) + below
    figure.subplots_adjust(
        left=0.72 / wide,
        right=1 - (0.12 + beside) / wide,
        top=1 - 0.3 / high,
        bottom=(0.62 + below) / high,
        wspace=across / (width - across),
        hspace=down / (height - down),
    )
    for axis in axes.flat[count:]:
        axis.remove()
    inside = width - across, height - down
    for axis in axes.flat[:count]:
        labels_at(axis, *inside)
    return figure, axes


def framed(
    width: float, height: float, left: float = 0.72, right: float = 0.2, top: float = 0.3, bottom: float = 0.5
) -> tuple[Figure, Axes]:
    """A figure of one axis with so many inches around it. A layout that matplotlib looks for draws everything twice."""
    figure = plt.figure(figsize=(width, height))
    place = (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
    axis = figure.add_axes(place)
    labels_at(axis, width - left - right, height - top - bottom)
    return figure, axis


def labels_at(axis: Axes, width: float, height: float) -> None:
    """Say where an axis of so many inches has its labels: a place that is said is not looked for."""
    axis.xaxis.set_label_coords(0.5, -0.27 / height)
    axis.yaxis.set_label_coords(-0.5 / width, 0.5)


def widest(names: Iterable[str], size: float) -> float:
    """How wide the longest of some names is in letters of `size` points, in inches."""
    font = FontProperties(size=size)
    return (
        max((text_to_path.get_text_width_height_descent(name, font, False)[0] for name in names), default=0)
        / 72
    )


def plain(text: str) -> str:
    """Text that somebody else wrote, for a picture: what stands between dollar signs is no formula."""
    return text.replace("$", r"\$")


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes; it is closed. Its layout has to leave room for all that is drawn (`panels`, or matplotlib's constrained one)."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, pil_kwargs={"compress_level": 1})
    plt.close(figure)
    return buffer.getvalue()


def svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` to stand in a page: its letters are letters, its colours the page's; ids begin with `name`. It is closed."""
    buffer = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text))
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = text.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
    for colour, variable in BY_NAME.items():
        text = text.replace(colour, variable)
    return text


def saved(figure: Figure, folder: Path, stem: str) -> str:
    """Write the figure as `stem`.svg and `stem`.png; the SVG's text is returned, and the figure closed."""
    buffer = io.StringIO()
    with plt.rc_context(
        {"svg.hashsalt": stem, "svg.fonttype": "none"}
    ):  # the same bytes, and text that stays text
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    (folder / f"{stem}.svg").write_text(buffer.getvalue(), encoding="utf-8")
    (folder / f"{stem}.png").write_bytes(png(figure))
    return buffer.getvalue()

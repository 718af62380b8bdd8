"""How our pictures look: their colours, a plain axis, and PNG bytes at the end."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display is needed

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#3b6fb6", "#d1772f", "#3f8f5b", "#b5486b", "#7a5ca8", "#8a6d3b", "#2e9aa6", "#c2a21c", "#666666")


def style(axis: Axes, title: str) -> None:
    """A title at the left, small tick labels, and no frame above or to the right."""
    axis.set_title(title, fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def plain(text: str) -> str:
    """Text that somebody else wrote, for a picture: what stands between dollar signs is no formula."""
    return text.replace("$", r"\$")


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes; it is closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
    plt.close(figure)
    return buffer.getvalue()


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

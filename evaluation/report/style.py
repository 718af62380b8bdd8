"""How our pictures look: their colours, a plain axis, and PNG bytes at the end."""

from __future__ import annotations

import io

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
    """The figure as PNG bytes; it is closed. What its layout leaves around it stays: to find what could be cut off it is
    drawn twice."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    return buffer.getvalue()

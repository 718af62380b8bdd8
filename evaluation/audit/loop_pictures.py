"""Pictures of a feedback loop: every measure by round and arm, and the last round's figures of groups of people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evaluation.audit.loop import LOOP_MEASURES
from evaluation.report.style import COLOURS, plain, style


def rounds_of_arms(found: Mapping[str, Any]) -> Figure:
    """A panel a measure: the arms' lines over rounds (wide: what the levers are held against), the bands their 95 % intervals over seeds."""
    arms = found["arms"]
    names = [name for name in LOOP_MEASURES if any(_differ(arm["rounds"].get(name)) for arm in arms.values())]
    lines = -(-len(names) // 4)
    drawn, axes = plt.subplots(lines, 4, figsize=(14, 3.2 * lines + 0.8), squeeze=False)
    for axis, name in zip(axes.flat, names, strict=False):
        for number, (arm, figures) in enumerate(arms.items()):
            rounds = figures["rounds"].get(name)
            if rounds is None:
                continue
            values = np.array([one["value"] for one in rounds])
            ends = np.array([one["ci95"] or [one["value"]] * 2 for one in rounds])
            colour, dash = COLOURS[number % len(COLOURS)], ("-", "--")[number // len(COLOURS) % 2]
            wide = 2.6 if arm == found.get("against") else 1.4
            axis.plot(np.arange(1, len(values) + 1), values, dash, color=colour, lw=wide, label=plain(arm))
            axis.fill_between(np.arange(1, len(values) + 1), *ends.T, color=colour, alpha=0.12, lw=0)
        style(axis, LOOP_MEASURES[name][0])
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.set_xlabel("round", fontsize=8)
    for axis in axes.flat[len(names) :]:
        axis.remove()
    handles, labels = axes.flat[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="lower center", ncols=4, frameon=False, fontsize=8)
    drawn.tight_layout(rect=(0, 0.04 + 0.02 * (len(labels) // 4), 1, 1))
    return drawn


def _differ(rounds: Any) -> bool:
    return rounds is not None and all(one["value"] is not None for one in rounds)


def groups_of_arms(found: Mapping[str, Any], grouping: str) -> Figure:
    """A panel a measure of people: first round (hollow) to last (full) of each group, a row an arm."""
    arms = found["arms"]
    names = [
        name
        for name, (_, of_people) in LOOP_MEASURES.items()
        if of_people and any(name in one for arm in arms.values() for one in arm["groups"][grouping].values())
    ]
    drawn, axes = plt.subplots(
        1, len(names), figsize=(2.6 + 2.7 * len(names), 1.4 + 0.36 * len(arms)), sharey=True, squeeze=False
    )
    for axis, name in zip(axes[0], names, strict=True):
        for place, arm in enumerate(arms.values()):
            some = arm["groups"][grouping]
            for number, (group, figures) in enumerate(some.items()):
                if name not in figures:
                    continue
                y, colour = place + 0.6 * ((number + 0.5) / len(some) - 0.5), COLOURS[number % len(COLOURS)]
                first, last = figures[name]["first"]["value"], figures[name]["last"]["value"]
                axis.plot([first, last], [y, y], color=colour, lw=1)
                axis.plot(first, y, "o", ms=3.5, mfc="white", color=colour)
                axis.plot(last, y, "o", ms=3.5, color=colour, label=plain(group) if place == 0 else None)
        style(axis, LOOP_MEASURES[name][0])
        axis.title.set_fontsize(8)
        axis.grid(axis="y", lw=0.3)
    axes[0][0].set_yticks(range(len(arms)), [plain(name) for name in arms])
    axes[0][0].set_ylim(len(arms) - 0.5, -0.5)
    axes[0][0].legend(frameon=False, fontsize=7, title=f"{grouping}; hollow: first round", title_fontsize=7)
    drawn.tight_layout()
    return drawn

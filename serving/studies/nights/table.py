"""The nights as a table and a picture: means over users, with 95 % intervals; time and memory of each night."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from evaluation.report.style import COLOURS, png, style
from evaluation.statistics import Interval, mean_interval, paired_test

MIB = 1 << 20
FIGURES = {
    "hit": "expected hit-rate@30",
    "recall": "R@10",
    "recall30": "R@30",
}
PARTS = 5  # stretches of nights of the table


def summary(rows: pd.DataFrame, arms: Sequence[str]) -> list[dict[str, Any]]:
    """Of each arm, over all nights, old items and new ones: means over users with intervals, and the paired difference to `never`."""
    found = []
    for what, some in (("all", rows), ("old", rows[~rows["is_new"]]), ("new", rows[rows["is_new"]])):
        base = some[some["arm"] == arms[0]]
        for arm in arms:
            mine = some[some["arm"] == arm]
            line: dict[str, Any] = {
                "items": what,
                "arm": arm,
                "targets": len(mine),
                "users": mine["user_id"].nunique(),
            }
            for figure in FIGURES:
                per_user = _users(mine, figure)
                line[figure] = float(per_user.mean()) if len(per_user) else float("nan")
                interval = mean_interval(per_user)
                line[f"{figure}_interval"] = interval
            if arm != arms[0] and len(mine):
                theirs = _users(base, "hit")
                ours = _users(mine, "hit")
                test = paired_test(ours, theirs)
                line |= {"difference": test.difference, "difference_interval": test.interval}
            found.append(line)
    return found


def stretches(rows: pd.DataFrame, arms: Sequence[str], n_nights: int) -> list[dict[str, Any]]:
    """Expected hit-rate@30 of each arm in `PARTS` stretches of the nights, and the share of new items among the targets."""
    found = []
    for part in np.array_split(np.arange(n_nights), min(PARTS, n_nights)):
        some = rows[rows["night"].isin(part)]
        one = some[some["arm"] == arms[0]]
        line: dict[str, Any] = {
            "nights": f"{part[0] + 1}–{part[-1] + 1}",
            "targets": len(one),
            "new": float(one["is_new"].mean()),
            "cold": float(some[some["arm"] == arms[1]]["is_cold"].mean()),
        }
        for arm in arms:
            mine = some[some["arm"] == arm]
            per_user = _users(mine, "hit")
            line[arm] = (float(per_user.mean()), mean_interval(per_user))
        found.append(line)
    return found


def markdown(rows: pd.DataFrame, took: pd.DataFrame, names: Sequence[str], n_nights: int) -> str:
    """All of it, as a page's tables."""
    lines = [
        "| items | arm | targets (users) | hit-rate@30 | R@10 | R@30 | hit-rate − never |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in summary(rows, names):
        cells = [_with(one[figure], one[f"{figure}_interval"]) for figure in FIGURES]
        difference = _with(one["difference"], one["difference_interval"], "+") if "difference" in one else ""
        lines.append(
            f"| {one['items']} | {one['arm']} | {one['targets']:,} ({one['users']}) | {' | '.join(cells)} | {difference} |"
        )
    lines += [
        "",
        "| nights | targets | of new items | of cold users | " + " | ".join(names) + " |",
        "|---" * (4 + len(names)) + "|",
    ]
    for part in stretches(rows, names, n_nights):
        cells = [_with(*part[arm]) for arm in names]
        lines.append(
            f"| {part['nights']} | {part['targets']:,} | {part['new']:.0%} | {part['cold']:.0%} | {' | '.join(cells)} |"
        )
    lines += [
        "",
        "| arm | CPU s a night, median (most) | peak memory, MiB | nights refused by the gate |",
        "|---|---|---|---|",
    ]
    for arm in names:
        mine = took[took["arm"] == arm]
        seconds, worked = mine["seconds"], mine[mine["seconds"] > 0]
        most = f"{seconds.median():.2f} ({seconds.max():.1f})"
        memory = f"{worked['memory'].max() / MIB:,.0f}" if len(worked) else "–"
        lines.append(f"| {arm} | {most} | {memory} | {int((mine['refused'] != '').sum())} |")
    return "\n".join(lines) + "\n"


def picture(rows: pd.DataFrame, took: pd.DataFrame, arms: Sequence[str], n_nights: int) -> bytes:
    """Six panels, night by night: hit-rate of all targets, of old and of new items; what is asked; seconds; memory."""
    figure, axes = plt.subplots(2, 3, figsize=(14, 7.4), layout="constrained")
    titles = (
        f"{FIGURES['hit'].capitalize()}, all targets",
        "Items of before the training",
        "Items that came after the training",
        "What is asked: share of new items, and of users without history",
        "CPU seconds of a night (log)",
        "Peak memory of a night, MiB",
    )
    for axis, title in zip(axes.flat, titles, strict=True):
        style(axis, title)
        axis.title.set_fontsize(9)
        axis.set_xlabel("night")
    nights = np.arange(n_nights)
    for arm, colour in zip(arms, COLOURS, strict=False):
        mine = rows[rows["arm"] == arm]
        for axis, some in zip(axes[0], (mine, mine[~mine["is_new"]], mine[mine["is_new"]]), strict=True):
            middle, low, high = _rolling(some, nights)
            axis.plot(nights + 1, middle, color=colour, lw=1.5, label=arm)
            axis.fill_between(nights + 1, low, high, color=colour, alpha=0.12, lw=0)
        costs = took[took["arm"] == arm].set_index("night").reindex(nights)
        worked = costs["seconds"] > 0
        for axis, values in ((axes[1, 1], costs["seconds"]), (axes[1, 2], costs["memory"] / MIB)):
            axis.plot(nights + 1, values.where(worked), "o-", color=colour, ms=3, lw=1, label=arm)
    one = rows[rows["arm"] == arms[1]].groupby("night")
    for what, label, colour in (("is_new", "new items", "#333333"), ("is_cold", "cold users", "#999999")):
        axes[1, 0].plot(one[what].mean().index + 1, one[what].mean(), color=colour, label=label)
    axes[1, 1].set_yscale("log")
    axes[1, 2].set_ylim(bottom=0)
    axes[0, 0].set_ylabel("mean of five nights, 95 % interval over users")
    for axis in axes.flat:
        axis.legend(frameon=False, fontsize=8)
    return png(figure)


def _rolling(
    rows: pd.DataFrame, nights: np.ndarray, width: int = 2
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over users and its interval, of the nights at most `width` from each."""
    found = []
    for night in nights:
        some = rows[(rows["night"] - night).abs() <= width]
        per_user = _users(some, "hit")
        interval = mean_interval(per_user) if len(per_user) > 1 else None
        middle = float(per_user.mean()) if len(per_user) else np.nan
        found.append((middle, *(interval or (middle, middle))))
    middles, low, high = np.array(found).T
    return middles, low, high


def _users(rows: pd.DataFrame, figure: str) -> np.ndarray:
    """The mean of each user's rows, by user; [0] without rows."""
    return rows.groupby("user_id")[figure].mean().to_numpy(float)


def _with(value: float, interval: Interval | None, sign: str = "") -> str:
    if interval is None:
        return f"{value:{sign}.3f}"
    return f"{value:{sign}.3f} ({interval[0]:.3f}–{interval[1]:.3f})"

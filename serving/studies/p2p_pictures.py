"""What P2P's analyses look like: pictures, and a table in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.table import Table

from evaluation.report.style import COLOURS
from evaluation.report.terminal import wide
from recsys import terminal
from recsys.terminal import shown

SHARES = (0.125, 0.25, 0.5, 1.0)  # of the training users, or of the instances
USERS = np.logspace(0, 6, 40)


def draw_pictures(folder: Path, found: dict[str, Any]) -> None:
    """PNG files of what `analyse_p2p` found."""
    _profiles_picture(folder / "profiles.png", found)
    _k_picture(folder / "k.png", found)
    _users_picture(folder / "users.png", found)
    _time_picture(folder / "time.png", found)


def _profiles_picture(path: Path, found: dict[str, Any]) -> None:
    rows = [*found["profiles"], *({**one, "name": f"encoder {one['name']}"} for one in found["encoders"])][
        ::-1
    ]
    figure, axis = plt.subplots(figsize=(6.4, 0.38 * len(rows) + 1), layout="constrained")
    for at, one in enumerate(rows):
        axis.plot(one["ci95"] or (one["hit_rate"],) * 2, [at, at], color=COLOURS[0], lw=2)
        axis.plot(one["hit_rate"], at, "o", color=COLOURS[0])
    axis.set_yticks(range(len(rows)), [one["name"] for one in rows])
    _save(
        path, figure, axis, "what the hypernetwork is told", "expected hit-rate@30, 95 % interval over users"
    )


def _k_picture(path: Path, found: dict[str, Any]) -> None:
    if found["k"]:
        figure, axis = plt.subplots(figsize=(5.6, 3.2), layout="constrained")
        axis.errorbar(range(len(found["k"])), *_bars(found["k"]), color=COLOURS[0], marker="o", capsize=3)
        axis.set_xticks(range(len(found["k"])), [one["name"] for one in found["k"]])
        _save(path, figure, axis, "expected hit-rate@30 by k", "retrieved records at test time")


def _users_picture(path: Path, found: dict[str, Any]) -> None:
    if found["users"]:
        figure, axis = plt.subplots(figsize=(5.6, 3.2), layout="constrained")
        for colour, what, label in ((COLOURS[0], "diversity", "equally many instances, of more users"),
                                    (COLOURS[1], "quantity", "all users, more instances")):  # fmt: skip
            rows = [one for one in found["users"] if one["name"].startswith(what)]
            axis.errorbar(SHARES, *_bars(rows), color=colour, marker="o", capsize=3, label=label)
        axis.legend(frameon=False, fontsize=8)
        _save(path, figure, axis, "expected hit-rate@30", "share of the training users, or of the instances")


def _time_picture(path: Path, found: dict[str, Any]) -> None:
    spent = found["time"]
    figure, axis = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
    once, each, theirs = (
        spent[name]
        for name in ("p2p_training_seconds_estimated", "p2p_seconds_a_user", "oppu_seconds_a_user")
    )
    axis.loglog(USERS, once + each * USERS, color=COLOURS[0], label="P2P, its training included")
    axis.loglog(USERS, each * USERS, "--", color=COLOURS[0], label="P2P, once it is trained")
    if theirs is not None:
        axis.loglog(USERS, theirs * USERS, color=COLOURS[1], label="OPPU")
    if spent.get("break_even_users"):
        axis.axvline(spent["break_even_users"], color="#888888", lw=1, ls=":")
    axis.legend(frameon=False, fontsize=8)
    _save(path, figure, axis, "cumulative seconds", "users admitted")


def _bars(rows: Sequence[dict[str, Any]]) -> tuple[list[float], np.ndarray]:
    centres = np.array([one["hit_rate"] for one in rows])
    ends = np.array([one["ci95"] or (one["hit_rate"],) * 2 for one in rows])
    return centres.tolist(), np.abs(ends - centres[:, None]).T


def _save(path: Path, figure, axis, title: str, x: str) -> None:
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlabel(x)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def print_p2p(found: dict[str, Any]) -> None:
    """The figures as a table, and the times."""
    table = Table(
        title=terminal.title(
            f"{found['method']}: {found['instances']} test instances of {found['test_users']} users"
        ),
        title_justify="left",
    )
    for column in ("", "row", "expected hit-rate@30", "95 % interval", "difference", "p"):
        table.add_column(column)
    for part in ("profiles", "k", "encoders", "users"):
        for one in found[part]:
            interval = f"{one['ci95'][0]:.4f} to {one['ci95'][1]:.4f}" if one["ci95"] else ""
            moved = f"{one['difference']:+.4f}" if "difference" in one else ""
            p = f"{one['p']:.3g}" if one.get("p") is not None else ""
            table.add_row(part, shown(one["name"]), f"{one['hit_rate']:.4f}", interval, moved, p)
    wide(Console()).print(table)
    spent = found["time"]
    line = f"Seconds to admit a user: {spent['p2p_seconds_a_user']:.4f}"
    if spent["oppu_seconds_a_user"] is not None:
        even = spent["break_even_users"]
        line += f", OPPU {spent['oppu_seconds_a_user']:.2f} ({spent['times_faster']:.0f} times); "
        line += f"break-even at {even:,.0f} users" if even is not None else "it never breaks even"
    Console().print(line, highlight=False)

"""A feedback loop in words: a table in 80 columns, and sentences on what is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from recsys.terminal import shown

WIDTH = 80
# measure -> (head of its column, how it is printed)
COLUMNS = {
    "gini": ("Gini", "{:.3f}"), "coverage": ("cover", "{:.3f}"), "tail": ("tail", "{:.1%}"),
    "lift": ("lift", "{:+.0%}"), "miscalibration": ("miscal.", "{:.2f}"), "welfare": ("welfare", "{:.3f}"),
}  # fmt: skip


def print_loop(found: Mapping[str, Any]) -> None:
    """First and last round of every arm, then the sentences."""
    console = Console(width=WIDTH)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    table.add_column("first, then last round", overflow="fold")
    for head, _ in COLUMNS.values():
        table.add_column(head, justify="right", no_wrap=True)
    for name, arm in found["arms"].items():
        cells = []
        for measure, (_, form) in COLUMNS.items():
            rounds = arm["rounds"].get(measure)
            cells.append(
                "" if rounds is None else "\n".join(form.format(rounds[at]["value"]) for at in (0, -1))
            )
        table.add_row(shown(name), *cells)
    console.print(table)
    seeds = found["plan"]["seeds"]
    how = f"{seeds} seeds (intervals are over them)" if seeds > 1 else "1 seed (there is no interval)"
    for line in (
        f"{found['people']:,} people, {how}. tail: share of what is shown that is of the tail; lift, miscal.: as in the "
        "audit, to what people had before the loop; welfare: share of what a person might get that is worth less to them than what they chose. "
        f"{found['choice']}.",
        *found["sentences"],
    ):
        console.print(shown(line), highlight=False)


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Of each arm whether exposure narrows, for whom; of each lever what it does beside the generator as it is. Intervals over seeds."""
    if found["plan"]["seeds"] < 2:
        return ["One seed: nothing is shown."]
    said = []
    for name, arm in found["arms"].items():
        change = arm["change"]["gini"]
        how = {1: "narrows", -1: "widens", 0: "is not shown to change"}[_sign(change)]
        said.append(f"{name}: exposure {how} (Gini {_change(change)}){_for_whom(arm)}.")
    for name, figures in found["levers"].items():
        parts = [
            f"{words} {_change(figures[measure])}"
            for measure, words in (
                ("gini", "Gini"),
                ("tail", "tail"),
                ("miscalibration", "miscalibration"),
                ("welfare", "welfare"),
            )
            if measure in figures
        ]
        said.append(f"{name} minus {found['against']}, last round: {', '.join(parts)}.")
    return said


def _for_whom(arm: Mapping[str, Any]) -> str:
    """Whether lists go away from people's first taste, and the group by taste for which that is shown to be more than for everybody."""
    change = arm["change"].get("miscalibration")
    if change is None or _sign(change) <= 0:
        return ""
    said = f"; lists go away from people's first taste (KL {_change(change)})"
    more = {
        group: figures["miscalibration"]
        for group, figures in arm["groups"].get("taste", {}).items()
        if "miscalibration" in figures and _sign(figures["miscalibration"]["beside"]) > 0
    }
    if not more:
        return said
    worst = max(more, key=lambda group: more[group]["beside"]["value"])
    return f"{said}, from {worst} people's most ({_change(more[worst]['change'])})"


def _sign(figure: Mapping[str, Any]) -> int:
    if figure["ci95"] is None or figure["ci95"][0] <= 0 <= figure["ci95"][1]:
        return 0
    return 1 if figure["value"] > 0 else -1


def _change(figure: Mapping[str, Any]) -> str:
    ends = figure["ci95"]
    return f"{figure['value']:+.3f}" + ("" if ends is None else f" ({ends[0]:+.3f} to {ends[1]:+.3f})")

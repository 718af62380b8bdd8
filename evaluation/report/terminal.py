"""The end of a run on the terminal: the verdict, one table of five columns that no width cuts, and where the rest is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from evaluation.report.tables import NONE, Column, TitledTable, rate, text, verdict
from evaluation.report.verdict import sentences
from evaluation.table.results import Results
from recsys.terminal import shown

NARROWEST = 40  # of the table of five columns; what is narrower gets lines of this width
TERMINAL_WIDTH = (
    136  # of the widest other table; narrower terminals wrap its lines rather than lose its digits
)


MOST_ROWS = 12  # of the table on the terminal
FIRST_ROWS = (
    "No Context",
    "E2P",
    "Static Prefix",
    "E2P-Random",
    "Popularity",
)  # those that are always among them


def five_columns(results: Results) -> TitledTable:
    """What the terminal shows: the rows that the comparisons are about and the best others, at most 12, the best on top."""
    n, rows = results.protocol["n_candidates"], results.rows
    figures = {row["name"]: row[f"top{n}"] or row[f"expected_hit_rate@{n}"] or 0.0 for row in rows}
    wanted = [name for name in (*results.primary_names, *FIRST_ROWS) if name in figures]
    best = sorted(figures, key=lambda name: -figures[name])
    kept = list(dict.fromkeys([*best[:2], *wanted, *best]))[:MOST_ROWS]
    halves = {one["name"]: half_width(one) for one in results.ranking.get("rows", [])}
    shown = [
        {"latency_ms": None} | row | {"half": halves.get(row["name"])} for row in rows if row["name"] in kept
    ]
    shown.sort(key=lambda row: -figures[row["name"]])
    columns: list[Column] = [
        ("Row", "name", text),
        (f"top {n}", f"top{n}", rate),
        ("±", "half", rate),
        ("drawn", f"expected_hit_rate@{n}", rate),
        ("ms", "latency_ms", lambda ms: NONE if ms is None else f"{ms:,.0f}" if ms >= 10 else f"{ms:.1f}"),
    ]
    return f"Hit-rate@{n} of ranked lists (± 95 %) and of draws; time of a list", columns, shown


def half_width(row: Mapping[str, Any]) -> float | None:
    """Half of a rate's 95 % interval; the wider half where it was cut at 0 or 1."""
    bounds = row["ci95"]
    return None if bounds is None else max(row["value"] - bounds[0], bounds[1] - row["value"])


def print_table(results: Results, console: Console | None = None) -> None:
    """Print the verdict and one table to the terminal; everything else is in the report."""
    console = console or Console()
    console = Console(file=console.file, width=max(console.width, NARROWEST))
    title, columns, rows = five_columns(results)
    print_folded(console, title, columns, rows)
    for one in sentences(results):
        console.print(shown(f"{one.question} {one.text}"), highlight=False)
    console.print(shown(verdict(results)), highlight=False)
    more = len(results.rows) - len(rows)
    left = f"{more} more rows, " if more else ""
    console.print(
        shown(
            f"In the report: {left}all figures and comparisons, groups, the protocol. A word of this: prelude explain TERM."
        ),
        highlight=False,
    )


def print_folded(console: Console, title: str, columns: Sequence[Column], rows: Sequence[Mapping]) -> None:
    """A table that fits any width: its first column breaks between words, and no figure is cut."""
    table = Table(
        title=shown(title, "bold"),
        box=SIMPLE_HEAD,
        title_justify="left",
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
    )
    for place, (heading, _, _) in enumerate(columns):
        if place == 0:
            table.add_column(shown(heading), overflow="fold")
        else:
            table.add_column(shown(heading), justify="right", no_wrap=True)
    for row in rows:
        cells = [shown(show(row[key])) for _, key, show in columns]
        table.add_row(*cells, style="bold red" if row.get("sampled_agrees") is False else "")
    console.print(table)


def wide(console: Console) -> Console:
    """The same console, no narrower than our tables."""
    return Console(file=console.file, width=max(console.width, TERMINAL_WIDTH))

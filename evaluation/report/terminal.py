"""The end of a run on the terminal: the verdict, one table of five columns that no width cuts, and where the rest is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from evaluation.report.tables import Column, five_columns, verdict
from evaluation.report.verdict import sentences
from evaluation.table.results import Results
from recsys.terminal import shown

NARROWEST = 40  # of the table of five columns; what is narrower gets lines of this width
TERMINAL_WIDTH = (
    136  # of the widest other table; narrower terminals wrap its lines rather than lose its digits
)


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

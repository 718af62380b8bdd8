"""An audit in words and plain tables: for the terminal (80 columns), and as rows of a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from evaluation.audit.audit import MEASURES
from recsys.terminal import shown

WIDTH = 80
TOLD = ("hit", "lift", "miscalibration")  # on the terminal; the file has all
HEADS = {
    "hit": "hit", "coverage": "cover", "gini": "Gini", "lift": "lift", "miscalibration": "miscal.",
    "novelty": "novelty", "distance": "dist.",
}  # fmt: skip
Rows = Sequence[Mapping[str, Any]]


def print_audit(found: Mapping[str, Any]) -> None:
    """One table of all rows, how to read it, and of every row the worst groups that are shown."""
    rows, console = found["rows"], Console(width=WIDTH)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    table.add_column("row", overflow="fold")
    for head in HEADS.values():
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            shown(row["name"]), *(_short(row["figures"].get(measure), measure) for measure in HEADS)
        )
    console.print(table)
    said = (
        f"Lists of {found['n']} for {found['people']:,} people, one each. cover: share of the catalogue shown to anyone. Gini of exposure: 0 "
        "all items are shown alike, 1 one item alone. lift: how much more popular than what a person had. miscal.: KL of a person's own "
        f"shares of {found['kinds'] or 'kinds'} to the list's; 'own history' is what it is for {found['n']} of one's own items. novelty: bits. "
        "dist.: 1 − cosine within a list."
    )
    console.print(shown(said), highlight=False)
    for row in rows:
        if row["name"] in found["ranked"]:
            console.print(shown(worst_groups(row, TOLD)), highlight=False)
    console.print("Every group, interval and worst group: audit.json, audit.csv.", highlight=False)


def worst_groups(row: Mapping[str, Any], told: Sequence[str] = tuple(MEASURES)) -> str:
    """A sentence on the groups of a row that are shown to be worse off, by the measures `told` and among items; and how many
    comparisons show nothing.
    """
    said, silent = [], 0
    for one in row["worst_people"]:
        if one["shown"] and one["measure"] in told:
            words = MEASURES[one["measure"]][0]
            said.append(f"{words} {one['value']:.3g} for {one['group']} ({one['others']:.3g} for the others)")
        silent += one["measure"] in told and not one["shown"]
    for one in row["worst_items"]:
        if one["shown"]:
            said.append(
                f"{one['group']} items ({one['grouping']}) shown {one['value']:.2f} times as often as had next"
            )
        silent += not one["shown"]
    named = "; ".join(said) or "no group is shown to be"
    return f"{row['name']}, worst off: {named}." + (
        f" Not shown: {silent} other comparisons." if silent else ""
    )


def _short(figure: Mapping[str, Any] | None, measure: str) -> str:
    if figure is None or figure["value"] is None:
        return ""
    value = figure["value"]
    if measure == "lift":
        return f"{value:+.0%}"
    return f"{value:.2f}" if measure == "novelty" else f"{value:.3f}"


def as_csv(rows: Rows) -> str:
    """Every figure: row, of whom (all, people, items), grouping, group, its size, figure, value, ends of the interval."""
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n")
    write.writerow(("row", "of", "grouping", "group", "size", "figure", "value", "ci95_low", "ci95_high"))
    for row in rows:
        write.writerows(_lines(row))
    return out.getvalue()


def _lines(row: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    def lines(start: tuple[Any, ...], figures: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
        for name, figure in figures.items():
            if isinstance(figure, dict):
                yield (*start, name, figure["value"], *(figure["ci95"] or ("", "")))
            elif isinstance(figure, float) and name != "items":
                yield (*start, name, figure, "", "")

    yield from lines((row["name"], "all", "", "", row["lists"]), row["figures"])
    for of, size in (("people", "people"), ("items", "items")):
        for grouping, groups in row[of].items():
            for one in groups:
                yield from lines((row["name"], of, grouping, one["group"], one[size]), one)

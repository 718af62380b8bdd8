"""A comparison as it is read: its sentences, a table of five columns on the terminal, and one HTML page with the pictures in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from recsys.artifacts.rewrite import write_text_atomically
from recsys.terminal import shown

HEADS = ("run", "row", "figure", "less the first", "95 %", "p (Holm)", "here", "in the first")
WIDTH = 80  # of a terminal, or of a log


def sentences(found: Mapping[str, Any], alpha: float) -> list[str]:
    """The best list of each run, and of every later run which rows are shown to be better or worse, hits and nats apart."""
    said = []
    for best in found["best"]:
        if best["row"] is not None:
            said.append(
                f"{best['run']}: best list by hits: {best['row']}, {_measure(best['figure'])} {best['value']:.4f}{_within(best['ci95'])}."
            )
    for run in found["runs"][1:]:
        for figure in ("hits", "nats"):
            tests = [
                one
                for one in found["tests"]
                if one["run"] == run
                and (one["figure"] == "nats") == (figure == "nats")
                and one["difference"] is not None
            ]
            if not tests:
                continue
            sure = [one for one in tests if one["p_holm"] is not None and one["p_holm"] < alpha]
            better, worse = (
                [one["row"] for one in sure if (one["difference"] > 0) == up] for up in (True, False)
            )
            shown = f"better {_named(better)}; worse {_named(worse)}; " if sure else ""
            said.append(
                f"{run} against {found['runs'][0]}, {figure}: {shown}"
                f"for {len(tests) - len(sure)} of {len(tests)} rows no difference is shown."
            )
    return said


def _named(rows: Sequence[str]) -> str:
    return ", ".join(rows) or "none"


def _measure(figure: str) -> str:
    """A figure of results.json in words: top30 → hit-rate@30 of the list."""
    for beginning, words in (
        ("top", "hit-rate@{} of the list"),
        ("expected_hit_rate@", "hit-rate@{} of draws"),
    ):
        if figure.startswith(beginning):
            return words.format(figure.removeprefix(beginning))
    return figure


def _within(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.4f} to {interval[1]:.4f})"


def print_comparison(found: Mapping[str, Any], differences: Sequence[str], alpha: float) -> None:
    """Sentences, a table of hits in 80 columns, and what differs in data and settings."""
    console = Console(width=WIDTH)
    for line in sentences(found, alpha):
        console.print(shown(line), highlight=False)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    for place, head in enumerate(("row", "run", "less first", "95 %", "p (Holm)")):
        table.add_column(head, justify="left" if place < 2 else "right", overflow="fold")
    for one in found["tests"]:
        if one["figure"] != "nats" and one["difference"] is not None:
            cells = (one["row"], one["run"], *_difference(one))
            table.add_row(*map(shown, cells))
    console.print(table)
    said = (
        f"Hits: each row in the later run less the same row in {found['runs'][0]}, paired over {found['users']:,} users: hit-rate of draws, "
        "where a row draws, else of its list. p: how often chance alone would make so large a difference, corrected for all "
        f"{found['tests_in_holm_family']} tests (Holm); below {alpha:g} it is shown. Nats are on the page."
    )
    console.print(shown(said), highlight=False)
    console.print("What differs in data and settings:", highlight=False)
    for line in differences:
        console.print(shown(f"  {line}"), highlight=False)


def _difference(one: Mapping[str, Any]) -> tuple[str, str, str]:
    ends, p = one["difference_ci95"], one["p_holm"]
    return (
        f"{one['difference']:+.4f}",
        "" if ends is None else f"{ends[0]:+.4f} to {ends[1]:+.4f}",
        "" if p is None else f"{p:.2g}",
    )


def write_page(
    path: Path,
    found: Mapping[str, Any],
    differences: Sequence[str],
    pictures: Sequence[tuple[str, str]],
    alpha: float,
) -> None:
    """One file without anything from elsewhere. `pictures`: (heading, SVG)."""
    environment = Environment(
        loader=PackageLoader("evaluation.compare", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    tests = [
        (
            one["run"],
            one["row"],
            _measure(one["figure"]),
            *_difference(one),
            f"{one['value_a']:.4f}",
            f"{one['value_b']:.4f}",
        )
        for one in found["tests"]
        if one["difference"] is not None
    ]
    html = environment.get_template("compare.html.j2").render(
        found=found,
        sentences=sentences(found, alpha),
        pictures=[(heading, svg[svg.index("<svg") :]) for heading, svg in pictures],
        heads=HEADS,
        tests=tests,
        differences=differences,
    )
    write_text_atomically(path, html)

"""The command `prelude compare`: finished runs against each other, on the same test."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recsys.terminal import escaped
from serving.commands.options import refuse_no_run


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN…", help="Evaluated runs; all are held against the first.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the page, the figures and the pictures.")] = Path(
        "comparison"
    ),
    rows: Annotated[
        list[str] | None, typer.Option(help="A row of the tables, such as E2P. Repeatable. Default: all.")
    ] = None,
) -> None:
    """Hold runs against the first: paired tests on the same instances (Holm), what differs in data and settings, curves.

    Refuses runs whose test sets differ, and says how they do. Writes compare.html, compare.json and pictures (SVG, PNG).
    """
    if len(runs) < 2:
        raise ValueError(f"compare {runs[0]} with what? Name at least two runs")
    for run in runs:
        refuse_no_run(run)
    from serving.studies.compare_runs import compare_runs

    compare_runs(runs, out, rows)
    typer.echo(escaped(f"Page: {out / 'compare.html'}    Figures: {out / 'compare.json'}"))

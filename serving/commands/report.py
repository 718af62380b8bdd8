"""`prelude report`, a finished run's report made again, and `prelude explain`, a word of its tables."""

from __future__ import annotations

from typing import Annotated

import typer

from serving.commands.options import RunPath, refuse_no_run


def report(run: RunPath) -> None:
    """Make results.json and report.html of an evaluated run again, and print the verdict. Nothing is measured."""
    refuse_no_run(run)
    from recsys.run import Run
    from serving.report.publish import remake

    opened = Run.open(run)
    with opened.lock():
        remake(opened)
    typer.echo(f"Report: {opened.path / 'report.html'}")


def explain(
    term: Annotated[
        list[str] | None,
        typer.Argument(help="A word of a table, such as nats or t. Default: all that there are."),
    ] = None,
) -> None:
    """Say what a word of the tables means: nats, No Context, t, tokens, prefix and others."""
    from evaluation.report import glossary

    if not term:
        for name, meaning in glossary.TERMS.items():
            typer.echo(f"{name}: {meaning}")
        return
    name, meaning = glossary.explain(" ".join(term))
    typer.echo(f"{name}: {meaning}")

"""Options that several commands have: one spelling, one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from serving.engines.base import Engine

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, for example runs/demo.")]
ConfigPath = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML configuration. Default: the run's own, else the defaults."),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="Change one setting, e.g. --set adapt.steps=500. Repeatable."),
]
Moment = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Hide everything at or after: Unix seconds, or a date such as 2026-01-31T12:00:00Z.",
    ),
]
MethodName = Annotated[str | None, typer.Option(help="Default: e2p where the run has it.")]
Strength = Annotated[
    float, typer.Option(help="0 to 1: how much of the method's soft tokens and updates is used.")
]
InSequence = Annotated[
    bool,
    typer.Option("--sequence", help="A playlist: each item is chosen after those before it, none twice."),
]
Cap = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN=N",
        help="At most N items of a list that share a value of a catalogue column, e.g. --cap genres=3. "
        "Repeatable.",
    ),
]
ListOrder = Annotated[
    Literal["as made", "smooth", "score"],
    typer.Option(help="'as made', 'smooth' (each item followed by the most alike that is left) or 'score'."),
]

EngineName = Annotated[
    str | None, typer.Option(help="local or ray: workers do it. Default: this process does.")
]
Workers = Annotated[
    int | None, typer.Option(help="Each loads what it needs and has one thread. Default: one a core.")
]
Gpus = Annotated[float, typer.Option(help="GPUs of each worker (ray).")]


def chosen_engine(name: str | None, workers: int | None, gpus: float) -> Engine | None:
    """The engine that a stage was asked to have; None: none. Raises `ValueError` for workers of no engine."""
    from serving.engines import choose

    if name is None and (workers is not None or gpus):
        raise ValueError("--workers and --gpus are of an engine: add --engine local or --engine ray")
    return choose.engine(name, workers, gpus) if name else None


def refuse_no_run(path: Path) -> None:
    """Raises `RunError` for what is no run: said before anything is imported that works on one."""
    from recsys.run import Run

    Run.open(path)

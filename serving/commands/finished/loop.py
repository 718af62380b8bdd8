"""The command `prelude analyse loop`: the feedback loop on a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recsys.terminal import escaped
from serving.commands.options import RunPath, refuse_no_run


def loop(
    run: RunPath,
    method: Annotated[str, typer.Option(help="Key of the generator that goes on training.")] = "e2p",
    world: Annotated[
        Path | None,
        typer.Option(help="Folder of the made world of the events: its truth is what people choose by."),
    ] = None,
    people: Annotated[
        int, typer.Option(min=10, help="Simulated people, a seeded sample of test users.")
    ] = 300,
    rounds: Annotated[int, typer.Option(min=2, help="Lists shown, chosen from, and learned from.")] = 10,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions; intervals are over them.")] = 5,
    n: Annotated[int, typer.Option(min=2, max=1000, help="Items of a list.")] = 10,
    choices: Annotated[int, typer.Option(min=1, help="Items that a person chooses of a list.")] = 3,
    position: Annotated[float, typer.Option(min=0, help="Bias to the top of a list; 0: none.")] = 1.0,
    arm: Annotated[list[str] | None, typer.Option(help="Name of an arm. Repeatable. Default: all.")] = None,
) -> None:
    """Rounds of lists, simulated choices and learning: does exposure narrow, for whom, and which lever helps at what cost?

    Against random lists and retrieval; levers are temperature, caps and strength. Nothing of the run is changed; killed, it goes on.
    """
    refuse_no_run(run)
    from recsys.run import Run
    from serving.answering.methods import Methods
    from serving.config.truth import config_of
    from serving.studies.loop.study import Plan, analyse_loop

    opened = Run.open(run)
    with opened.lock():
        plan = Plan(people, rounds, seeds, n, choices, position)
        analyse_loop(Methods(opened, config_of(opened)), method, plan, world, arm)
    typer.echo(escaped(f"Figures and pictures: {run / 'analyses' / 'loop'}"))

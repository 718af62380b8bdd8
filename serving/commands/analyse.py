"""`prelude analyse METHOD RUN`: experiments on the methods of a finished run, written into RUN/analyses/."""

from __future__ import annotations

from typing import Annotated

import typer

from recsys.terminal import escaped
from serving.commands.options import RunPath, refuse_no_run

analyses = typer.Typer(
    no_args_is_help=True, help="Take a finished run's methods apart: figures and pictures."
)


@analyses.callback()
def _methods() -> None:
    """So that a method's name stays a command, while there is only one."""


@analyses.command()
def p2p(
    run: RunPath,
    method: Annotated[str, typer.Option(help="Key of a P2P of the run.")] = "p2p",
    instances: Annotated[int, typer.Option(help="Test instances at most.")] = 1000,
    encoder: Annotated[
        list[str] | None,
        typer.Option(help="Train it with this encoder too: minilm, backbone, a folder. Repeatable."),
    ] = None,
    diversity: Annotated[
        bool, typer.Option(help="Train it on few users' and many users' instances.")
    ] = False,
    oppu_seconds: Annotated[
        float | None,
        typer.Option(help="Seconds to train one user's adapter. Default: the run's oppu, timed."),
    ] = None,
) -> None:
    """P2P's analyses: what the profile says, k, encoders, user diversity, and the break-even against OPPU."""
    refuse_no_run(run)
    from recsys.run import Run
    from serving.answering.methods import Methods
    from serving.config.truth import config_of
    from serving.studies.p2p import analyse_p2p
    from serving.studies.p2p_pictures import print_p2p

    opened = Run.open(run)
    methods = Methods(opened, config_of(opened))
    with opened.lock():
        figures = analyse_p2p(methods, method, instances, encoder or (), diversity, oppu_seconds)
    print_p2p(figures)
    typer.echo(escaped(f"Figures and pictures: {run / 'analyses' / method}"))

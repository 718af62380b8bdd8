"""`prelude analyse METHOD RUN`: experiments on the methods of a finished run, written into RUN/analyses/."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recsys.terminal import escaped
from serving.commands.options import RunPath, refuse_no_run

if TYPE_CHECKING:
    from serving.answering.methods import Methods

analyses = typer.Typer(
    no_args_is_help=True, help="Take a finished run's methods apart: figures and pictures."
)


def _methods_of(path: Path) -> Methods:
    """The methods of the run at `path`. Raises where there is none."""
    refuse_no_run(path)
    from recsys.run import Run
    from serving.answering.methods import Methods
    from serving.config.truth import config_of

    run = Run.open(path)
    return Methods(run, config_of(run))


@analyses.command()
def context(
    run: RunPath,
    method: Annotated[str, typer.Option(help="Key of a method with soft tokens of a user's vector.")] = "e2p",
    control: Annotated[
        str | None,
        typer.Option(help="A method whose prefix is about nobody, beside it, such as static_prefix."),
    ] = None,
    shown: Annotated[
        list[int] | None,
        typer.Option(help="Items that the prompt shows. Repeatable. Default: 0 1 2 5 20 50."),
    ] = None,
    instances: Annotated[int, typer.Option(help="Test and validation instances at most.")] = 3000,
    users: Annotated[
        str | None,
        typer.Option(help="Test users of one group of prepare.user_split alone: random, ood or warm."),
    ] = None,
) -> None:
    """What a user's vector is worth by how many items the prompt shows: own, another user's, none; at matched calibration."""
    methods = _methods_of(run)
    from serving.studies.context_length import SHOWN, analyse_context, folder_of, print_context

    with methods.run.lock():
        found = analyse_context(methods, method, shown or SHOWN, instances, control, users)
    print_context(found)
    typer.echo(escaped(f"Figures and picture: {folder_of(run, method, users)}"))


@analyses.command()
def twins(
    runs: Annotated[
        list[Path], typer.Argument(help="Finished runs: seeds of one configuration, and other splits of it.")
    ],
    instances: Annotated[int, typer.Option(help="Test and validation instances at most.")] = 4000,
) -> None:
    """Every row as others measure it too: seen items set aside or not, by item and by code, new items, cold users, calibration."""
    found = []
    for path in runs:
        methods = _methods_of(path)
        from serving.studies.twins import analyse_twins, print_twins

        with methods.run.lock():
            found.append(analyse_twins(methods, instances))
    print_twins(found)


@analyses.command()
def shares(
    run: RunPath,
    instances: Annotated[int, typer.Option(help="Test and validation instances at most.")] = 2000,
) -> None:
    """What each factor of a product brings: its share of what sets items apart, and what is lost without it."""
    methods = _methods_of(run)
    from serving.studies.shares import analyse_shares, print_shares

    with methods.run.lock():
        found = analyse_shares(methods, instances)
    print_shares(found)
    typer.echo(escaped(f"Figures and picture: {run / 'analyses' / 'shares.json'}, shares.png"))


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
    methods = _methods_of(run)
    from serving.studies.p2p import analyse_p2p
    from serving.studies.p2p_pictures import print_p2p

    with methods.run.lock():
        figures = analyse_p2p(methods, method, instances, encoder or (), diversity, oppu_seconds)
    print_p2p(figures)
    typer.echo(escaped(f"Figures and pictures: {run / 'analyses' / method}"))


@analyses.command()
def newcomers(
    run: RunPath,
    events: Annotated[Path, typer.Option(help="Later events, as prelude update reads them.")],
    method: Annotated[
        list[str] | None, typer.Option(help="Keys of methods. Repeatable. Default: no_context, e2p.")
    ] = None,
    instances: Annotated[
        int, typer.Option(help="Events at most, of new items and of trained ones each.")
    ] = 2000,
) -> None:
    """Recall of items that no training saw, in a run that was refreshed with them, beside trained items and text retrieval."""
    refuse_no_run(run)
    from recsys.run import Run
    from serving.answering.feedback_files import read_feedback
    from serving.answering.methods import Methods
    from serving.config.truth import config_of
    from serving.studies.newcomers import newcomers_study, print_newcomers, save_newcomers

    version = Run.serving(run)
    file = read_feedback(version, events, {})
    found = newcomers_study(
        Methods(version, config_of(version)), file.events, method or ["no_context", "e2p"], instances
    )
    print_newcomers(found)
    typer.echo(escaped(f"Figures: {save_newcomers(found, run)}"))

"""The command `prelude audit`: what a run's lists do to people and to the catalogue, beyond accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recsys.terminal import escaped
from serving.commands.options import RunPath, refuse_no_run


def audit(
    run: RunPath,
    rows: Annotated[
        list[str] | None, typer.Option(help="Key of a method, such as e2p. Repeatable. Default: all.")
    ] = None,
    n: Annotated[int, typer.Option(min=1, max=1000, help="Items of a list.")] = 10,
    temperature: Annotated[
        float, typer.Option(min=0, help="Rows that draw are asked at it too. 0: as ranked alone.")
    ] = 1.0,
    instances: Annotated[int, typer.Option(min=1, help="Test users at most, a seeded sample.")] = 5000,
    users: Annotated[
        Path | None, typer.Option(help="Users: user_id and any columns, for --users-by.")
    ] = None,
    users_by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Group people by this column of --users too.")
    ] = None,
    items_by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Group items by this column of the catalogue too.")
    ] = None,
    kinds: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column of a taste. Default: the first with few values."),
    ] = None,
) -> None:
    """Coverage, Gini of exposure, popularity lift, calibration, novelty, diversity: of all rows, by groups of people and items.

    With intervals over people, and the worst group named where it is shown to be worse. Writes RUN/analyses/audit.
    """
    refuse_no_run(run)
    from recsys.run import Run
    from serving.answering.methods import Methods
    from serving.config.truth import config_of
    from serving.studies.audit_run import FOLDER, audit_run

    opened = Run.open(run)
    with opened.lock():
        audit_run(
            Methods(opened, config_of(opened)),
            rows,
            n,
            temperature,
            instances,
            users,
            users_by,
            items_by,
            kinds,
        )
    typer.echo(escaped(f"Figures, table and pictures: {run / 'analyses' / FOLDER}"))

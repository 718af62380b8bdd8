"""`prelude serve` and `prelude keys`: a run behind HTTP, and who may call it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from recsys.terminal import escaped
from serving.commands.options import RunPath, refuse_no_run

StateUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Where events and lists are kept: sqlite:///FILE, postgresql://… Default: the run's own, RUN/live/state.sqlite.",
    ),
]


def needs_extra() -> None:
    """Raises `ValueError` naming the extra where a service's packages are missing."""
    try:
        import fastapi  # noqa: F401
    except ImportError:
        raise ValueError("a service needs more packages: pip install '.[serve]'") from None


def serve(
    run: RunPath,
    host: Annotated[
        str, typer.Option(help="Address to listen on; another than loopback needs a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    state: StateUrl = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML of the service's settings.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes; each loads the run.")] = 1,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(
            metavar="local|ray", help="ray: Ray Serve, on this machine or the cluster of RAY_ADDRESS."
        ),
    ] = "local",
    replicas: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Of --engine ray; each loads the run.")
    ] = None,
) -> None:
    """Serve a finished run over HTTP: lists, events, users, named lists.

    Here, for oneself:   prelude serve runs/demo
    For other machines:  prelude keys runs/demo make --name shop --scope recommend --scope events
                         prelude serve runs/demo --host 0.0.0.0
    Several processes:   prelude serve runs/demo --workers 2 --state postgresql://prelude@db/prelude
    Under Ray Serve:     prelude serve runs/demo --engine ray --replicas 4

    A call:              curl -s localhost:8000/v1/recommend -H 'Content-Type: application/json' \
-d '{"user_id": "42", "n": 5}'
    """
    refuse_no_run(run)
    if config is not None and not config.is_file():
        raise ValueError(f"--config {config}: there is no such file")
    if engine == "local" and replicas is not None:
        raise ValueError("--replicas are of --engine ray; of --engine local there are --workers")
    if engine == "ray" and workers != 1:
        raise ValueError("--workers are of --engine local; of --engine ray there are --replicas")
    needs_extra()
    from serving.service.listen import serve as listen

    listen(run, host, port, state, config, workers, (replicas or 1) if engine == "ray" else None)


def keys(
    run: RunPath,
    action: Annotated[
        Literal["make", "list", "revoke"], typer.Argument(metavar="make|list|revoke", help="What to do.")
    ],
    name: Annotated[str | None, typer.Option(help="make: who it is for.")] = None,
    scope: Annotated[
        list[str] | None, typer.Option(help="make: recommend, events or admin. Repeatable.")
    ] = None,
    id_: Annotated[str | None, typer.Option("--id", help="revoke: the key's id.")] = None,
    state: StateUrl = None,
) -> None:
    """Make, list and revoke the keys of a service's callers.

    Make one:   prelude keys runs/demo make --name shop --scope recommend --scope events
    Look:       prelude keys runs/demo list

    A key is shown once, and its hash is kept. From the first one on every call
    needs a key, on loopback too. A revoked key stops working within 5 seconds.
    """
    refuse_no_run(run)
    if (action == "make") != bool(name and scope) or (action == "revoke") != bool(id_):
        raise ValueError("make needs --name and --scope, revoke needs --id, and nothing else takes them")
    needs_extra()
    from serving.state import keys as kept
    from serving.state.place import url_of
    from serving.state.store import State

    opened = State(state or url_of(run))
    try:
        if action == "make":
            typer.echo(
                opened.write(lambda connection: kept.make_key(connection, name or "", list(scope or [])))
            )
        elif action == "revoke":
            if not opened.write(lambda connection: kept.drop_key(connection, id_ or "")):
                raise ValueError(f"there is no key {id_}")
        else:
            for key in kept.all_keys(opened):
                made = datetime.fromtimestamp(key.made, UTC)
                typer.echo(escaped(f"{key.id}  {made:%Y-%m-%d}  {' '.join(sorted(key.scopes))}  {key.name}"))
    finally:
        opened.close()

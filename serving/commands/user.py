"""`prelude user`: a person's state in a run, shown, exported or deleted."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from recsys import terminal
from recsys.terminal import escaped, shown
from serving.commands.options import RunPath, refuse_no_run

if TYPE_CHECKING:  # the command line starts without pandas and torch
    from recsys.run import Run
    from serving.user_state import Holding


def user(
    run: RunPath,
    action: Annotated[
        Literal["show", "export", "delete"], typer.Argument(metavar="show|export|delete", help="What to do.")
    ],
    id_: Annotated[str, typer.Option("--id", help="User id, as in the interactions file.")],
    out: Annotated[
        Path | None, typer.Option(help="export: the JSON file to write; an existing one is not overwritten.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="delete: do not ask first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="show, delete: print JSON.")] = False,
) -> None:
    """Show, export or delete what a run holds of one person.

    Look:       prelude user runs/demo --id 42 show
    Hand over:  prelude user runs/demo --id 42 export --out 42.json
    Forget:     prelude user runs/demo --id 42 delete

    After a deletion no artifact of the run holds a row of theirs: events,
    queries, vectors and per-user rows are rewritten. manifest.json records
    when, and which artifacts, but not whom. Trained methods recommend to
    everyone else as before, finished stages stay finished, and the id is
    answered like one that the run has never seen. A deletion that is killed
    has not begun, or is completed by the next prelude command.

    Two things are out of its reach. Weights were trained on everyone's events:
    to be rid of those traces too, delete the folders embed to evaluate and run
    again. And your source files still name the person: the run refuses to
    prepare again, which would bring them back.
    """
    refuse_no_run(run)
    from recsys.run import Run
    from serving import user_state

    if (out is not None) != (action == "export"):
        raise ValueError("export needs --out FILE, and nothing else takes it")
    opened = Run.serving(run)
    if action == "export":
        assert out is not None
        rows = user_state.export(opened, id_, out)
        typer.echo(escaped(f"{rows:,} rows of user {id_} written to {out}"))
        return
    held = user_state.show(opened, id_)
    if action == "show":
        _print(held, f"What {run} holds of user {id_}", opened, as_json)
    else:
        if not yes:
            _print(held, f"What {run} holds of user {id_}", opened, False)
            typer.confirm("Delete all of it, for good?", abort=True)
        _delete(opened, id_, as_json)


def _delete(run: Run, user_id: str, as_json: bool) -> None:
    from serving import user_state

    record = user_state.delete(run, user_id)
    if as_json:
        typer.echo(terminal.as_json(record))
    else:
        typer.echo(escaped(f"Deleted from {run.path}. No artifact holds a row of theirs."))
        typer.echo(escaped(f"Rewritten: {', '.join(record['rewritten'])}"))
        if record["removed"]:
            typer.echo(escaped(f"Removed: {', '.join(record['removed'])}"))
        typer.echo(user_state.STAYS)
    if "report.html" in record["removed"] and user_state.remake_report(run) and not as_json:
        typer.echo(escaped(f"Drawn again without their vector: {run.path / 'report.html'}"))


def _print(held: list[Holding], title: str, run: Run, as_json: bool) -> None:
    if as_json:
        typer.echo(terminal.as_json([asdict(holding) for holding in held]))
        return
    has_clock = run.read_json("prepare", "prepare.json")["time"] == "unix_seconds"
    table = Table(title=terminal.title(title), title_justify="left")
    table.add_column("artifact")
    table.add_column("rows", justify="right")
    table.add_column("of which")
    for holding in held:
        facts = [escaped(f"{name}: {_text(name, value, has_clock)}") for name, value in holding.facts.items()]
        table.add_row(shown(holding.artifact), f"{holding.rows:,}", shown("\n".join(facts), lines=True))
    Console().print(table)


def _text(name: str, value: Any, has_clock: bool) -> str:
    if name in ("first", "last") and has_clock:
        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if isinstance(value, dict):
        return ", ".join(f"{count} {role}" for role, count in value.items())
    return str(value)

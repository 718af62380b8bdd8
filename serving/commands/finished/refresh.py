"""`prelude refresh`: today's items, embeddings and events into a run, as a version that serves; and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from recsys import terminal
from recsys.terminal import escaped
from serving.commands.options import RunPath, refuse_no_run

if TYPE_CHECKING:  # the command line starts without pandas and torch
    from serving.refresh.refresh import Version

DAILY = "Any format that the door reads; columns as those of the run's own file."


def refresh(
    run: RunPath,
    items: Annotated[
        Path | None, typer.Option(help=f"Today's catalogue: item_id, title, text columns. {DAILY}")
    ] = None,
    events: Annotated[Path | None, typer.Option(help=f"Yesterday's events. {DAILY}")] = None,
    user_embeddings: Annotated[
        Path | None, typer.Option(help="user_id, timestamp, vector; of a run that was trained on such.")
    ] = None,
    item_embeddings: Annotated[
        Path | None, typer.Option(help="item_id, vector, and maybe timestamp.")
    ] = None,
    absent: Annotated[
        Literal["retire", "keep"],
        typer.Option(help="What becomes of items that the items file does not name."),
    ] = "retire",
    recode: Annotated[
        bool, typer.Option("--recode", help="Code items anew whose words or vector changed.")
    ] = False,
    accept: Annotated[
        list[str] | None, typer.Option(help="A reason of the gate that does not stop this night. Repeatable.")
    ] = None,
    most_residual: Annotated[
        float, typer.Option(help="How far aligned embeddings may be from the run's, 0 to 1.4.")
    ] = 0.7,
    method: Annotated[
        str | None, typer.Option(help="What the gate asks. Default: what each version answers with.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")
    ] = False,
    for_whom: Annotated[
        bool, typer.Option("--for-whom", help="Say to whom the newest items are recommended.")
    ] = False,
    back: Annotated[bool, typer.Option("--back", help="Have the version before serve again.")] = False,
    back_to: Annotated[
        int | None, typer.Option(help="… or this one; 0 is the run as it was trained.")
    ] = None,
    keep: Annotated[
        int | None, typer.Option(help="Drop versions but so many newest; nothing else is done.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Bring a run up to today, without training: items that are new or gone, embeddings, events.

    A night:  prelude refresh runs/mine --items today.parquet --events yesterday.parquet
    Look:     prelude refresh runs/mine --items today.parquet --dry-run
    Back:     prelude refresh runs/mine --back

    The run becomes its next version, as a whole or not at all: what answers
    (recommend, playlists, export, a service when it reloads) reads the version
    that serves. New items get semantic IDs from their words, or vector, and
    nobody else's moves; retired ones are in no answer and may return. A version
    that is clearly worse on yesterday's events is not published. docs/refresh.md
    has the rules.
    """
    refuse_no_run(run)
    from serving.refresh import refresh as nights

    if back or back_to is not None:
        number = nights.go_back(run, back_to)
        typer.echo(escaped(f"{run}: {_named(number)} serves"))
        return
    if keep is not None:
        gone = nights.keep_newest(run, keep)
        typer.echo(
            escaped(f"{run}: dropped {len(gone)} version(s){': ' if gone else ''}{', '.join(map(str, gone))}")
        )
        return
    choices = nights.Choices(absent, recode, tuple(accept or ()), most_residual, method)
    found = nights.refresh(run, items, events, user_embeddings, item_embeddings, dry_run, choices)
    if as_json:
        typer.echo(
            terminal.as_json(
                {
                    "serves": found.number,
                    "published": found.published,
                    "refused": found.refused,
                    "facts": found.facts,
                }
            )
        )
    else:
        _print(run, found, dry_run)
    if for_whom and not dry_run:
        from serving.answering.recommender import Recommender
        from serving.refresh.audience import audience

        for line in audience(Recommender.load(run)):
            typer.echo(escaped(line))
    if found.refused:
        raise typer.Exit(1)


def _named(number: int) -> str:
    return f"version {number}" if number else "the run as it was trained"


def _print(run: Path, found: Version, dry_run: bool) -> None:
    from serving.refresh.told import told

    for line in told(str(run), found, dry_run):
        typer.echo(escaped(line))

"""`prelude export` and `import`: a finished run as one small folder, and back; and one user's adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from recsys.terminal import escaped, shown
from serving.commands.options import Moment, RunPath, refuse_no_run

if TYPE_CHECKING:  # the command line starts without pandas and torch
    from serving.export.folder import Summary


def export(
    run: RunPath,
    out: Annotated[Path, typer.Option(help="Folder to write; an existing one is not overwritten.")],
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this of the trained methods (or products of one), and what it is built on. Repeatable."
        ),
    ] = None,
    without_users: Annotated[
        bool, typer.Option("--without-users", help="No ids, events, queries or rows of users.")
    ] = False,
) -> None:
    """Write what a run answers with to one small folder.

    All of it:      prelude export runs/demo --out demo-1
    One method:     prelude export runs/demo --out demo-1 --method e2p
    Of nobody:      prelude export runs/demo --out demo-1 --without-users
    Elsewhere:      prelude import demo-1 --run runs/demo

    The folder needs no training and no data files: it has the catalogue,
    semantic IDs, the adapter, the trained methods, vectors, and users with
    their histories, and nothing of training. It is a run directory:
    Recommender.load("demo-1") and every command that asks a run read it where
    it lies. SHA256SUMS has the hash of each file.

    A downloaded backbone (smollm2) is not copied: the machine that answers
    must have it, and its hash is checked when the run is loaded. A backbone
    that was trained from scratch is copied.

    --without-users takes out everything that is somebody's; what that is gets
    printed. Whoever asks then brings a history:
    recommender.recommend("anyone", history=["296", "593"]). Methods that are
    nothing but rows of users (OPPU, PER-PCS) are left out, and so are item-kNN
    and products that have it as an expert, whose similarities spell out
    histories; the others answer a history as the whole run answers it for
    somebody whom it does not know.

    An export that is killed has written nothing at --out.
    """
    refuse_no_run(run)
    from serving.export.folder import export_run

    found = export_run(run, out, method, without_users)
    _print(found, f"{run} exported to {out}")
    typer.echo(escaped(f"Ask it: prelude recommend {out}     Move it: prelude import {out} --run RUN"))


def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that prelude export wrote.")],
    run: Annotated[Path, typer.Option("--run", "-r", help="Run directory to make.")],
) -> None:
    """Verify an exported run and put it in place as a run directory.

    prelude import demo-1 --run runs/demo
    prelude recommend runs/demo --user 42

    Every file is checked against SHA256SUMS; one that is damaged, missing or
    added is named, and then nothing is imported. A run directory that holds
    something else is left alone; importing the same folder twice does nothing.

    The imported run answers (recommend, playlists), takes in feedback
    (update), and shows, exports or deletes a person (user). It does not train.
    """
    from serving.export.folder import import_run, summary

    if not import_run(folder, run):
        typer.echo(
            escaped(f"{run} holds this export already, every file as it was exported; nothing was done.")
        )
        return
    _print(summary(run), f"{folder} imported as {run}")
    typer.echo(escaped(f"Ask it: prelude recommend {run}"))


def export_adapter(
    run: RunPath,
    user: Annotated[str, typer.Option(help="User id, as in the interactions file.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    query: Annotated[
        str | None, typer.Option(help="What the user asks for; P2P's profile depends on it.")
    ] = None,
    method: Annotated[str, typer.Option(help="A method whose update is a LoRA.")] = "p2p",
    seed: Annotated[int | None, typer.Option(help="Trained replica; default: the first.")] = None,
    time: Moment = None,
) -> None:
    """Write the LoRA that a method uses for one user (and query) as a PEFT adapter."""
    refuse_no_run(run)
    from serving.export import adapter

    typer.echo(escaped(adapter.export_adapter(run, user, out, query, method, seed, time)))


def _print(found: Summary, title: str) -> None:
    facts, console = found.exported, Console()
    typer.echo(escaped(title))  # a path as it is: a table's title is folded at the table's width
    table = Table()
    table.add_column("part")
    table.add_column("KiB", justify="right")
    for name, size in sorted(found.sizes.items(), key=lambda pair: -pair[1]):
        table.add_row(shown(name or "configuration, manifest, hashes"), f"{size / 1024:,.1f}")
    table.add_row("all", f"{found.bytes / 1024:,.1f}", style="bold")
    console.print(table)
    backbone = facts["backbone"]
    where = "its weights are in the folder" if backbone["weights_are_here"] else (
        "not in the folder; its hash is checked when the run is loaded"
    )  # fmt: skip
    for line in (
        f"Methods: {', '.join(facts['methods'])}",
        f"Backbone: {backbone['name']} ({backbone['sha256'][:16]}…), {where}",
        f"From: {facts['run']} ({facts['identity'][:16]}…), Prelude {facts['prelude']}",
        "Left out:",
        *(f"  - {line}" for line in facts["left_out"]),
    ):
        console.print(shown(line), highlight=False)

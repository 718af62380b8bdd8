"""Commands about time: absorbing feedback, and the experiments over a stream of later events."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from recsys import terminal
from recsys.terminal import escaped, shown
from serving.commands.options import Changes, Moment, RunPath, refuse_no_run
from serving.commands.serve import StateUrl

if TYPE_CHECKING:  # the command line starts without pandas and torch
    from recsys.run import Run
    from serving.answering.feedback_files import FeedbackFile
    from serving.answering.live import Update
    from serving.config.run import RunConfig

EventsPath = Annotated[
    Path,
    typer.Option(
        "--events", help="A file or folder, read as prepare reads interactions: user_id,item_id,timestamp."
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        help="Ours=yours, e.g. --column user_id=uid. Repeatable. Default: as the run's interactions.",
    ),
]


def online(run: RunPath, set_: Changes = None) -> None:
    """Compare ways to absorb a stream of feedback into TAP-PER: Static, Online-Emb, \
Online-Full, Full-Retrain.

    Each user's first half of what Stage 1 has not fitted trains Stage 2; the rest comes in five chunks, \
each predicted
    before it is absorbed. Writes online.json and pictures into RUN/online. Killed, it resumes.
    """
    refuse_no_run(run)
    from serving.studies import over_time

    _experiment(run, set_ or [], "online", over_time.online)


def drift(run: RunPath, set_: Changes = None) -> None:
    """Measure a frozen E2P on embeddings that go on: stale, refreshed, of a retrained GNN, and that aligned.

    Writes drift.json and pictures into RUN/drift. Killed, it resumes.
    """
    refuse_no_run(run)
    from serving.studies import over_time

    _experiment(run, set_ or [], "drift", over_time.measure_drift)


def update(
    run: RunPath,
    events: EventsPath,
    batch_id: Annotated[
        str | None,
        typer.Option(help="Name of the batch; the same one is absorbed once. Default: a hash of the events."),
    ] = None,
    column: Columns = None,
    state: StateUrl = None,
) -> None:
    """Absorb feedback into a run: histories at once, and rows of TAP-PER's P_u \
within the budget of online.max_steps.

    Every other user keeps their row and their recommendations, bit by bit. Written in one transaction to RUN/live, or to the
    service's --state: one update costs the same at the millionth as at the first, and several wait for each other.

    Columns, times and kinds are read as those of the run's interactions. A late event goes to its place in time, an event that
    came before (with its event_id, or the same user, item and time) is one, and one of more than a day ahead of this machine's \
clock is left out. Events of items that the run does not know are stored, for a catalogue that does. All of it is said.
    """
    refuse_no_run(run)
    from serving.answering.recommender import Recommender

    service = Recommender.load(run, state=state)
    file = _read(service.methods.run, events, column)
    _print_update(service.update(file.events, batch_id, place=file.place), file)


def update_into_new_run(
    run: RunPath,
    events: EventsPath,
    out: Annotated[Path, typer.Option(help="The new run's directory; it may not exist.")],
    column: Columns = None,
) -> None:
    """Absorb feedback into all of TAP-PER (P_u, P_q and the bridge), as a new run; \
the old one stays as it is."""
    refuse_no_run(run)
    from recsys.run import Run
    from serving.studies.online_full import online_full

    file = _read(Run.open(run), events, column)
    _print_update(online_full(run, file.events, out, file.place), file)
    Console().print(shown(f"The new run: {out}"), highlight=False)


def attention(
    run: RunPath,
    user: Annotated[str, typer.Option(help="User id, as in the interactions file.")],
    method: Annotated[str, typer.Option(help="A TAP-PER with a P_q.")] = "tap_per",
    query: Annotated[str | None, typer.Option(help="What the user asks for, in words.")] = None,
    time: Moment = None,
    out: Annotated[Path | None, typer.Option(help="The picture. Default: attention-USER.png here.")] = None,
    n: Annotated[int, typer.Option("--n", "-n", help="How many records to list.")] = 10,
) -> None:
    """Show what P_q looks at in one user's history, with its time biases and without, \
as a picture and a table."""
    refuse_no_run(run)
    from rich.table import Table

    from serving.answering.recommender import Recommender
    from serving.report.attention import attention_of

    path = out or Path(f"attention-{''.join(c if c.isalnum() else '_' for c in user)}.png")
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: there is no folder {path.parent}")
    service = Recommender.load(run)
    found = attention_of(service, user, method, query, time)
    asked = f", who asks for “{query}”" if query else ""
    path.write_bytes(found.picture(f"User {user}{asked}: attention over {len(found.items):,} records"))
    table = Table(
        title=terminal.title(f"What is looked at most; the picture is {path}"), title_justify="left"
    )
    for column in ("title", "days ago", *found.weights):
        table.add_column(shown(column), justify="left" if column == "title" else "right")
    for row in found.top(service, n):
        table.add_row(
            shown(row["title"]), f"{row['days_ago']:,.1f}", *(f"{row[name]:.4f}" for name in found.weights)
        )
    Console().print(table)


def _experiment(path: Path, changes: list[str], name: str, stage: Any) -> None:
    from serving.studies.over_time import print_over_time

    config, run = _opened(path, changes)
    with run.lock():
        report = stage(config, run)
    print_over_time(report, Console())
    Console().print(shown(f"{name}: {run.path / name}"), highlight=False)


def _opened(path: Path, changes: list[str]) -> tuple[RunConfig, Run]:
    from recsys.run import Run
    from serving.config.truth import config_of

    run = Run.open(path)
    return config_of(run, changes), run


def _read(run: Run, path: Path, column: list[str] | None) -> FeedbackFile:
    """Events of a file, as the door reads them."""
    from serving.answering.feedback_files import read_feedback

    columns = dict(pair.split("=", 1) for pair in column or [] if "=" in pair)
    if len(columns) < len(column or []):
        raise ValueError(f"--column {' '.join(column or [])}: expected ours=yours, for example user_id=uid")
    return read_feedback(run, path, columns)


def _print_update(done: Update, file: FeedbackFile) -> None:
    from serving.answering.live import FAR_DAYS

    if not done.absorbed:
        typer.echo(escaped(f"batch {done.batch_id} had been absorbed before; nothing was done"))
        return
    trained = (
        f"{done.steps} steps on their rows of {done.method}"
        if done.steps
        else "no method with rows of users to train"
    )
    said = (
        f"absorbed {done.events:,} events of {done.users:,} users ({done.new_users:,} of them new, "
        f"{done.known:,} events known before); "
        f"{trained}; {done.seconds:.1f} s; batch {done.batch_id}"
    )
    typer.echo(escaped(said))
    for reason, rows in file.left_out.items():
        typer.echo(escaped(f"left out as prepare leaves them out: {rows:,} rows ({reason})"))
    why = {
        "item_id": "stored, but no history until the run knows their items",
        "time": "left out, as they are more than a day ahead of this machine's clock",
    }
    for reason, counted in done.ignored.items():
        typer.echo(escaped(f"{why[reason]}: events: {counted}"))
    why = {
        "before": "from before the run's first event (are their times right?)",
        "after": f"from more than {FAR_DAYS} days after the run's last event (are their times right, or is the run old?)",
    }
    for when, counted in done.odd.items():
        typer.echo(escaped(f"absorbed, but {why[when]}: events: {counted}"))

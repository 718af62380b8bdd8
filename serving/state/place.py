"""Where a run's own state is: events that `prelude update` and a service took in, one file for both."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.artifacts.paths import RunError
from recsys.artifacts.rewrite import no_link
from serving.state.files import only_read

if TYPE_CHECKING:  # commands start without SQLAlchemy
    from serving.state.store import State

FOLDER = "live"  # of the run
NAME = "state.sqlite"
BESIDE = "service.sqlite"  # where services kept it before: RUN.service.sqlite, beside the run
LEAVING = f"{FOLDER}/leaving.json"  # the id of somebody who is deleted, from the run's commit until they are gone here too


def file_of(run: Path) -> Path:
    """The SQLite file of a run's own state, whether there is one yet or not.

    Raises `RunError` where feedback lies there as earlier versions kept it, and nobody has taken it over.
    """
    if has_old_journal(run):
        raise RunError(
            f"{run / FOLDER} holds feedback as an earlier Prelude kept it; whatever loads the run takes it over: ask it once, with "
            f"prelude recommend {run} --user ID"
        )
    inside, beside = run / FOLDER / NAME, run.resolve().with_name(f"{run.resolve().name}.{BESIDE}")
    return beside if beside.exists() and not inside.exists() else inside


def has_old_journal(run: Path) -> bool:
    """Is there feedback as it was kept before there was a state (`serving.answering.kept.old_journal`)?"""
    return (run / FOLDER / "stage.json").is_file()


def url_of(run: Path) -> str:
    """The URL of a run's own state; the folder that it lies in is made."""
    path = file_of(run.resolve())
    path.parent.mkdir(exist_ok=True)
    return f"sqlite:///{path}"


def own_state(run: Path) -> State | None:
    """A run's own state to be read; None: nothing was absorbed yet."""
    if not _is_begun(file_of(run)):
        return None
    from serving.state.store import State

    finish_leaving(run)
    return State(f"sqlite:///{file_of(run).resolve()}", writes=False)


def _is_begun(file: Path) -> bool:
    """Has it tables? Who was killed, or had no room, when they were made has left a file that says nothing; whoever writes makes them."""
    import sqlite3

    if not file.exists():
        return False
    try:
        with closing(sqlite3.connect(only_read(file.resolve()), uri=True)) as state:
            return state.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None
    except sqlite3.Error:
        return True  # what is wrong with it is said by who opens it


def finish_leaving(run: Path) -> None:
    """Forget whom a deletion from the run was of, if it was killed between the run's files and its state."""
    leaving = run / LEAVING
    if not leaving.exists():
        return
    if file_of(run).exists():
        from serving.state.persons import forget_person
        from serving.state.store import State

        state = State(url_of(run))
        forget_person(state, json.loads(leaving.read_text(encoding="utf-8")))
        state.close()
    leaving.unlink(missing_ok=True)


@contextmanager
def one_at_a_time(run: Path) -> Iterator[None]:
    """Wait for whoever else (thread or process of this machine) absorbs feedback into the run or forgets a person in it."""
    (run / FOLDER).mkdir(exist_ok=True)
    with open(run / FOLDER / ".lock", "a+", opener=no_link) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def copy_state(run: Path, to: Path) -> None:
    """Copy what a run's own state holds of people into the run `to`: their events, batches and rows, as one file at rest.

    Keys, named lists and lists that were shown are the service's, and stay behind. The same content gives the same bytes.
    """
    import sqlite3

    finish_leaving(run)
    target = to / FOLDER / NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    if (state := own_state(run)) is not None:  # which brings it up to the newest version
        state.close()
    with closing(sqlite3.connect(f"{file_of(run).resolve().as_uri()}?mode=ro", uri=True)) as source:
        source.execute("VACUUM INTO ?", (str(target),))
    with closing(sqlite3.connect(target, isolation_level=None)) as copied:
        for table in ("keys", "lists", "shown"):
            copied.execute(f"DELETE FROM {table}")
        copied.execute("VACUUM")
        copied.execute("PRAGMA journal_mode=DELETE")


def at_rest(run: Path) -> None:
    """Put all of a run's own state into its one file, nothing beside it."""
    import sqlite3

    with closing(sqlite3.connect(file_of(run), isolation_level=None)) as state:
        state.execute("PRAGMA journal_mode=DELETE")


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """`one_at_a_time`, where the run has a state."""
    with one_at_a_time(run) if file_of(run).exists() else nullcontext():
        yield

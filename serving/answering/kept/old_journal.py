"""Feedback as earlier versions kept it (a journal of files in RUN/live), taken over into the run's state."""

from __future__ import annotations

import json
from typing import Any

import pyarrow.parquet as pq
import sqlalchemy as sa
from safetensors import safe_open

from recsys.data.dataset import Dataset
from recsys.run import Run
from serving.answering.kept.trained_rows import key_of
from serving.state import place
from serving.state.batches import is_there, put_batch
from serving.state.events import FEEDBACK, Event, add_events
from serving.state.states import put_states
from serving.state.store import State, sqlite_url


def take_over(run: Run, dataset: Dataset) -> None:
    """Store the journal's events, batches and rows of P_u in RUN/live/state.sqlite, in one transaction; then its files go.

    Killed in between, it begins again, and nothing is there twice. Nothing is done where there is no such journal.
    """
    folder = run.home / place.FOLDER
    if not place.has_old_journal(run.home):
        return
    with place.one_at_a_time(run.home):
        record = Run(run.home).record(place.FOLDER)
        if record is None:  # another process has done it
            return
        state = State(sqlite_url(folder / place.NAME))

        def write(connection: sa.Connection) -> None:
            names: dict[int, str] = {}
            for number, batch in enumerate(record["batches"]):
                _take(connection, run, dataset, batch, number, names)

        state.write(write)
        state.close()
        files = [name for batch in record["batches"] for name in (batch["events"], batch["states"]) if name]
        for name in ("stage.json", *files):
            (folder / name).unlink(missing_ok=True)
        Run(run.home).update_manifest()


def _take(
    connection: sa.Connection,
    run: Run,
    dataset: Dataset,
    batch: dict[str, Any],
    number: int,
    names: dict[int, str],
) -> None:
    if batch["id"] is not None and is_there(connection, batch["id"], batch["digest"]):
        return
    rows = pq.ParquetFile(Run(run.home).artifact(place.FOLDER, batch["events"])).read().to_pylist()
    names |= {row["user"]: row["user_id"] for row in rows}
    items = dataset.catalogue.item_ids
    add_events(
        connection,
        [
            Event(
                f"journal {number} {at}", row["user_id"], str(items[row["item"]]), FEEDBACK, int(row["time"])
            )
            for at, row in enumerate(rows)
        ],
    )

    def name_of(user: int) -> str:
        return str(dataset.user_ids[user]) if user < dataset.n_users else names[user]

    if batch["id"] is not None:
        people = batch.get("people")
        known = people if people is not None else [row["user"] for row in rows]
        put_batch(connection, batch["id"], batch["digest"], {name_of(user) for user in known} - {""})
    if batch["states"]:
        with safe_open(str(Run(run.home).artifact(place.FOLDER, batch["states"])), framework="pt") as file:
            users = file.get_tensor("users").tolist()
            for method in json.loads(file.metadata()["user_rows"]):
                moved = dict(zip(map(name_of, users), file.get_tensor(method).numpy(), strict=True))
                put_states(connection, key_of(run, method), moved)

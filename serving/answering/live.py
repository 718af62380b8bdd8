"""Feedback that a run has absorbed since it was made: `live/`, a journal that is only ever added to.

    live/
      events-000001.parquet       user (integer), user_id, item, time of a batch's events
      states-000001.safetensors   the users' new rows of P_u, by method; sparse: `users` says whose
                                  (`user_rows` in its metadata)
      stage.json                  the batches in order (each with its id, a hash of its events, and `people`:
                                  the integers of all whose events were given, null where one of them has none),
                                  the sha256 of each file, what the journal goes with

A batch's files are written first, under temporary names, flushed and renamed; the rename of `stage.json` is
the commit. So a batch is absorbed whole or not at all, wherever a process is killed. Replaying the journal
over the run gives the state.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open

from recsys.artifacts.manifest import sha256_of
from recsys.artifacts.paths import RunError
from recsys.artifacts.rewrite import to_disk, write_text_atomically
from recsys.artifacts.user_rows import save_user_rows
from recsys.config import StageConfig
from recsys.data.dataset import Dataset
from recsys.data.later_events import LiveHistories
from recsys.door.times import one_moment
from recsys.door.values import CONTROL, shortly
from recsys.run import Run
from serving.answering.known import Counted, checked_id

LIVE = "live"
NEEDS = ("prepare", "adapt", "personalize")  # what user integers and rows of P_u are worth nothing without
# Feedback later than so many days after the run's last event is absorbed, and said: another clock, or a run long out of date
FAR_DAYS = 366
LONGEST_BATCH_ID = 200
Event = tuple[str, str, int]  # user id, item id, unix seconds


def place_in_list(number: int) -> str:
    """How messages name an event of a list."""
    return f"events[{number}]"


class _Nothing(StageConfig):
    """A journal has no settings of its own: each batch says what it cost."""


@dataclass(frozen=True)
class Feedback:
    """Checked events, by (user, time): ids [n], integers [n], times [n], and the histories that hold them."""

    user_ids: list[str]
    users: np.ndarray
    items: np.ndarray
    times: np.ndarray
    # [m, 3] user, item, time of all events that were given, each once; also those the histories held before
    given: np.ndarray
    known: int  # events that were in the histories before, or given twice, and are not taken again
    after: LiveHistories
    # integers of all whose events were given, whatever came of those; None: of somebody whom nobody knows
    people: list[int] | None
    unknown_items: Counted | None = None  # events of items that the catalogue lacks; they are left out

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class Update:
    """What `Recommender.update` did."""

    batch_id: str
    absorbed: bool  # False: this batch had been absorbed before, and nothing was done
    events: int = 0
    known: int = 0  # events that the histories already held
    users: int = 0
    new_users: int = 0
    steps: int = 0  # gradient steps on rows of P_u; 0 where the run has no method with such rows
    method: str | None = None  # whose rows
    ignored: dict[str, Counted] = field(
        default_factory=dict
    )  # "item_id": events of items that the run does not know
    # absorbed, but "before" the run's first event, or more than `FAR_DAYS` days "after" its last
    odd: dict[str, Counted] = field(default_factory=dict)
    seconds: float = field(compare=False, default=0.0)


class LiveState:
    """A run's data with its journal replayed."""

    def __init__(self, run: Run, dataset: Dataset, only: int | None = None):
        """`only`: the first so many batches of the journal, whatever is absorbed later; default: all."""
        self.run, self.histories, self.only = run, LiveHistories(dataset), only
        self.rows: dict[str, dict[int, torch.Tensor]] = {}  # method key -> user integer -> row [L·h] of P_u
        self.batches: list[dict[str, Any]] = []
        self.replay()

    def replay(self) -> None:
        """Take in what the journal holds and this object does not.

        Raises `RunError` for a journal of another run.
        """
        record = self.run.record(LIVE)
        if record is None:
            return
        if record["made_from"]["stages"] != self._made_from()["stages"]:
            raise RunError(
                f"{self.run.path}/{LIVE} was absorbed by other artifacts than the run now has (a stage was "
                "run again); "
                f"delete {self.run.path}/{LIVE} and absorb the events again"
            )
        for batch in record["batches"][len(self.batches) : self.only]:
            self._take(batch)

    def _take(self, batch: dict[str, Any]) -> None:
        table = pq.ParquetFile(self.run.artifact(LIVE, batch["events"])).read()
        ids = table["user_id"].to_pylist()
        columns = {name: table[name].to_numpy() for name in ("user", "item", "time")}
        self.histories.add(ids, columns["user"], columns["item"], columns["time"])
        if batch["states"]:
            with safe_open(str(self.run.artifact(LIVE, batch["states"])), framework="pt") as file:
                users = file.get_tensor("users").tolist()
                for key in json.loads(file.metadata()["user_rows"]):
                    rows = dict(zip(users, file.get_tensor(key), strict=True))
                    self.rows.setdefault(key, {}).update(rows)
        self.batches.append(batch)

    def find(self, batch_id: str, digest: str) -> bool:
        """Has the batch been absorbed? Raises `ValueError` if its id was used for other events."""
        for batch in self.batches:
            if batch["id"] == batch_id:
                if batch["digest"] != digest:
                    raise ValueError(
                        f"batch id {batch_id!r} was used for other events; give this batch its own"
                    )
                return True
        return False

    def check(self, events: Sequence[Event], place: Callable[[int], str] = place_in_list) -> Feedback:
        """`checked` events as integers, by (user, time), without those that the histories hold.

        Events of items that the catalogue lacks are left out and counted; whoever has no other is no new
        user.
        """
        after, catalogue = self.histories.copy(), self.histories.dataset.catalogue
        rows, seen, unknown = [], set(), []
        for number, (user_id, item_id, moment) in enumerate(events):
            item = catalogue.number(item_id)
            if item is None:
                unknown.append(number)
            else:
                rows.append((user_id, after.number(user_id), item, moment))
        left_out = None
        if unknown:
            left_out = Counted(len(unknown), f"{place(unknown[0])}, {events[unknown[0]][1]!r}")
        known = {row[1]: after.events(row[1]) for row in rows}
        held = {user: set(zip(i.tolist(), t.tolist(), strict=True)) for user, (i, t) in known.items()}
        fresh = []
        for row in sorted(rows, key=lambda row: (row[1], row[3])):
            _, user, item, moment = row
            if (item, moment) not in held[user] and row not in seen:
                fresh.append(row)
                seen.add(row)
        user_ids = [row[0] for row in fresh]
        numbers = np.array([row[1:] for row in fresh], np.int64).reshape(-1, 3)
        users, items, times = numbers[:, 0], numbers[:, 1], numbers[:, 2]
        after.add(user_ids, users.tolist(), items, times)
        given = np.unique(np.array([row[1:] for row in rows], np.int64).reshape(-1, 3)[:, [0, 2, 1]], axis=0)[
            :, [0, 2, 1]
        ]
        people = {after.user_index(events[number][0]) for number in unknown} | known.keys()
        everyone = None if None in people else sorted(int(user) for user in people if user is not None)
        return Feedback(
            user_ids, users, items, times, given, len(rows) - len(fresh), after, everyone, left_out
        )

    def commit(
        self,
        batch_id: str,
        digest: str,
        feedback: Feedback,
        users: np.ndarray,
        states: dict[str, torch.Tensor],
        facts: dict[str, Any],
    ) -> None:
        """Write a batch: its events, and `states` (method key -> rows [n, L·h] of `users` [n], ascending)."""
        assert self.only is None, "a state that leaves batches out cannot number the next"
        folder = self.run.inside(LIVE)
        folder.mkdir(exist_ok=True)
        number = len(self.batches) + 1
        batch = {
            "id": batch_id,
            "digest": digest,
            "events": f"events-{number:06}.parquet",
            "states": None,
            "people": feedback.people,
        } | facts
        table = pa.table(
            {
                "user": feedback.users,
                "user_id": pa.array(feedback.user_ids, pa.string()),
                "item": feedback.items,
                "time": feedback.times,
            }
        )
        write_durably(folder / batch["events"], lambda path: pq.write_table(table, path))
        if states:
            batch["states"] = f"states-{number:06}.safetensors"
            tensors = {key: rows.cpu().contiguous() for key, rows in states.items()}
            owners = torch.from_numpy(users)
            write_durably(folder / batch["states"], lambda path: save_user_rows(path, tensors, owners))
        self.record([*self.batches, batch])
        self._take(batch)

    def record(self, batches: list[dict[str, Any]]) -> None:
        """Write `stage.json`: the commit."""
        folder, before = self.run.path / LIVE, self.run.record(LIVE) or {"artifacts": {}, "seconds": 0.0}
        names = [name for batch in batches for name in (batch["events"], batch["states"]) if name]
        known = before["artifacts"]
        made_from = self._made_from()
        record = {
            "fingerprint": hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest(),
            "made_from": made_from,
            "artifacts": {name: known.get(name) or sha256_of(folder / name) for name in names},
            "seconds": round(before["seconds"] + batches[-1].get("seconds", 0.0), 2),
            "finished_unix_s": time.time(),
            "batches": batches,
        }
        write_text_atomically(self.run.inside(f"{LIVE}/stage.json"), json.dumps(record, indent=1))
        to_disk(folder)

    def _made_from(self) -> dict[str, Any]:
        home = Run(self.run.home)  # the journal is of all its versions
        return home.stage(LIVE, _Nothing(), needs=NEEDS).made_from


def digest_of(events: Sequence[Event]) -> str:
    """A hash of events, whatever their order."""
    return hashlib.sha256(json.dumps(sorted(map(list, events))).encode()).hexdigest()


def without_person(record: dict[str, Any], number: int, rewritten: Collection[str]) -> set[str]:
    """Take a person's batches out of reach, in place, in the journal's record or in one that is built on it.

    Of each batch that had an event of theirs (new or known before) the id and the hash go: whoever guesses the events
    could confirm them by either. Its place in the order stays, and so do the ids and hashes of all other batches, by which
    those are still absorbed once. A batch that does not say whose events it was given counts as touched: one of an older
    journal, or with events of somebody whom nobody knew. `rewritten`: names of the journal's files that held rows of theirs. Returns the ids that went.
    """
    gone = set()
    for batch in record["batches"]:
        people = batch.get("people")
        if people is None or number in people or {batch["events"], batch["states"]} & set(rewritten):
            gone.add(batch["id"])
            batch |= {"id": None, "digest": None}
            if people is not None:
                batch["people"] = [one for one in people if one != number]
    return gone - {None}


def checked_batch_id(batch_id: Any) -> str:
    """The name of a batch. Raises `ValueError` for what is none."""
    if not isinstance(batch_id, str) or not batch_id.strip() or len(batch_id) > LONGEST_BATCH_ID:
        raise ValueError(
            f"batch_id is {shortly(batch_id)}; expected text of 1 to {LONGEST_BATCH_ID} characters, or nothing"
        )
    if re.search(rf"{CONTROL}|[\ud800-\udfff]", batch_id):
        raise ValueError(
            f"batch_id is {shortly(batch_id)}, which holds a control character or half a character"
        )
    return batch_id


def checked(place: str, event: Any, is_clock: bool = True) -> Event:
    """An event as (user id, item id, unix seconds). Raises `ValueError` naming its place."""
    if not isinstance(event, Sequence) or isinstance(event, str) or len(event) != 3:
        raise ValueError(f"{place}: expected (user_id, item_id, unix seconds), got {shortly(event)}")
    user_id, item_id = (
        checked_id(value, f"{place}: {name}")
        for name, value in zip(("user_id", "item_id"), event[:2], strict=True)
    )
    moment = one_moment(event[2], f"{place}: time", is_clock)
    if user_id is None:
        raise ValueError(f"{place}: user_id is blank; feedback belongs to somebody")
    if item_id is None:
        raise ValueError(f"{place}: item_id is blank; feedback is about something")
    return user_id, item_id, moment


def odd_times(
    prepared: Mapping[str, Any], events: Sequence[Event], place: Callable[[int], str]
) -> dict[str, Counted]:
    """How many events lie before the run's first, and how many far after its last, each with the first of them.

    `prepared` is the run's prepare.json. Where the data has an order and no clock, nothing is far after.
    """
    first, last = prepared["time_range"]
    far = last + FAR_DAYS * 86_400 if prepared["time"] == "unix_seconds" else float("inf")
    found = {
        "before": [number for number, event in enumerate(events) if event[2] < first],
        "after": [number for number, event in enumerate(events) if event[2] > far],
    }
    return {
        when: Counted(len(numbers), f"{place(numbers[0])}, time {events[numbers[0]][2]}")
        for when, numbers in found.items()
        if numbers
    }


def write_durably(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file under a temporary name, flush it to disk, and rename it into place."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # what lies there may be a link to somewhere else
    write(temporary)
    to_disk(temporary)
    os.replace(temporary, path)

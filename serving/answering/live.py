"""Feedback that a run has absorbed since it was made: events in a state (`serving.state`), read a person at a time.

    RUN/live/state.sqlite   events in the order in which they came, batches, rows of P_u: what `prelude update` and a service of
                            this run take in, one truth for both (`serving.state.place`)

An update is one transaction: it is absorbed whole or not at all, wherever a process is killed, and costs the same however much was
absorbed before. Events have raw ids, so they outlast the run's other artifacts: an event of an item that the catalogue does not
know is history as soon as a catalogue does. Rows of P_u go with the training that they go on from.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sqlalchemy as sa

from recsys.artifacts.paths import RunError
from recsys.data.dataset import Dataset
from recsys.data.later_events import LiveHistories
from recsys.door.times import one_moment
from recsys.door.values import CONTROL, shortly
from recsys.run import Run
from serving.answering.kept.old_journal import take_over
from serving.answering.kept.trained_rows import TrainedRows, key_of
from serving.answering.known import Counted, checked_id
from serving.state import place
from serving.state.batches import is_there, put_batch
from serving.state.events import FEEDBACK, TAKEN, Event, add_events, last_event
from serving.state.histories import StoredHistories
from serving.state.states import put_states
from serving.state.store import State, StateError
from serving.state.tables import ID

# Feedback later than so many days after the run's last event is absorbed, and said: another clock, or a run long out of date
FAR_DAYS = 366
AHEAD_S = 86_400  # a clock may be wrong by so much; what is said to have happened later than that has not
LONGEST_BATCH_ID = 200
# integers of people whom the run does not know: far above the run's own; of a state of the run beside a service's, above those
FIRST_NUMBER, FIRST_BESIDE = 1 << 40, 1 << 41
Given = tuple[str, str, int, str | None]  # user id, item id, moment, the event's own id


def place_in_list(number: int) -> str:
    """How messages name an event of a list."""
    return f"events[{number}]"


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
    people: int = 0  # whose events were taken
    new_people: int = 0  # of them: those whom nobody knew
    unknown_items: Counted | None = None  # events of items that the catalogue lacks; they are no history yet

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
    # "item_id": events of items that the run does not know, stored for a catalogue that does; "time": those of a time to come
    ignored: dict[str, Counted] = field(default_factory=dict)
    # absorbed, but "before" the run's first event, or more than `FAR_DAYS` days "after" its last
    odd: dict[str, Counted] = field(default_factory=dict)
    seconds: float = field(compare=False, default=0.0)


class LiveState:
    """A run's data, and on top of it what one or two states hold."""

    def __init__(
        self,
        run: Run,
        dataset: Dataset,
        only: int | None = None,
        state: State | None = None,
        taken: tuple[str, ...] = TAKEN,
        row: int | None = None,
    ):
        """`only`: read up to that event, whatever is absorbed later, and rows of P_u up to `row`; None: to the newest.

        `state`: a service's; the run's own is read too, where it is another. `taken`: types of events that are history, beside
        feedback.
        """
        self.run, self.only, self.taken, self.row = run, only, taken, row
        self.histories = LiveHistories(dataset)
        self.sources: list[StoredHistories] = []
        self._rows: dict[str, TrainedRows] = {}
        take_over(run, dataset)
        is_own = state is not None and state.is_file(place.file_of(run.home))
        own = None if is_own else place.own_state(run.home)
        if own is not None:
            self._read(own, FIRST_NUMBER if state is None else FIRST_BESIDE)
        if state is not None:
            self._read(state, FIRST_NUMBER)

    @property
    def seq(self) -> int:
        """Up to which event the state is read that updates go into; 0: nothing was absorbed."""
        return self.sources[-1].seq if self.sources else 0

    def rows(self, method: str) -> TrainedRows:
        """Rows of P_u that feedback has moved."""
        if method not in self._rows:
            self._rows[method] = TrainedRows(key_of(self.run, method), self.histories, self.sources)
        return self._rows[method]

    def replay(self, until: int | None = None) -> None:
        """See what this or another process has stored since (`until`: up to that event)."""
        if not self.sources and (own := place.own_state(self.run.home)) is not None:
            self._read(own, FIRST_NUMBER)
        upto = until if self.only is None else self.only
        for source in self.sources:
            limit = upto if source is self.sources[-1] else None
            before, source.seq = source.seq, last_event(source.state) if limit is None else limit
            if source.seq != before:
                self.histories.forget(source.since(before))
        for rows in self._rows.values():
            rows.forget()

    def check(self, events: Sequence[Given], place: Callable[[int], str] = place_in_list) -> Feedback:
        """`checked` events as integers, by (user, time), without those that the histories hold.

        Events of items that the catalogue lacks are left out and counted; whoever has no other is no new
        user.
        """
        catalogue = self.histories.dataset.catalogue
        items = [catalogue.number(item_id) for _, item_id, *_ in events]
        unknown = [number for number, item in enumerate(items) if item is None]
        known = {event[0]: self.histories.user_index(event[0]) for event in events}
        after = self.histories.only(user for user in known.values() if user is not None)
        rows = [
            (event[0], after.number(event[0]), item, event[2])
            for event, item in zip(events, items, strict=True)
            if item is not None
        ]
        held: dict[int, set[tuple[int, int]]] = {}
        fresh = []
        for row in sorted(rows, key=lambda row: (row[1], row[3])):
            _, user, item, moment = row
            if user not in held:
                held[user] = set(zip(*(part.tolist() for part in after.events(user)), strict=True))
            if (item, moment) not in held[user]:
                held[user].add((item, moment))
                fresh.append(row)
        numbers = np.array([row[1:] for row in fresh], np.int64).reshape(-1, 3)
        users, taken, times = numbers[:, 0], numbers[:, 1], numbers[:, 2]
        user_ids = [row[0] for row in fresh]
        after.add(user_ids, users.tolist(), taken, times)
        given = np.array([row[1:] for row in rows], np.int64).reshape(-1, 3)
        given = np.unique(given[:, [0, 2, 1]], axis=0)[:, [0, 2, 1]]
        left_out = (
            Counted(len(unknown), f"{place(unknown[0])}, {events[unknown[0]][1]!r}") if unknown else None
        )
        people = set(user_ids)
        new = sum(known[user_id] is None for user_id in people)
        return Feedback(
            user_ids, users, taken, times, given, len(rows) - len(fresh), after, len(people), new, left_out
        )

    def writes_into(self) -> State:
        """The state that updates go into, opened to be written, and made where there was none."""
        assert self.only is None, "a state that leaves events out cannot take in more"
        if self.sources and self.sources[-1].state.writes:
            return self.sources[-1].state
        state = State(place.url_of(self.run.home))
        if self.sources:
            self.sources[-1].state.close()
            self.sources[-1].state = state
        else:
            self._read(state, FIRST_NUMBER)
        return state

    def commit(
        self,
        batch_id: str,
        digest: str,
        events: Sequence[Given],
        states: Mapping[str, Mapping[str, np.ndarray]],
    ) -> None:
        """Store a batch: its events, and `states` (method -> user id -> row [L·h]). All of it, or nothing."""
        stored = [Event(event[3] or _id_of(event), *event[:2], FEEDBACK, event[2]) for event in events]

        def write(connection: sa.Connection) -> None:
            add_events(connection, stored)
            put_batch(connection, batch_id, digest, (event[0] for event in events))
            for method, rows in states.items():
                put_states(connection, key_of(self.run, method), dict(rows))

        try:
            self.writes_into().write(write)
        except StateError as error:
            raise RunError(
                f"{self.run.home}: the feedback was not absorbed, none of it: {error}; send it again"
            ) from error
        self.replay()

    def find(self, batch_id: str, digest: str) -> bool:
        """Has the batch been absorbed? Raises `ValueError` if its id was used for other events."""
        try:
            with self.writes_into().reading() as connection:
                return is_there(connection, batch_id, digest)
        except StateError as error:
            raise RunError(f"{self.run.home}: no feedback can be absorbed: {error}") from error

    def _read(self, state: State, first: int) -> None:
        number = self.histories.dataset.catalogue.number
        self.sources.append(StoredHistories(state, number, first, self.taken, self.only, self.row))
        self.histories.later.append(self.sources[-1])


def _id_of(event: Given) -> str:
    """The id of an event that has none of its own: sent again, it is the same."""
    return f"feedback {hashlib.sha256(json.dumps(event[:3]).encode()).hexdigest()[:32]}"


def digest_of(events: Sequence[Given]) -> str:
    """A hash of events, whatever their order."""
    rows = sorted([*event[:3], *filter(None, event[3:])] for event in events)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


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


def checked(place: str, event: Any, is_clock: bool = True) -> Given:
    """An event as (user id, item id, unix seconds, its own id or None). Raises `ValueError` naming its place."""
    if not isinstance(event, Sequence) or isinstance(event, str) or len(event) not in (3, 4):
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
    own = checked_id(event[3], f"{place}: event_id") if len(event) == 4 else None
    for name, value in (("user_id", user_id), ("item_id", item_id), ("event_id", own)):
        if len(value or "") > ID:
            raise ValueError(f"{place}: {name} is longer than {ID} characters")
    return user_id, item_id, moment, own


def checked_events(
    given: Iterable[Any], place: Callable[[int], str] = place_in_list, is_clock: bool = True
) -> list[Given]:
    """`checked`, of each. An event's place, which a file is read for, is asked for where the event is wrong and nowhere else."""
    found = []
    for number, event in enumerate(given):
        try:
            found.append(checked("", event, is_clock))
        except ValueError:
            found.append(checked(place(number), event, is_clock))
    return found


def to_come(events: Sequence[Given], is_clock: bool) -> list[int]:
    """Which events are of more than `AHEAD_S` after this machine's clock.

    They are a clock's mistake, and would move their people's now to a time that nobody has seen.
    """
    latest = time.time() + AHEAD_S
    return [number for number, event in enumerate(events) if is_clock and event[2] > latest]


def odd_times(
    prepared: Mapping[str, Any], events: Sequence[Given], place: Callable[[int], str]
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
        when: counted
        for when, numbers in found.items()
        if (counted := counted_times(events, numbers, place)) is not None
    }


def counted_times(
    events: Sequence[Given], numbers: Sequence[int], place: Callable[[int], str]
) -> Counted | None:
    """How many events these are, with the first of them and its time; None: none."""
    if not numbers:
        return None
    return Counted(len(numbers), f"{place(numbers[0])}, time {events[numbers[0]][2]}")

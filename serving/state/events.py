"""Events as they come: stored once by their id, and read again in the order in which they were taken in."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from serving.state.store import State
from serving.state.tables import events, people

# types of events that `prelude update` stores, and those that are history where a service's settings say nothing else
FEEDBACK, TAKEN = "feedback", ("click", "play", "like")
SOME = 400  # ids of one statement: SQLite takes at most 32,766 parameters, older ones 999


@dataclass(frozen=True)
class Event:
    """What somebody did. `time` is in the run's clock; `is_timed`: the caller gave it, and it is not when the event came in."""

    event_id: str
    user_id: str
    item_id: str
    type: str
    time: int
    recommendation_id: str | None = None
    is_timed: bool = field(default=True, compare=False)


@dataclass(frozen=True)
class Kept:
    """An event as it was taken in: the `seq`-th, by the person with an integer of the state's own."""

    seq: int
    person: int
    event: Event


class EventConflict(ValueError):
    """An event's id was used for another event."""


def add_events(connection: sa.Connection, new: Sequence[Event]) -> int:
    """Store events; returns how many were new (`add_new`)."""
    return len(add_new(connection, new))


def add_new(connection: sa.Connection, new: Sequence[Event]) -> list[Event]:
    """Store events; returns those that were new: one that is there already is not stored again.

    Raises `EventConflict` where an id is there with other contents (then nothing of `new` is stored).
    """
    once: dict[str, Event] = {}
    for event in new:
        _same(once.setdefault(event.event_id, event), event)
    fresh = dict(once)
    for some in _parts(list(once)):
        for kept in _rows(connection, events.c.event_id.in_(some)):
            _same(kept.event, fresh.pop(kept.event.event_id))
    if fresh:
        numbers = numbers_of(connection, {event.user_id for event in fresh.values()})
        now = time.time()
        connection.execute(
            sa.insert(events),
            [
                {
                    "event_id": event.event_id,
                    "person": numbers[event.user_id],
                    "item_id": event.item_id,
                    "type": event.type,
                    "time": event.time,
                    "received": now,
                    "recommendation_id": event.recommendation_id,
                }
                for event in fresh.values()
            ],
        )
    return list(fresh.values())


def events_after(state: State, seq: int, until: int | None = None, most: int = 10_000) -> list[Kept]:
    """At most so many events after the `seq`-th, in order; `until`: and up to that one."""
    which = events.c.seq > seq
    with state.reading() as connection:
        return list(
            _rows(connection, which if until is None else sa.and_(which, events.c.seq <= until), most)
        )


def count_by_item(state: State) -> list[tuple[str, int]]:
    """How many events of each item are history: things that were had."""
    had = events.c.type.in_((FEEDBACK, *TAKEN))
    query = sa.select(events.c.item_id, sa.func.count()).where(had).group_by(events.c.item_id)
    with state.reading() as connection:
        return [(item_id, count) for item_id, count in connection.execute(query)]


def last_event(state: State) -> int:
    """The number of the newest event; 0: there is none."""
    with state.reading() as connection:
        return connection.scalar(sa.select(sa.func.max(events.c.seq))) or 0


def events_of(connection: sa.Connection, user_id: str) -> list[dict[str, Any]]:
    """All that somebody did, as it was taken in."""
    number = sa.select(people.c.number).where(people.c.user_id == user_id).scalar_subquery()
    columns = [column for column in events.c if column.name not in ("seq", "person")]
    rows = connection.execute(sa.select(*columns).where(events.c.person == number).order_by(events.c.seq))
    return [dict(row._mapping) for row in rows]


def _same(old: Event, new: Event) -> None:
    if FEEDBACK in (old.type, new.type):  # a file of feedback does not say what kind it was
        new = replace(new, type=old.type, recommendation_id=old.recommendation_id)
    if old != (new if new.is_timed else replace(new, time=old.time)):
        raise EventConflict(f"event id {new.event_id!r} was used for another event; give this one its own")


def _parts(ids: list[str]) -> Iterable[list[str]]:
    return (ids[start : start + SOME] for start in range(0, len(ids), SOME))


def _rows(connection: sa.Connection, which: Any, most: int | None = None) -> Iterable[Kept]:
    columns = [events.c.seq, events.c.person, events.c.event_id, people.c.user_id, events.c.item_id]
    columns += [events.c.type, events.c.time, events.c.recommendation_id]
    query = sa.select(*columns).join(people, people.c.number == events.c.person).where(which)
    for seq, person, *rest in connection.execute(query.order_by(events.c.seq).limit(most)):
        yield Kept(seq, person, Event(*rest))


def numbers_of(connection: sa.Connection, user_ids: set[str]) -> dict[str, int]:
    """The integer of each person, made where there was none."""
    found: dict[str, int] = {}
    for some in _parts(sorted(user_ids)):
        query = sa.select(people.c.user_id, people.c.number).where(people.c.user_id.in_(some))
        there = {row.user_id: row.number for row in connection.execute(query)}
        new = [{"user_id": user_id} for user_id in some if user_id not in there]
        if new:
            connection.execute(sa.insert(people), new)
            there = {row.user_id: row.number for row in connection.execute(query)}
        found |= there
    return found

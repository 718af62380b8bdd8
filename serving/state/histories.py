"""Histories as a state has them: a person's events when they are asked for, found by an index, up to a stated event."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import sqlalchemy as sa

from serving.state.events import FEEDBACK, TAKEN, last_event
from serving.state.store import State
from serving.state.tables import events, people, states


class StoredHistories:
    """What people did, of the types that are history, as of the `seq`-th event of a state (`recsys.data.later_events.Later`).

    Numbers are the state's own, `first` and up: the same in every process, and never given twice.
    """

    def __init__(
        self,
        state: State,
        item_number: Callable[[str], int | None],
        first: int,
        taken: tuple[str, ...] = TAKEN,
        seq: int | None = None,
        row: int | None = None,
    ):
        """`seq`: the newest event that is read; None: the newest that there is now. `row`: the change up to which rows of P_u are
        read; None: all that knew no later event, also those that are learned after this.
        """
        self.state, self.first, self.item_number, self.row = state, first, item_number, row
        self.taken = (FEEDBACK, *taken)
        self.seq = last_event(state) if seq is None else seq

    def of(self, user_id: str) -> tuple[int, np.ndarray, np.ndarray] | None:
        """The number of a person, items [n] and times [n], in the order in which they were taken in.

        None: there is no event of theirs of an item that is known.
        """
        columns = (people.c.number, events.c.item_id, events.c.time)
        query = sa.select(*columns).join(people, people.c.number == events.c.person).order_by(events.c.seq)
        which = (people.c.user_id == user_id, events.c.seq <= self.seq, events.c.type.in_(self.taken))
        with self.state.reading() as connection:
            rows = connection.execute(query.where(*which)).all()
        found = [(self.item_number(item_id), moment) for _, item_id, moment in rows]
        known = np.array([(item, moment) for item, moment in found if item is not None], np.int64)
        return (self.first + rows[0][0], known[:, 0], known[:, 1]) if len(known) else None

    def numbers(self) -> dict[str, int]:
        """User id -> integer of everybody who did something, whatever came of it."""
        there = sa.exists().where(events.c.person == people.c.number, events.c.seq <= self.seq)
        with self.state.reading() as connection:
            rows = connection.execute(sa.select(people.c.user_id, people.c.number).where(there))
            return {user_id: self.first + number for user_id, number in rows}

    def since(self, seq: int) -> list[str]:
        """Ids of people whose events came after `seq`."""
        query = sa.select(people.c.user_id).join(events, people.c.number == events.c.person)
        with self.state.reading() as connection:
            return list(
                connection.scalars(query.where(events.c.seq > seq, events.c.seq <= self.seq).distinct())
            )


def identity(state: State, upto: int, row: int | None = None) -> str:
    """A hash of all that answers may depend on: events up to a number, and rows of P_u that knew no later one, up to the change `row`."""
    digest = hashlib.sha256()
    columns = (events.c.seq, people.c.user_id, events.c.item_id, events.c.type, events.c.time)
    done = sa.select(*columns).join(people, people.c.number == events.c.person).where(events.c.seq <= upto)
    rows = sa.select(states.c.user_id, states.c.method, states.c.state).where(states.c.upto <= upto)
    if row is not None:
        rows = rows.where(states.c.seq <= row)
    with state.reading() as connection:
        for event_row in connection.execute(done.order_by(events.c.seq)):
            digest.update(repr(tuple(event_row)).encode())
        for state_row in connection.execute(rows.order_by(states.c.seq, states.c.user_id, states.c.method)):
            digest.update(repr(tuple(state_row)).encode())
    return digest.hexdigest()

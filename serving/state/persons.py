"""What the state holds of one person, to be handed over and to be deleted so that no byte of it is left in its files."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import sqlalchemy as sa

from serving.state.batches import forget_batches
from serving.state.events import events_of
from serving.state.lists import say
from serving.state.shown import shown_to
from serving.state.store import State
from serving.state.tables import batch_people, batches, events, people, shown, states


def held(state: State, user_id: str) -> dict[str, Any]:
    """Events, shown lists and trained states of a person."""
    with state.reading() as connection:
        query = sa.select(states.c.method, sa.func.max(states.c.upto)).where(states.c.user_id == user_id)
        trained = connection.execute(query.group_by(states.c.method)).all()
        newest = sa.select(states.c.state).where(states.c.user_id == user_id).order_by(states.c.seq.desc())
        vectors = {
            method: np.frombuffer(
                connection.scalar(newest.where(states.c.method == method)) or b"", "<f4"
            ).tolist()
            for method, _ in trained
        }
        return {
            "events": events_of(connection, user_id),
            "shown": [asdict(one) for one in shown_to(connection, user_id)],
            "states": [
                {"method": method, "events_seen": seq, "row": vectors[method]} for method, seq in trained
            ],
        }


def forget_person(state: State, user_id: str) -> int:
    """Delete all rows of a person and, of SQLite's files, what stood there; returns how many rows there were.

    Deleted rows are overwritten with zeros (`secure_delete`), and the log of writes is emptied into the
    database. PostgreSQL is told to write the tables anew; what its own log of writes (WAL) and backups of it hold is
    the administrator's to end.
    """

    def forget(connection: sa.Connection) -> int:
        number = connection.scalar(sa.select(people.c.number).where(people.c.user_id == user_id))
        statements = [
            sa.delete(events).where(events.c.person == number),
            sa.delete(shown).where(shown.c.user_id == user_id),
            sa.delete(states).where(states.c.user_id == user_id),
            sa.delete(people).where(people.c.number == number),
        ]
        if number is not None:
            forget_batches(connection, number)
        rows = sum(connection.execute(statement).rowcount for statement in statements)
        if rows:
            say(connection, "gone", "")
        return rows

    rows = state.write(forget)
    if rows or state.is_sqlite:  # who was killed before its sweep has deleted the rows and left their bytes
        sweep(state)
    return rows


def sweep(state: State) -> None:
    """Leave no byte of deleted rows in the database's files, as far as a statement can."""
    if state.is_sqlite:
        with state.reading() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").all()
    else:
        with state.reading() as connection:
            for table in (events, shown, states, batch_people, batches, people):
                connection.exec_driver_sql(f"VACUUM (FULL) {table.name}")

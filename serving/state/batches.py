"""Batches of feedback: each is taken in once, by its id and the hash of its events."""

from __future__ import annotations

import time
from collections.abc import Iterable

import sqlalchemy as sa

from serving.state.events import SOME, numbers_of
from serving.state.tables import batch_people, batches, people


def is_there(connection: sa.Connection, batch_id: str, digest: str) -> bool:
    """Has the batch been taken in? Raises `ValueError` if its id was used for other events."""
    kept = connection.scalar(sa.select(batches.c.digest).where(batches.c.id == batch_id))
    if kept is not None and kept != digest:
        raise ValueError(f"batch id {batch_id!r} was used for other events; give this batch its own")
    return kept is not None


def put_batch(connection: sa.Connection, batch_id: str, digest: str, user_ids: Iterable[str]) -> None:
    """Say that a batch was taken in, and whose events it held; for use in the transaction that stores these."""
    values = {"id": batch_id, "digest": digest, "made": time.time()}
    key = connection.execute(sa.insert(batches).values(**values)).inserted_primary_key
    assert key is not None  # of one row
    number = key[0]
    rows = [{"person": one, "batch": number} for one in numbers_of(connection, set(user_ids)).values()]
    for start in range(0, len(rows), SOME):
        connection.execute(sa.insert(batch_people), rows[start : start + SOME])


def of_person(connection: sa.Connection, user_id: str) -> list[str]:
    """Ids of the batches that held events of somebody."""
    query = sa.select(batches.c.id).join(batch_people, batch_people.c.batch == batches.c.number)
    query = query.join(people, people.c.number == batch_people.c.person)
    return list(connection.scalars(query.where(people.c.user_id == user_id, batches.c.id.is_not(None))))


def forget_batches(connection: sa.Connection, person: int) -> None:
    """Take ids and hashes of a person's batches away: whoever guesses the events could confirm them by either.

    A place for the batch stays, and so do all other batches, by which those are still taken in once.
    """
    theirs = sa.select(batch_people.c.batch).where(batch_people.c.person == person)
    connection.execute(sa.update(batches).where(batches.c.number.in_(theirs)).values(id=None, digest=None))
    connection.execute(sa.delete(batch_people).where(batch_people.c.person == person))

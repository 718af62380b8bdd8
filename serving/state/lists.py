"""Named lists of item ids (what is in stock, what may not be shown), and news of what has changed for every process."""

from __future__ import annotations

import json
import time
import zlib
from typing import NamedTuple

import sqlalchemy as sa

from serving.state.store import State
from serving.state.tables import changes, lists


class Change(NamedTuple):
    """What a process has to hear of: `kind` is "list", "state", "gone" or "run"."""

    seq: int
    kind: str
    name: str


def put_list(connection: sa.Connection, name: str, ids: list[str]) -> bool:
    """Put a list in the place of the one of that name; whether there was none. Readers see the one or the other."""
    body = zlib.compress(json.dumps(ids, ensure_ascii=False).encode(), 1)
    new = not connection.execute(sa.delete(lists).where(lists.c.name == name)).rowcount
    connection.execute(sa.insert(lists).values(name=name, count=len(ids), made=time.time(), ids=body))
    say(connection, "list", name)
    return new


def drop_list(connection: sa.Connection, name: str) -> bool:
    """Delete a list; whether there was one."""
    there = bool(connection.execute(sa.delete(lists).where(lists.c.name == name)).rowcount)
    say(connection, "list", name)
    return there


def get_list(state: State, name: str) -> list[str] | None:
    """The ids of a list, in the order in which they were given."""
    with state.reading() as connection:
        body = connection.scalar(sa.select(lists.c.ids).where(lists.c.name == name))
    return None if body is None else json.loads(zlib.decompress(body))


def all_lists(state: State) -> list[tuple[str, int, float]]:
    """Name, number of ids, and when it was put there, of each list."""
    with state.reading() as connection:
        query = sa.select(lists.c.name, lists.c.count, lists.c.made).order_by(lists.c.name)
        return [tuple(row) for row in connection.execute(query)]


def say(connection: sa.Connection, kind: str, name: str) -> int:
    """Tell every process; the number of the change."""
    key = connection.execute(sa.insert(changes).values(kind=kind, name=name)).inserted_primary_key
    assert key is not None  # of one row
    return key[0]


def gone_after(connection: sa.Connection, seq: int) -> bool:
    """Has somebody been deleted after the `seq`-th change? What was made before may hold something of theirs."""
    query = sa.select(sa.exists().where(changes.c.seq > seq, changes.c.kind == "gone"))
    return bool(connection.scalar(query))


def changes_after(state: State, seq: int) -> list[Change]:
    """What has changed after the `seq`-th change, in order."""
    with state.reading() as connection:
        query = sa.select(changes.c.seq, changes.c.kind, changes.c.name).where(changes.c.seq > seq)
        return [Change(*row) for row in connection.execute(query.order_by(changes.c.seq))]


def last_change(state: State) -> int:
    """The number of the newest change; 0: there is none."""
    with state.reading() as connection:
        return connection.scalar(sa.select(sa.func.max(changes.c.seq))) or 0

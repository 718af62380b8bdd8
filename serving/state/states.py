"""Rows of P_u that a service's events have trained: written with news of it, read by every process."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import sqlalchemy as sa

from serving.state.lists import say
from serving.state.store import State
from serving.state.tables import changes, states


class TrainedState(NamedTuple):
    """A user's row [L·h] (float32) of a method; `seq`: the change that it came with."""

    user_id: str
    seq: int
    row: np.ndarray


def put_states(connection: sa.Connection, method: str, rows: dict[str, np.ndarray]) -> None:
    """Put users' rows in the place of those that they had."""
    say(connection, "state", method)
    seq = connection.scalar(sa.select(sa.func.max(changes.c.seq)))
    connection.execute(sa.delete(states).where(states.c.method == method, states.c.user_id.in_(list(rows))))
    new = [
        {"user_id": user_id, "method": method, "seq": seq, "state": np.asarray(row, "<f4").tobytes()}
        for user_id, row in rows.items()
    ]
    connection.execute(sa.insert(states), new)


def states_after(state: State, method: str, seq: int) -> list[TrainedState]:
    """Rows of a method that came after a change."""
    with state.reading() as connection:
        query = sa.select(states.c.user_id, states.c.seq, states.c.state)
        query = query.where(states.c.method == method, states.c.seq > seq).order_by(states.c.seq)
        return [
            TrainedState(user_id, number, np.frombuffer(row, "<f4"))
            for user_id, number, row in connection.execute(query)
        ]

"""Rows of P_u that events have trained: written with news of it, read by every process, as they are or as they were."""

from __future__ import annotations

import time

import numpy as np
import sqlalchemy as sa

from serving.state.lists import say
from serving.state.tables import events, states

KEPT_S = 7 * 86_400  # how long a row stays after a newer one came: a night's job reads the state as it was


def put_states(connection: sa.Connection, method: str, rows: dict[str, np.ndarray]) -> None:
    """Put users' rows on top of those that they had; what was older than `KEPT_S` goes."""
    seq = say(connection, "state", method)
    upto = connection.scalar(sa.select(sa.func.max(events.c.seq))) or 0
    now = time.time()
    newer = states.alias()
    has_newer = sa.exists().where(
        newer.c.user_id == states.c.user_id,
        newer.c.method == states.c.method,
        newer.c.seq > states.c.seq,
        newer.c.made < now - KEPT_S,
    )
    for user_id, row in rows.items():
        mine = sa.and_(states.c.method == method, states.c.user_id == user_id)
        connection.execute(sa.delete(states).where(mine, has_newer))
        values = {"user_id": user_id, "method": method, "seq": seq, "upto": upto, "made": now}
        connection.execute(sa.insert(states).values(state=np.asarray(row, "<f4").tobytes(), **values))

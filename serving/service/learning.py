"""P_u follows a service's events (Online-Emb): a few steps for the rows of who did something, when nobody waits for a list."""

from __future__ import annotations

import numpy as np
import sqlalchemy as sa

from serving.answering.absorb import train
from serving.answering.live import Feedback
from serving.service.served import Served
from serving.state.lists import gone_after
from serving.state.states import put_states

MOST = 64  # events of one turn: whoever asks meanwhile waits as long as it takes


def learn(served: Served) -> int:
    """Train the rows of people whose events wait (`Served.to_learn`), at most `MOST` events, within the budget of the run's `online`
    section, and store them; returns how many rows there are anew.

    Nothing else changes. A process learns from the events that it took in itself, and what waits when it ends is not
    made up for: histories, vectors and P_q have those events all the same.
    """
    some, served.to_learn = served.to_learn[:MOST], served.to_learn[MOST:]
    if not some:
        return 0
    # integers are asked for now that the events are read: a newcomer has none before
    who = {user_id: served.histories.user_index(user_id) for user_id, *_ in some}
    there = [
        (user_id, user, item, moment) for user_id, item, moment in some if (user := who[user_id]) is not None
    ]
    if not there:  # they were deleted meanwhile
        return 0
    there.sort(key=lambda row: (row[1], row[3]))  # as of an update (`LiveState.check`)
    ids, rows = [user_id for user_id, *_ in there], np.array([row for _, *row in there], np.int64)
    users, items, times = rows.T
    feedback = Feedback(ids, users, items, times, rows, 0, served.histories)
    done = train(served.recommender, feedback, served.methods.config.online, False)
    if done is None:
        served.to_learn = []
        return 0
    id_of = dict(zip(users.tolist(), ids, strict=True))
    found = {id_of[user]: row.cpu().numpy() for user, row in zip(done.users.tolist(), done.rows, strict=True)}

    def put(connection: sa.Connection) -> bool:
        if gone_after(connection, served.change):  # one of them, perhaps: they would be back
            return False
        put_states(connection, served.state_key, found)
        return True

    return len(found) if served.state.write(put) else 0

"""Rows of P_u, as they are and as they were when a job was planned."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from recsys.data.later_events import LiveHistories
from serving.answering.kept.trained_rows import TrainedRows
from serving.state.events import Event, add_events
from serving.state.histories import StoredHistories, identity
from serving.state.lists import last_change
from serving.state.states import put_states
from serving.state.store import State, sqlite_url

NOBODY: Any = SimpleNamespace(n_users=0, user_index=lambda _: None)  # a run's data without a user


def test_a_row_that_is_learned_after_a_job_was_planned_is_not_the_job_s(tmp_path):
    """It may know no later event than the job does, and come in the middle of it all the same."""
    state = State(sqlite_url(tmp_path / "state.sqlite"))
    state.write(lambda connection: add_events(connection, [Event("e", "u1", "i1", "like", 5)]))

    def put(value: float) -> None:
        state.write(lambda connection: put_states(connection, "m", {"u1": np.full(2, value)}))

    def row(upto: int | None) -> list[float]:
        stored = StoredHistories(state, {"i1": 1}.get, 1000, seq=1, row=upto)
        histories = LiveHistories(NOBODY, [stored])
        user = histories.user_index("u1")
        assert user is not None
        return TrainedRows("m", histories, [stored])[user].tolist()

    put(1.0)
    planned = last_change(state)
    before = identity(state, 1, planned)
    put(2.0)
    assert (row(planned), row(None)) == ([1.0, 1.0], [2.0, 2.0])
    assert identity(state, 1, planned) == before != identity(state, 1)
    state.close()

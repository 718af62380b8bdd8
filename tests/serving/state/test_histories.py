"""Histories as a state has them: a person at a time, up to an event; rows of P_u as they were; batches and who leaves them."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from recsys.artifacts.paths import RunError
from serving.state import batches, persons, place
from serving.state.events import FEEDBACK, Event, EventConflict, add_events
from serving.state.histories import StoredHistories, identity
from serving.state.states import KEPT_S, put_states
from serving.state.store import State, StateError, sqlite_url
from serving.state.tables import events, states

ITEMS = {f"i{n}": n for n in range(5)}


def event(number: int, user: str = "u1", item: str = "i1", kind: str = FEEDBACK) -> Event:
    return Event(f"e{number}", user, item, kind, 100 - number)


def add(state: State, *some: Event) -> int:
    return state.write(partial(add_events, new=some))


def test_a_person_is_read_as_of_an_event_and_by_items_that_are_known(state):
    add(state, event(1), event(2, "u2"), event(3, item="new"), event(4, kind="skip"), event(5, kind="like"))
    add(state, event(6, "u3", "new"))
    now = StoredHistories(state, ITEMS.get, 1000)
    assert now.seq == 6
    number, items, times = now.of("u1")
    assert (items.tolist(), times.tolist()) == ([1, 1], [99, 95])  # in the order in which they came
    assert now.of("u3") is None  # nothing of theirs is history,
    assert StoredHistories(state, {**ITEMS, "new": 7}.get, 1000).of("u3")[1].tolist() == [7]  # until it is
    assert [StoredHistories(state, ITEMS.get, 1000, seq=seq).of("u2") is None for seq in (1, 2)] == [
        True,
        False,
    ]
    assert StoredHistories(state, ITEMS.get, 1000, ("skip",)).of("u1")[2].tolist() == [99, 96]
    assert now.numbers() == {"u1": number, "u2": number + 1, "u3": number + 2}
    assert sorted(now.since(4)) == ["u1", "u3"]
    assert identity(state, 5) != identity(state, 6)
    before = identity(state, 6)
    add(state, event(7))
    assert identity(state, 6) == before


def test_feedback_says_no_kind_so_the_same_event_by_http_is_one(state):
    add(state, Event("a", "u1", "i1", "click", 5, "a list"))
    assert add(state, Event("a", "u1", "i1", FEEDBACK, 5)) == 0
    with pytest.raises(EventConflict, match="'a'"):
        add(state, Event("a", "u1", "i2", FEEDBACK, 5))


def rows_of(state: State, upto: int = 10**9) -> list[list[float]]:
    """Rows of P_u, in order, that knew no later event."""
    query = sa.select(states.c.state).where(states.c.upto <= upto).order_by(states.c.seq)
    with state.reading() as connection:
        return [np.frombuffer(row, "<f4").tolist() for row in connection.scalars(query)]


def test_rows_of_p_u_are_read_as_they_were_and_old_ones_go(state):
    def put(value: float) -> None:
        state.write(lambda connection: put_states(connection, "m", {"u1": np.full(2, value)}))

    add(state, event(1))
    put(1.0)
    add(state, event(2))
    put(2.0)
    assert rows_of(state) == [[1.0, 1.0], [2.0, 2.0]]
    assert rows_of(state, upto=1) == [[1.0, 1.0]]
    assert persons.held(state, "u1")["states"] == [{"method": "m", "events_seen": 2, "row": [2.0, 2.0]}]
    state.write(
        lambda connection: connection.execute(sa.update(states).values(made=states.c.made - 2 * KEPT_S))
    )
    put(3.0)
    assert rows_of(state) == [[2.0, 2.0], [3.0, 3.0]]


def test_a_batch_is_known_until_somebody_in_it_is_forgotten(state):
    add(state, event(1, "her"), event(2, "him"))
    for name, people in (("both", {"her", "him"}), ("his", {"him"})):
        state.write(partial(batches.put_batch, batch_id=name, digest="0" * 64, user_ids=people))
    with state.reading() as connection:
        assert batches.of_person(connection, "her") == ["both"]
        assert batches.is_there(connection, "both", "0" * 64)
        with pytest.raises(ValueError, match="'both' was used for other events"):
            batches.is_there(connection, "both", "1" * 64)
    persons.forget_person(state, "her")
    with state.reading() as connection:
        assert not batches.is_there(connection, "both", "0" * 64)
        assert batches.is_there(connection, "his", "0" * 64)


def test_a_state_of_the_version_before_is_brought_up_to_date(tmp_path):
    state = State(sqlite_url(tmp_path / "state.sqlite"))
    add(state, event(1))
    state.write(lambda connection: put_states(connection, "m", {"u1": np.ones(2)}))
    from alembic import command
    from alembic.config import Config

    from serving.state.store import MIGRATIONS

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with state.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "v0001")
    assert state.version() == "v0001"
    state.close()
    reading = State(sqlite_url(tmp_path / "state.sqlite"), writes=False)  # nothing else would be right
    assert reading.version() == "v0002"
    assert rows_of(reading) == [[1.0, 1.0]]
    with reading.reading() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(events)) == 1
    reading.close()


def test_who_reads_a_state_changes_no_byte_of_it(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    state = State(place.url_of(run))
    add(state, event(1, "her"))
    state.close()
    place.copy_state(run, tmp_path / "copy")
    file = place.file_of(tmp_path / "copy")
    before = file.read_bytes()
    reading = place.own_state(tmp_path / "copy")
    assert reading is not None
    assert StoredHistories(reading, ITEMS.get, 0).of("her") is not None
    with pytest.raises((StateError, AssertionError)):
        add(reading, event(2))
    reading.close()
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert file.read_bytes() == before
    shutil.rmtree(tmp_path / "copy")
    place.copy_state(run, tmp_path / "copy")
    assert file.read_bytes() == before  # the same content, the same bytes


def test_a_services_state_of_before_is_the_runs_own_where_it_is_and_a_journal_is_not_overlooked(tmp_path):
    run = tmp_path / "demo"
    run.mkdir()
    assert place.file_of(run) == run / "live" / "state.sqlite"
    Path(f"{run}.service.sqlite").touch()
    assert place.file_of(run) == Path(f"{run}.service.sqlite")
    (run / "live").mkdir()
    (run / "live" / "stage.json").write_text("{}")
    with pytest.raises(RunError, match="an earlier Prelude kept it"):
        place.file_of(run)

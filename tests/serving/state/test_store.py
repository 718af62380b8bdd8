"""The state in SQLite and in PostgreSQL: one story, told twice."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from serving.state import keys, lists, persons, shown
from serving.state.events import Event, EventConflict, add_events, events_after, last_event
from serving.state.shown import ShownItem, ShownList
from serving.state.store import State, StateError
from serving.state.tables import METADATA, events


def event(number: int, user: str = "u1", **values) -> Event:
    return Event(f"e{number}", user, "i1", "click", number, **values)


def a_list(id_: str, user: str | None = "u1", made: float = 1.0) -> ShownList:
    return ShownList(id_, user, made, None, "E2P", "personalized", {"n": 1}, [ShownItem("i1", -1.5, 0.25)])


def add(state: State, *some: Event) -> int:
    return state.write(lambda connection: add_events(connection, some))


def test_migrations_make_the_tables_that_the_code_has(state):
    with state.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    assert state.version() == "v0002"


def test_a_state_is_opened_again_as_it_is(state, url):
    add(state, event(1))
    again = State(url)
    assert last_event(again) == 1
    again.close()


def test_an_event_is_stored_once_however_often_it_comes(state):
    assert add(state, event(1), event(2), event(1)) == 2
    assert add(state, event(2), event(3)) == 1
    assert [kept.event.event_id for kept in events_after(state, 0)] == ["e1", "e2", "e3"]
    assert [kept.seq for kept in events_after(state, 1)] == [2, 3]


def test_without_a_time_of_its_own_an_event_is_the_same_whenever_it_comes(state):
    add(state, event(1))
    assert add(state, Event("e1", "u1", "i1", "click", 99, is_timed=False)) == 0
    with pytest.raises(EventConflict, match="'e1'"):
        add(state, Event("e1", "u1", "i1", "click", 99))


def test_a_conflict_stores_nothing_and_spares_who_writes_beside_it(state):
    add(state, event(1))
    gate = threading.Event()
    first = state.submit(
        lambda connection: gate.wait(10)
    )  # these three wait behind it, and are one transaction
    other = state.submit(lambda connection: add_events(connection, [event(2)]))
    wrong = state.submit(lambda connection: add_events(connection, [event(3), event(1, user="u2")]))
    third = state.submit(lambda connection: add_events(connection, [event(4)]))
    gate.set()
    assert (first.result(10), other.result(10), third.result(10)) == (True, 1, 1)
    with pytest.raises(EventConflict):
        wrong.result(10)
    assert [kept.event.event_id for kept in events_after(state, 0)] == ["e1", "e2", "e4"]


def test_who_waits_no_longer_is_not_written_and_the_others_are(state):
    gate = threading.Event()
    first = state.submit(lambda connection: gate.wait(10))
    left = state.submit(lambda connection: add_events(connection, [event(1)]))
    assert left.cancel()
    gate.set()
    assert first.result(10)
    assert not first.cancel()
    assert add(state, event(2)) == 1
    assert [kept.event.event_id for kept in events_after(state, 0)] == ["e2"]


def test_two_processes_write_and_each_reads_all_in_one_order(url):
    one, two = State(url), State(url)
    seen: list[int] = []

    def read() -> None:
        at = 0
        while at < 200:
            for kept in events_after(one, at):
                seen.append(kept.seq)
                at = kept.seq

    reader = threading.Thread(target=read)
    reader.start()
    futures = [
        state.submit(lambda connection, n=n: add_events(connection, [event(n, user=f"u{n % 7}")]))
        for n in range(200)
        for state in (one, two)
    ]
    assert sum(future.result(60) for future in futures) == 200  # each event came by both, and is stored once
    reader.join(60)
    assert seen == sorted(seen)
    assert len(set(seen)) == 200
    one.close()
    two.close()


def test_numbers_are_never_given_twice(state):
    add(state, event(1), event(2, user="gone"))
    persons.forget_person(state, "gone")
    add(state, event(3, user="later"))
    (_, kept) = events_after(state, 0)
    assert (kept.seq, kept.person) == (3, 3)


def test_a_list_is_swapped_whole_and_everybody_hears_of_it(state):
    put = lambda ids: state.write(lambda connection: lists.put_list(connection, "stock", ids))  # noqa: E731
    assert put(["1", "2"]) is True
    assert put(["3", "ü", "3"]) is False
    assert lists.get_list(state, "stock") == ["3", "ü", "3"]
    assert [(name, count) for name, count, _ in lists.all_lists(state)] == [("stock", 3)]
    assert state.write(lambda connection: lists.drop_list(connection, "stock"))
    assert not state.write(lambda connection: lists.drop_list(connection, "stock"))
    assert lists.get_list(state, "stock") is None
    assert [change.kind for change in lists.changes_after(state, 0)] == ["list"] * 4
    assert lists.last_change(state) == 4


def test_a_key_is_known_by_its_hash_alone(state):
    key = state.write(lambda connection: keys.make_key(connection, "shop", ["recommend", "events"]))
    known = keys.whose(state, key)
    assert known is not None
    assert known.scopes == {"recommend", "events"}
    assert keys.whose(state, key[:-1]) is None
    with state.reading() as connection:
        (row,) = connection.execute(sa.text("select * from keys"))
    assert key.rpartition("_")[2] not in str(row)
    with pytest.raises(ValueError, match="root"):
        state.write(lambda connection: keys.make_key(connection, "x", ["root"]))
    assert state.write(lambda connection: keys.drop_key(connection, known.id))
    assert keys.whose(state, key) is None


def test_shown_lists_come_back_with_the_events_that_name_them(state):
    several = [a_list(f"r{n:03}", made=float(n // 2)) for n in range(900)]
    state.write(lambda connection: shown.keep(connection, several))
    add(state, event(1, recommendation_id="r003"), Event("e2", "u1", "i1", "skip", 2, "r003"))
    found = {one.id: kinds for one, kinds in shown.with_events(state)}
    assert list(found) == [one.id for one in several]
    assert found["r003"] == {"i1": {"click", "skip"}}
    assert found["r004"] == {}
    assert [one.id for one, _ in shown.with_events(state, 3.0, 4.0)] == ["r006", "r007"]
    assert shown.find(state, "r003") == several[3]


def test_a_person_is_handed_over_and_forgotten(state):
    add(state, event(1, user="her"), event(2, user="him"))
    state.write(
        lambda connection: shown.keep(
            connection, [a_list("r1", "her"), a_list("r2", "him"), a_list("r3", None)]
        )
    )
    held = persons.held(state, "her")
    assert [one["event_id"] for one in held["events"]] == ["e1"]
    assert [one["id"] for one in held["shown"]] == ["r1"]
    assert persons.forget_person(state, "her") == 3
    assert persons.held(state, "her") == {"events": [], "shown": [], "states": []}
    assert len(persons.held(state, "him")["events"]) == 1
    assert shown.find(state, "r3") is not None
    assert persons.forget_person(state, "her") == 0
    assert [change.kind for change in lists.changes_after(state, 0)] == ["gone"]


def test_no_byte_of_a_forgotten_person_is_left_in_sqlites_files(tmp_path):
    state = State(f"sqlite:///{tmp_path}/state.sqlite")
    name = "somebody-whom-nobody-knows"
    for n in range(300):
        add(state, event(n, user=f"{name}" if n % 3 == 0 else f"other{n}"))
    state.write(lambda connection: shown.keep(connection, [a_list(f"r{n}", name) for n in range(50)]))
    there = lambda: [path.name for path in tmp_path.iterdir() if name.encode() in path.read_bytes()]  # noqa: E731
    assert there()
    persons.forget_person(state, name)
    assert there() == []
    state.close()
    assert there() == []


def test_where_there_is_no_room_it_is_said_and_what_was_stored_stays(tmp_path):
    state = State(f"sqlite:///{tmp_path}/state.sqlite")
    add(state, event(1))
    with state.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

    @sa.event.listens_for(state.engine, "checkout")
    def no_room(connection, *_):
        connection.execute(f"PRAGMA max_page_count={pages + 2}")

    many = [Event(f"m{n}", f"somebody {n}", "i" * 100, "click", n) for n in range(2000)]
    with pytest.raises(StateError, match="no room") as caught:
        add(state, *many)
    assert caught.value.full
    assert len(events_after(state, 0)) == 1
    state.close()


@pytest.mark.parametrize("url", ["mysql://x/y", "sqlite://", "nonsense://"])
def test_another_database_is_refused(url):
    with pytest.raises(ValueError, match="--state"):
        State(url)


def test_events_have_the_width_that_the_door_lets_through():
    assert events.c.event_id.type.length == 200


def test_what_the_database_refuses_of_one_spares_who_writes_beside_it(state):
    gate = threading.Event()
    first = state.submit(lambda connection: gate.wait(10))
    kept = state.submit(lambda connection: shown.keep(connection, [a_list("a")]))
    twice = state.submit(lambda connection: shown.keep(connection, [a_list("a")]))
    third = state.submit(lambda connection: add_events(connection, [event(4)]))
    gate.set()
    assert (first.result(10), kept.result(10), third.result(10)) == (True, None, 1)
    with pytest.raises(StateError, match="cannot hold"):
        twice.result(10)
    assert shown.find(state, "a") == a_list("a")

"""Updates by many at once, killed anywhere, without room; late, double and future events; and what one update costs."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
import torch

from recsys.artifacts.paths import RunError
from recsys.run import Run
from serving import Recommender
from serving.answering.known import Counted
from serving.export.folder import export_run, import_run
from serving.state import place
from serving.user_state import delete
from tests.support.command_line import prelude
from tests.support.dying import child, ended

NOW = 2_000_000


@pytest.fixture
def copy(world_run, tmp_path) -> Run:
    return Run.open(shutil.copytree(world_run[1].path, tmp_path / "run"))


def stored(run: Path) -> list[tuple[str, str, int]]:
    """User, item and time of every event of a run's state, in the order in which they came."""
    with sqlite3.connect(run / "live" / "state.sqlite") as state:
        query = "select user_id, item_id, time from events join people on person = number order by seq"
        return state.execute(query).fetchall()


def batch(number: int) -> list[tuple[str, str, int]]:
    """Three events that no other batch has."""
    users = (f"u{number % 40}", f"new{number}", f"u{(number + 7) % 40}")
    return [(user, f"i{1 + number % 50}", NOW + 3 * number + at) for at, user in enumerate(users)]


# -- at once ------------------------------------------------------------------------------------------------------


def test_threads_and_processes_wait_for_each_other(copy):
    """Two processes, and here four threads, two of which share what is loaded."""
    one, other = Recommender.load(copy.path), Recommender.load(copy.path)
    one.method("tap_per")

    def absorb(service: Recommender, numbers: range) -> None:
        for number in numbers:
            assert service.update(batch(number), f"b{number}").absorbed

    children = [child(partial(absorb, one, range(at, at + 4))) for at in (40, 44)]
    failed: list[BaseException] = []

    def thread(service: Recommender, numbers: range) -> None:
        try:
            absorb(service, numbers)
        except BaseException as error:
            failed.append(error)

    some = (one, one, other, Recommender.load(copy.path))
    threads = [
        threading.Thread(target=thread, args=(each, range(4 * n, 4 * n + 4))) for n, each in enumerate(some)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [ended(pid) for pid in children] == [0, 0]
    assert failed == []
    there = stored(copy.path)
    assert len(there) == len(set(there)) == 3 * 24
    service = Recommender.load(copy.path)
    assert not any(
        service.update(batch(number), f"b{number}").absorbed for number in (*range(16), *range(40, 48))
    )
    assert all(service.live.histories.user_index(f"new{n}") in service.live.rows("tap_per") for n in (0, 47))


# -- killed -------------------------------------------------------------------------------------------------------


def check(run: Path, acknowledged: list[int], sent: range) -> None:
    """Every acknowledged batch is there, every batch is there whole or not at all, no event is there twice."""
    there = stored(run)
    assert len(there) == len(set(there))
    whole = [number for number in sent if set(batch(number)) <= set(there)]
    assert set(acknowledged) <= set(whole)
    assert len(there) == 3 * len(whole)
    service = Recommender.load(run)
    for number in whole[-3:]:
        users = [service.live.histories.user_index(user_id) for user_id, *_ in batch(number)]
        assert all(user in service.live.rows("tap_per") for user in users)


@pytest.mark.parametrize("times", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_updates_that_are_killed_have_kept_what_they_acknowledged(copy, times):
    service = Recommender.load(copy.path)
    service.method("tap_per")
    chance, acknowledged, at = random.Random(0), [], 0
    for life in range(times):
        reading, writing = os.pipe()

        def absorb(start: int = at, to: int = writing) -> None:
            for number in range(start, start + 1000):
                service.update(batch(number), f"b{number}")
                os.write(to, f"{number}\n".encode())

        pid = child(absorb)
        os.close(writing)
        with os.fdopen(reading) as lines:
            acknowledged.append(int(lines.readline()))
            time.sleep(chance.random() * 0.3)
            os.kill(pid, signal.SIGKILL)
            assert ended(pid) == -signal.SIGKILL
            acknowledged += [int(line) for line in lines if line.endswith("\n")]
        at = 1000 * (life + 1)
    assert len(acknowledged) >= times
    check(copy.path, acknowledged, range(at))


def test_a_kill_before_any_statement_leaves_before_or_after(copy):
    """A process dies before the n-th statement that its update gives the database; sent again, the batch is there once."""
    service = Recommender.load(copy.path)
    service.method("tap_per")
    service.update(batch(0), "first")
    outcomes = []
    for step in range(0, 200, 3):

        def absorb(left: int = step, number: int = step + 1) -> None:
            counted = [left]

            @sa.event.listens_for(sa.Engine, "before_cursor_execute")
            def die(*_) -> None:
                counted[0] -= 1
                if counted[0] < 0:
                    os._exit(9)

            Recommender(service.methods).update(batch(number), f"b{number}")

        code = ended(child(absorb))
        there = set(stored(copy.path)) & set(batch(step + 1))
        assert len(there) in (0, 3)
        outcomes.append(len(there) == 3)
        if code == 0:
            break
        assert code == 9
    assert outcomes[-1]
    assert outcomes.count(False) >= 4
    for number in (1, 4):
        assert service.update(batch(number), f"b{number}").events == 3
    assert len(stored(copy.path)) == len(set(stored(copy.path)))


def test_without_room_nothing_is_absorbed_and_one_line_says_so(copy, tmp_path, monkeypatch, capsys):
    service = Recommender.load(copy.path)
    service.update(batch(0))
    state = service.live.writes_into()
    with state.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

    def no_room(connection, *_) -> None:
        connection.execute(f"PRAGMA max_page_count={pages + 1}")

    many = [event for number in range(1, 400) for event in batch(number)]
    sa.event.listen(state.engine, "checkout", no_room)
    with pytest.raises(RunError, match="was not absorbed, none of it: the state has no room left") as caught:
        service.update(many, "much")
    assert "\n" not in str(caught.value)
    assert stored(copy.path) == batch(0)
    user = service.live.histories.user_index("u0")
    assert len(service.live.histories.events(user)[0]) == 25
    sa.event.remove(state.engine, "checkout", no_room)
    state.engine.dispose()
    assert service.update(many, "much").absorbed


def test_a_state_that_was_begun_without_room_for_its_tables_says_nothing(copy):
    file = place.file_of(copy.path)
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as state:
        state.execute("PRAGMA journal_mode=WAL")
    before = file.read_bytes()
    service = Recommender.load(copy.path)
    assert service.live.sources == []  # and it is not for who reads it to make them
    assert file.read_bytes() == before
    assert service.update(batch(0)).events == 3
    assert stored(copy.path) == batch(0)


# -- late, double, of a time to come ------------------------------------------------------------------------------


def test_a_late_event_goes_to_its_place_and_a_double_one_is_one(copy):
    service = Recommender.load(copy.path)
    histories, number = service.live.histories, service.methods.dataset.catalogue.number
    service.update([("u0", "i2", NOW + 10, "a"), ("u0", "i4", NOW + 30, "b")])
    late = service.update(
        [("u0", "i6", NOW + 20, "c"), ("u0", "i6", NOW + 20, "c"), ("u0", "i2", NOW + 10, "a")]
    )
    assert (late.events, late.known) == (1, 2)
    user = histories.user_index("u0")
    assert histories.events(user)[0][-3:].tolist() == [number(item) for item in ("i2", "i6", "i4")]
    assert histories.before(user, NOW + 30)[0][-1] == number("i6")
    assert histories.moment(user) == NOW + 31
    with pytest.raises(ValueError, match="event id 'b' was used for another event"):
        service.update([("u0", "i8", NOW + 40, "d"), ("u0", "i4", NOW + 31, "b")])
    assert [item for _, item, _ in stored(copy.path)] == ["i2", "i4", "i6"]  # nothing of that batch
    twice = service.update([("u0", "i6", NOW + 20, "another id")])  # the same user, item and time
    assert (twice.events, twice.known) == (0, 1)
    assert len(histories.events(user)[0]) == 27
    assert (
        Recommender.load(copy.path).live.histories.events(user)[0].tolist()
        == histories.events(user)[0].tolist()
    )


def test_an_event_of_2286_moves_nobodys_now(copy, tmp_path, monkeypatch, capsys):
    service = Recommender.load(copy.path)
    before = service.live.histories.moment(service.live.histories.user_index("u0"))
    soon = int(time.time()) + 3600  # a clock may be wrong by an hour
    done = service.update([("u0", "i2", 9_999_999_999), ("u1", "i2", NOW), ("u2", "i2", soon)])
    assert done.events == 2
    assert done.ignored == {"time": Counted(1, "events[0], time 9999999999")}
    assert done.odd == {"after": Counted(1, f"events[2], time {soon}")}
    for one in (service, Recommender.load(copy.path)):
        assert one.live.histories.moment(one.live.histories.user_index("u0")) == before
    assert [user for user, *_ in stored(copy.path)] == ["u1", "u2"]
    path = tmp_path / "e.csv"
    path.write_text("user_id,item_id,timestamp\nu0,i2,9999999999\nu0,i3,2000001\n")
    code, out, err = prelude(monkeypatch, capsys, "update", copy.path, "--events", path)
    assert code == 0, err
    said = " ".join(out.split())
    assert (
        f"left out, as they are more than a day ahead of this machine's clock: events: 1 (the first: {path}:2"
        in said
    )


def test_a_place_is_looked_for_where_an_event_is_wrong_alone(copy):
    """A place in a file costs a walk through it: an update of a file would cost the square of its lines."""
    asked: list[int] = []

    def place_of(number: int) -> str:
        asked.append(number)
        return f"file.csv:{number + 2}"

    service = Recommender.load(copy.path)
    assert service.update(batch(0), place=place_of).events == 3
    assert asked == []
    with pytest.raises(ValueError, match=r"^file.csv:4: user_id is blank"):
        service.update([*batch(1)[:2], ("", "i1", NOW)], place=place_of)
    assert asked == [2]


# -- gone ---------------------------------------------------------------------------------------------------------


def test_a_deleted_person_stays_deleted_and_who_comes_under_the_id_is_new(copy, tmp_path):
    service = Recommender.load(copy.path)
    service.update([("u0", "i2", NOW), ("her", "i3", NOW + 1), ("her", "i5", NOW + 2)], "b")
    number = service.live.histories.user_index("her")
    row = service.live.rows("tap_per")[number]
    for user in ("her", "u0"):
        delete(copy, user)
    with pytest.raises(ValueError, match="user 'her' is unknown"):
        delete(copy, "her")
    export_run(copy.path, tmp_path / "out")
    import_run(tmp_path / "out", tmp_path / "imported")
    for path in (copy.path, tmp_path / "imported"):
        assert not any(b"her" in file.read_bytes() for file in (path / "live").glob("state.sqlite*"))
        again = Recommender.load(path)
        assert {again.live.histories.user_index(user) for user in ("her", "u0")} == {None}
        again.update([("her", "i7", NOW + 3), ("u0", "i7", NOW + 4)])
        now = again.live.histories.user_index("her")
        assert now not in (None, number)  # a number is never given twice
        assert len(again.live.histories.events(now)[0]) == 1
        assert not torch.equal(again.live.rows("tap_per")[now], row)
        assert len(again.live.histories.events(again.live.histories.user_index("u0"))[0]) == 1


def test_a_deletion_killed_between_the_runs_files_and_its_state_is_finished_by_who_opens_it(copy):
    Recommender.load(copy.path).update([("her", "i3", NOW + 1), ("him", "i3", NOW + 1)])
    (copy.path / place.LEAVING).write_text('"her"')  # put there by the commit that took her out of the files
    histories = Recommender.load(copy.path).live.histories
    assert histories.user_index("her") is None
    assert histories.user_index("him") is not None
    assert not (copy.path / place.LEAVING).exists()


# -- what it costs ------------------------------------------------------------------------------------------------


def test_an_update_asks_the_database_the_same_however_much_was_absorbed(copy):
    """Statements of an update of one event after 1 and after 3,001 events, and pages that the last one wrote."""
    service = Recommender.load(copy.path)
    service.update(batch(0))
    counted: list[str] = []

    def count(*given) -> None:
        counted.append(given[2])

    sa.event.listen(sa.Engine, "before_cursor_execute", count)

    def statements(number: int) -> list[str]:
        service.update([("u1", f"i{number}", NOW + number)])
        counted.clear()
        service.update([("someone new " + str(number), "i3", NOW + number)])
        return list(counted)

    few = statements(1)
    service.update([event for number in range(1000) for event in batch(number)])
    many = statements(2)
    sa.event.remove(sa.Engine, "before_cursor_execute", count)
    assert len(few) > 5
    assert many == few

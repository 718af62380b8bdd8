"""Running a service: named lists, reloads, figures, and a state that cannot be written."""

from __future__ import annotations

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from recsys.data.dataset import Dataset
from serving.service.client import ServiceError
from serving.service.served import Served
from serving.service.settings import ServiceConfig
from serving.state import lists
from serving.state.store import State, sqlite_url
from tests.support.serving_http import served, service_of


def test_a_named_list_is_what_is_in_stock(client):
    facts = client.put_list("stock", ["i1", "i3", "nothing", 7, "i3"])
    assert (facts.count, facts.unknown) == (5, 2)
    asked = {"user_id": "u1", "n": 20, "allow": "stock"}
    assert {item.item_id for item in client.recommend(**asked).items} == {"i1", "i3"}
    client.put_list("stock", ["i2"])
    assert {item.item_id for item in client.recommend(**asked).items} == {"i2"}
    left = client.recommend(user_id="u1", n=60, exclude="stock")
    assert "i2" not in {item.item_id for item in left.items}
    assert [one.name for one in client.lists()] == ["stock"]
    assert client.get_list("stock").count == 1
    client.delete_list("stock")
    with pytest.raises(ServiceError, match="422") as refused:
        client.recommend(**asked)
    assert refused.value.field == "allow"
    for call in (client.get_list, client.delete_list):
        with pytest.raises(ServiceError, match="404"):
            call("stock")


def test_a_list_that_all_share_is_sorted_once(client):
    client.put_list("half", [f"i{n}" for n in range(0, 60, 2)])
    service = service_of(client)
    client.recommend(allow="half", n=2)
    known = service.served.named("half", "allow")
    one, two = (service.served.items_of("half", "allow").unique for _ in range(2))
    assert one is two is known.unique
    client.delete_list("half")


def test_a_newer_run_takes_over_without_a_request_lost(world_run, tmp_path):
    for name in ("run", "newer"):
        shutil.copytree(world_run[1].path, tmp_path / name)
    (tmp_path / "broken").mkdir()
    with served(tmp_path / "run", tmp_path) as client:
        client.send({"event_id": "1", "user_id": "new", "item_id": "i2", "type": "like"})
        before = [item.item_id for item in client.recommend(user_id="new").items]
        with ThreadPoolExecutor(4) as threads:
            asked = [threads.submit(client.recommend, user_id=f"u{n % 30}", n=3) for n in range(60)]
            assert client.reload("newer") == "newer"
            assert all(len(future.result().items) == 3 for future in asked)
        assert service_of(client).served.path.name == "newer"
        assert service_of(client).served.before == ("run", [], [], 0)  # a copy: no item has moved
        assert "Against run: 0 items are new" in client.http.get("/ids").text
        assert [item.item_id for item in client.recommend(user_id="new").items] == before
        for wrong in ("broken", "not-there"):
            with pytest.raises(ServiceError, match="409") as refused:
                client.reload(wrong)
            assert str(tmp_path) not in refused.value.detail
        assert service_of(client).served.path.name == "newer"
        assert client.ready()
        with pytest.raises(ServiceError, match="422"):
            client.reload("../elsewhere")


def test_other_processes_hear_of_a_newer_run(world_run, tmp_path):
    for name in ("run", "newer"):
        shutil.copytree(world_run[1].path, tmp_path / name)
    with served(tmp_path / "run", tmp_path) as one, served(tmp_path / "run", tmp_path) as two:
        one.reload("newer")
        two.recommend(user_id="u1")
        assert service_of(two).served.path.name == "newer"


def test_a_service_is_ready_when_it_has_answered_somebody(client, monkeypatch):
    first: Future = Future()
    monkeypatch.setattr(service_of(client), "warm", first)
    assert not client.ready()
    assert client.http.get("/health/ready").headers["retry-after"] == "1"
    first.set_result(None)
    assert client.ready()


def test_figures_say_what_went_on_and_name_nobody(client):
    client.recommend(user_id="a-very-private-name", query="a very private question")
    text = client.metrics()
    for name in (
        "prelude_request_seconds_bucket",
        "prelude_batch_size_bucket",
        "prelude_waiting",
        "prelude_events_behind",
    ):
        assert name in text
    assert "prelude_illegal_items_total 0.0" in text
    assert 'prelude_lists_total{path="cold"}' in text
    assert "private" not in text


def test_logs_name_nobody(client, caplog):
    caplog.set_level("INFO")
    client.recommend(user_id="a-very-private-name", query="a very private question")
    with pytest.raises(ServiceError):
        client.user("a-very-private-name-2")
    said = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("prelude"))
    assert "/v1/users/{user_id}" in said
    assert "private" not in said


def test_a_full_disk_is_a_507_and_what_was_acknowledged_stays(world_run, tmp_path):
    with served(world_run[1].path, tmp_path) as client:
        client.send({"event_id": "1", "user_id": "u1", "item_id": "i2", "type": "like"})
        engine = service_of(client).state.engine
        with engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

        @sa.event.listens_for(engine, "checkout")
        def no_room(connection, *_):
            connection.execute(f"PRAGMA max_page_count={pages}")

        some = [
            {"event_id": f"{n}" * 50, "user_id": f"{n}" * 50, "item_id": "i1", "type": "like"}
            for n in range(900)
        ]
        with pytest.raises(ServiceError, match="no room") as refused:
            client.send(*some)
        assert refused.value.status == 507
        assert client.user("u1").events == 1


def test_a_state_that_cannot_be_read_is_a_503(world_run, tmp_path):
    with served(world_run[1].path, tmp_path) as client:
        client.recommend(user_id="u1")
        with service_of(client).state.engine.connect() as connection:
            connection.exec_driver_sql("DROP TABLE events")
        with pytest.raises(ServiceError, match="503") as refused:
            client.recommend(user_id="u1")
        assert "events" not in refused.value.detail
        assert not client.ready()


def test_what_nobody_expected_is_a_500_that_says_nothing(world_run, tmp_path, monkeypatch, caplog):
    import serving.service.answers as answers

    def broken(*_, **__):
        raise RuntimeError(f"secret {Path.cwd()}")

    with served(world_run[1].path, tmp_path) as client:
        monkeypatch.setattr(answers, "answer", broken)
        response = client.http.post("/v1/recommend", json={"user_id": "u1"})
        assert response.status_code == 500
        assert response.headers["content-type"] == "application/problem+json"
        assert "secret" not in response.text
        monkeypatch.undo()
        assert client.recommend(user_id="u1").items


def test_what_others_say_while_a_run_takes_over_is_heard(world_run, tmp_path):
    with served(world_run[1].path, tmp_path) as client:
        service = service_of(client)
        client.put_list("stock", ["i1"])
        swap = service.batches.swap

        def meanwhile(new):
            done = swap(new)
            done.result(30)
            service.batches.do(lambda one: one.named("stock", "allow")).result(30)  # somebody asks for it
            service.state.write(partial(lists.put_list, name="stock", ids=["i2"]))
            return done

        service.batches.swap = meanwhile
        client.reload()
        assert [item.item_id for item in client.recommend(allow="stock", n=1).items] == ["i2"]
        before = service.served
        client.recommend(n=1)
        assert service.served is before, "its own taking over is no news"


def test_who_is_deleted_while_a_run_is_loaded_is_heard_of(world_run, tmp_path, monkeypatch):
    state = State(sqlite_url(tmp_path / "state.sqlite"))
    load = Dataset.load

    def meanwhile(run):
        found = load(run)
        state.write(partial(lists.say, kind="gone", name=""))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "load", meanwhile)
        found = Served(world_run[1].path, state, ServiceConfig())
    found.catch_up()
    assert found.outdated == ""
    state.close()


def test_nobody_is_answered_by_what_still_knows_who_is_gone_though_the_newer_run_fails(world_run, tmp_path):
    with served(world_run[1].path, tmp_path) as client:
        service = service_of(client)
        before = service.served
        service.state.write(partial(lists.say, kind="run", name="not-there"))
        service.state.write(partial(lists.say, kind="gone", name=""))
        client.recommend(n=1)
        assert service.served is not before


def test_a_run_that_took_over_is_the_one_that_is_loaded_again(world_run, tmp_path):
    """Also before whoever asked for it has heard that it has."""
    for name in ("run", "newer"):
        shutil.copytree(world_run[1].path, tmp_path / name)
    with served(tmp_path / "run", tmp_path) as client:
        service = service_of(client)
        newer = Served(tmp_path / "newer", service.state, service.settings)
        service.batches.swap(newer).result(30)
        service.state.write(partial(lists.say, kind="gone", name=""))
        client.recommend(n=1)
        assert service.served is not newer
        assert service.served.path.name == "newer"


def test_ids_of_a_named_list_are_the_run_s_however_they_are_spelled(client):
    spelled = [" i1 ", "i\u200b2\ufeff", "i3\ufeff", "a\nb", "null"]
    facts = client.put_list("spelled", spelled)
    assert (facts.count, facts.unknown) == (5, 3)
    asked = {"user_id": "u1", "n": 20}
    by_name = client.recommend(allow="spelled", **asked)
    assert {item.item_id for item in by_name.items} == {"i1", "i3"}
    left = client.recommend(user_id="u1", n=60, exclude="spelled")
    assert not {"i1", "i3"} & {item.item_id for item in left.items}
    client.delete_list("spelled")

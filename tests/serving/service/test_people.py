"""A person over HTTP: looked at, handed over, deleted so that nothing is left."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from recsys.run import Run
from serving.service.client import ServiceError
from serving.state import persons, tables
from serving.state.events import Event, add_events
from serving.state.store import State, sqlite_url
from tests.support.dying import Killed
from tests.support.serving_http import in_turn, served, service_of


def files_with(folder: Path, text: str) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_a_person_is_handed_over_and_deleted_everywhere(world_run, tmp_path):
    run = Path(shutil.copytree(world_run[1].path, tmp_path / "run"))
    name = "somebody-with-a-name"
    with served(run, tmp_path) as client:
        others = [client.recommend(user_id=f"u{n}", n=20).items for n in (2, 3)]
        client.send(
            *({"event_id": f"x{n}", "user_id": name, "item_id": f"i{n}", "type": "like"} for n in range(4))
        )
        client.send({"event_id": "y", "user_id": "u1", "item_id": "i3", "type": "like"})
        shown = client.recommend(user_id=name, temperature=1.0)
        held = client.export_user(name)
        assert held["run"] is None
        assert [one["event_id"] for one in held["service"]["events"]] == ["x0", "x1", "x2", "x3"]
        assert [one["id"] for one in held["service"]["shown"]] == [shown.recommendation_id]
        of_run = client.export_user("u1")
        assert "prepare/events.parquet" in of_run["run"]
        assert files_with(tmp_path, name)

        client.delete_user(name)
        assert files_with(tmp_path, name) == []
        with pytest.raises(ServiceError, match="404"):
            client.user(name)
        with pytest.raises(ServiceError, match="404"):
            client.recommend(next=shown.recommendation_id)
        assert client.recommend(user_id=name).path.startswith("cold start (user 'somebody")

        client.delete_user("u1")
        with pytest.raises(ServiceError, match="404"):
            client.export_user("u1")
        with pytest.raises(ServiceError, match="404"):
            client.delete_user("u1")
        assert client.recommend(user_id="u1").path.startswith("cold start (user 'u1' is unknown")
        for n, before in zip((2, 3), others, strict=True):
            after = client.recommend(user_id=f"u{n}", n=20).items
            assert [item.item_id for item in after] == [item.item_id for item in before], (
                "others stay as they are"
            )


def test_nobody_knows_a_stranger(client):
    for call in (client.user, client.export_user, client.delete_user):
        with pytest.raises(ServiceError, match="404"):
            call("a stranger")


def test_while_the_run_is_written_a_deletion_is_told_to_come_again(world_run, tmp_path):
    run = Path(shutil.copytree(world_run[1].path, tmp_path / "run"))
    with served(run, tmp_path) as client:
        with Run.open(run).lock(), pytest.raises(ServiceError, match="503") as refused:
            client.delete_user("u1")
        assert str(tmp_path) not in refused.value.detail
        client.delete_user("u1")
        with pytest.raises(ServiceError, match="404"):
            client.user("u1")


def test_a_person_is_one_however_the_id_is_spelled(world_run, tmp_path):
    """With letters of one or two characters, or with spaces: what is kept of a list is found and goes by the id as the run writes it."""
    arms = {"warmth": {"salt": "s", "arms": {"cold": {}, "warm": {"temperature": 1.0}}}}
    with served(world_run[1].path, tmp_path, experiments=arms) as client:
        spelled = ["Zo\u00eb 7", "Zoe\u0308 7", "  Zo\u00eb 7 ", "7.0", 7]
        told = [client.recommend(user_id=one, n=1) for one in spelled]
        assert len({one.arm for one in told[:3]}) == len({one.arm for one in told[3:]}) == 1
        assert (client.user("Zo\u00eb 7").shown, client.user("7").shown) == (3, 2)
        client.delete_user("Zo\u00eb 7")
        client.delete_user("7")
        with service_of(client).state.reading() as connection:
            assert connection.execute(sa.select(tables.shown.c.user_id)).all() == []
        assert client.recommend(user_id=" NULL ", n=1).arm is None, "nobody"
        assert client.http.post("/v1/recommend", json={"user_id": "x" * 201}).status_code == 422


def test_a_list_that_was_made_before_somebody_was_deleted_is_not_kept_after_it(world_run, tmp_path):
    with served(world_run[1].path, tmp_path) as client:
        service, name = service_of(client), "somebody"
        client.send({"event_id": "x", "user_id": name, "item_id": "i1", "type": "like"})
        one, passes = service._one, []

        async def meanwhile(ask):
            found = await one(ask)
            if not passes:
                passes.append(found.shown.path)
                await asyncio.to_thread(persons.forget_person, service.state, name)
            return found

        service._one = meanwhile
        told = client.recommend(user_id=name, n=3)
        assert passes == ["personalized"]
        assert told.path.startswith("cold start")
        assert [found["path"] for found in service.held(name)["shown"]] == [told.path]


def test_what_is_learned_while_somebody_is_deleted_is_not_kept(world_run, tmp_path, monkeypatch):
    from serving.service import learning

    with served(world_run[1].path, tmp_path) as client:
        state, name = service_of(client).state, "somebody"
        plain, done = learning.train, []

        def meanwhile(*given):
            found = plain(*given)
            persons.forget_person(state, name)
            done.append(len(found.users))
            return found

        monkeypatch.setattr(learning, "train", meanwhile)
        client.send({"event_id": "x", "user_id": name, "item_id": "i1", "type": "like"})
        until = time.monotonic() + 60
        while not done:
            assert time.monotonic() < until
            time.sleep(0.05)
        in_turn(client, lambda _: None)
        assert done == [1]
        assert service_of(client).held(name)["states"] == []


def test_a_deletion_that_was_killed_before_its_last_step_is_finished_by_the_next(tmp_path, monkeypatch):
    state, name = State(sqlite_url(tmp_path / "state.sqlite")), "somebody-with-a-name"
    state.write(lambda connection: add_events(connection, [Event("e", name, "i1", "like", 1)]))
    with monkeypatch.context() as patch:
        patch.setattr(persons, "sweep", killed)
        with pytest.raises(Killed):
            persons.forget_person(state, name)
    assert files_with(tmp_path, name)
    assert persons.forget_person(state, name) == 0
    assert files_with(tmp_path, name) == []
    state.close()


def killed(*_) -> None:
    raise Killed

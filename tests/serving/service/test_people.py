"""A person over HTTP: looked at, handed over, deleted so that nothing is left."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from recsys.run import Run
from serving.service.client import ServiceError
from tests.support.serving_http import served


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

"""P_u follows a service's events: to the rows that `Recommender.update` would have trained, for those people alone, in every process."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest

import serving.service.batches
import serving.service.served
from serving import Recommender
from serving.service.client import Client
from tests.support.serving_http import in_turn, served, service_of

EVENTS = [("u5", f"i{2 * n}", 1_030_000 + n) for n in range(6)] + [
    ("newcomer", f"i{n}", 1_031_000 + n) for n in range(3)
]


def sent(client: Client) -> None:
    client.send(*({"event_id": f"{user}-{item}", "user_id": user, "item_id": item, "type": "like", "timestamp": moment}
                  for user, item, moment in EVENTS))  # fmt: skip


def learned(client: Client, user_id: str) -> None:
    until = time.monotonic() + 60
    while not client.export_user(user_id)["service"]["states"]:
        assert time.monotonic() < until
        time.sleep(0.05)


def scores(client: Client, user_id: str) -> dict[str, float]:
    return {
        item.item_id: item.score for item in client.recommend(user_id=user_id, method="tap_per", n=20).items
    }


def test_rows_are_those_of_an_update_and_others_stay(world_run, tmp_path):
    run = Path(shutil.copytree(world_run[1].path, tmp_path / "run"))
    in_python = Recommender.load(run)
    before = [(item.item_id, item.score) for item in in_python.recommend("u6", n=20, method="tap_per")]
    in_python.update(EVENTS)
    with served(world_run[1].path, tmp_path, longest_wait_s=0) as client:
        without = scores(client, "u5")
        sent(client)
        learned(client, "u5")
        learned(client, "newcomer")
        for user in ("u5", "newcomer"):
            expected = {
                item.item_id: item.score for item in in_python.recommend(user, n=20, method="tap_per")
            }
            found = scores(client, user)
            assert list(found) == list(expected)
            np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)
        assert scores(client, "u5") != without
        assert [*scores(client, "u6").items()] == [
            (item, pytest.approx(score, rel=1e-5)) for item, score in before
        ]
        with served(world_run[1].path, tmp_path) as other:
            np.testing.assert_allclose(
                list(scores(other, "u5").values()), list(scores(client, "u5").values()), rtol=1e-5
            )
        (state,) = client.export_user("newcomer")["service"]["states"]
        assert len(state["row"]) > 8, "all of it is handed over"
        assert [*client.user("newcomer").states[0]] == ["method", "events_seen"]
        client.delete_user("newcomer")
        assert service_of(client).held("newcomer")["states"] == []


def test_where_it_is_off_histories_alone_have_the_events(world_run, tmp_path):
    with served(world_run[1].path, tmp_path, learn=False) as client:
        sent(client)
        client.recommend(user_id="u5")
        time.sleep(1.2)
        assert client.export_user("u5")["service"]["states"] == []
        assert client.user("newcomer").known


def test_what_nobody_learns_from_is_not_waited_for(world_run, tmp_path, monkeypatch):
    """Where rows of P_u do not learn, and where more comes than they learn, nothing grows."""
    monkeypatch.setattr(serving.service.served, "MOST_MINE", 4)
    with served(world_run[1].path, tmp_path, learn=False) as client:
        sent(client)
        assert service_of(client).served.mine == set()
    monkeypatch.setattr(serving.service.batches, "learn", lambda _: 0)  # nobody has time
    (tmp_path / "state.sqlite").unlink()
    with served(world_run[1].path, tmp_path) as client:
        sent(client)
        waiting = in_turn(client, lambda found: found.to_learn)
        assert [moment for *_, moment in waiting] == [moment for *_, moment in EVENTS[-4:]]

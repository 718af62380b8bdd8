"""`prelude update` and a service of the run take events into one state: each sees what the other took in, once."""

from __future__ import annotations

import shutil
from pathlib import Path

from serving import Recommender
from serving.state import place
from serving.state.events import events_after
from serving.state.store import State
from tests.support.serving_http import in_turn, served, service_of

NOW = 2_000_000


def test_an_update_reaches_the_service_and_http_reaches_whoever_loads_the_run(world_run, tmp_path):
    run = Path(shutil.copytree(world_run[1].path, tmp_path / "run"))
    with served(run, tmp_path, state=place.url_of(run)) as client:
        assert client.recommend(user_id="newcomer").path.startswith("cold start")
        Recommender.load(run).update([("newcomer", "i3", NOW, "e1"), ("u1", "i5", NOW, "e2")])
        assert client.recommend(user_id="newcomer").path == "personalized"
        client.send(
            {"event_id": "e1", "user_id": "newcomer", "item_id": "i3", "type": "like", "timestamp": NOW}
        )
        client.send({"event_id": "e3", "user_id": "other", "item_id": "i7", "type": "like", "timestamp": NOW})
        loaded = Recommender.load(run).live.histories
        numbers = {name: loaded.user_index(name) for name in ("newcomer", "other", "u1")}
        assert None not in numbers.values()
        client.recommend(user_id="other")
        theirs = in_turn(client, lambda one: {name: one.histories.user_index(name) for name in numbers})
        assert theirs == numbers
        rows = in_turn(client, lambda one: numbers["newcomer"] in one.recommender.live.rows("tap_per"))
        assert rows  # trained by the update
        assert service_of(client).behind() == 0
    state = State(place.url_of(run))
    assert [kept.event.event_id for kept in events_after(state, 0)] == ["e1", "e2", "e3"]
    state.close()


def test_beside_a_state_of_its_own_a_service_reads_what_the_run_absorbed(world_run, tmp_path):
    run = Path(shutil.copytree(world_run[1].path, tmp_path / "run"))
    Recommender.load(run).update([("newcomer", "i3", NOW), ("both", "i3", NOW)])
    with served(run, tmp_path) as client:
        client.send(
            {"event_id": "e1", "user_id": "both", "item_id": "i5", "type": "like", "timestamp": NOW + 1}
        )
        client.send({"event_id": "e2", "user_id": "fresh", "item_id": "i5", "type": "like", "timestamp": NOW})
        paths = {name: client.recommend(user_id=name).path for name in ("newcomer", "both", "fresh")}
        assert set(paths.values()) == {"personalized"}
        found = in_turn(
            client,
            lambda one: [
                (number, len(one.histories.events(number)[0]))
                for number in map(one.histories.user_index, ("newcomer", "both", "fresh"))
            ],
        )
        assert [length for _, length in found] == [1, 2, 1]
        assert (
            len({number for number, _ in found}) == 3
        )  # two states number people, and no number is two people's

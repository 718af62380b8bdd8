"""The nights study: what a night knows, what it is measured by, and the figures of made rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from serving import Recommender
from serving.studies.nights import table
from serving.studies.nights.__main__ import DATA
from serving.studies.nights.measure import measure
from serving.studies.nights.world import LEAST, Nights


@pytest.fixture(scope="module")
def world() -> Nights:
    return Nights.of_movielens(DATA, 6, 60.0, 0.7)


def test_a_night_knows_nothing_of_its_own_events_or_of_later_ones(world):
    assert len(world) == 6
    for night in range(6):
        known, during = world.known(night), world.during(night)
        assert known["timestamp"].max() < world.edges[night] <= during["timestamp"].min()
        assert during["timestamp"].max() < world.edges[night + 1]
        assert len(world.known(night + 1)) == len(known) + len(during)
        out = set(world.catalogue(night)["item_id"])
        assert set(during["item_id"]) <= out  # a film is out before somebody has seen it,
        late = world.events[world.events["timestamp"] >= world.edges[night + 1]]["item_id"]
        assert set(late) - set(known["item_id"]) - set(during["item_id"]) <= set(world.items["item_id"]) - out
    counts = world.known(0)["item_id"].value_counts()
    assert counts.min() >= LEAST
    assert set(world.catalogue(-1)["item_id"]) == set(counts.index)
    assert len(world.during(-1)) == 0


def test_what_is_asked_is_drawn_by_user_alone(world):
    asked = world.asked(2, 3)
    assert asked.groupby("user_id").size().max() == 3
    assert set(asked["user_id"]) == set(world.during(2)["user_id"])
    assert asked.equals(world.asked(2, 3))
    new = asked[asked["is_new"]]["item_id"]
    assert not set(new) & set(world.catalogue(-1)["item_id"])
    assert set(asked[~asked["is_new"]]["item_id"]) <= set(world.catalogue(-1)["item_id"])


def test_a_request_has_the_history_before_it_and_an_item_that_is_not_served_has_no_chance(world_run):
    end = Recommender.load(world_run[1].path).methods.dataset.end
    during = pd.DataFrame(
        {
            "user_id": ["u1", "u1", "u1", "guest", "guest"],
            "item_id": ["i3", "i5", "not there", "i7", "i9"],
            "timestamp": [end + 10, end + 20, end + 30, end + 10, end + 10],
        }
    )
    asked = during.assign(is_new=[False, False, True, False, False])
    rows = {}
    for sees in (True, False):
        service = Recommender.load(world_run[1].path)
        rows[sees] = measure(service, asked, during, "no_context", sees)
        assert len(service.live.sources) == 0  # in memory alone
    assert rows[True]["is_cold"].tolist() == [
        False,
        False,
        False,
        True,
        True,
    ]  # of one second: no history of each other
    assert rows[False]["is_cold"].tolist() == [False, False, False, True, True]
    assert rows[True].loc[2, ["hit", "recall", "recall30"]].tolist() == [0.0, 0.0, 0.0]
    assert (rows[True].drop(2)["hit"] > 0).all()
    first, second = (rows[True].loc[0, "hit"], rows[False].loc[0, "hit"])
    assert first == pytest.approx(second, rel=1e-5)  # before anything of the night
    assert rows[True].loc[1, "hit"] != pytest.approx(rows[False].loc[1, "hit"], rel=1e-5)  # i3 is history


def test_tables_are_means_over_users_with_their_intervals():
    made = []
    for night in range(10):
        for arm, base in (("never", 0.1), ("refreshed", 0.3)):
            for user in range(4):
                made += [
                    {"arm": arm, "night": night, "user_id": f"u{user}", "is_new": new, "is_cold": False}
                    | dict.fromkeys(table.FIGURES, base + 0.01 * user)
                    for new in (True, False, False)
                ]
    rows = pd.DataFrame(made)
    took = pd.DataFrame(
        [
            {"arm": arm, "night": n, "seconds": 1.0 + n, "memory": 3 << 20, "refused": ""}
            for arm in ("never", "refreshed")
            for n in range(10)
        ]
    )
    found = {(one["items"], one["arm"]): one for one in table.summary(rows, ["never", "refreshed"])}
    assert found["new", "refreshed"]["targets"] == 40
    assert found["all", "never"]["hit"] == pytest.approx(0.115)
    assert found["all", "refreshed"]["difference"] == pytest.approx(0.2)
    parts = table.stretches(rows, ["never", "refreshed"], 10)
    assert [part["nights"] for part in parts] == ["1–2", "3–4", "5–6", "7–8", "9–10"]
    assert parts[0]["new"] == pytest.approx(1 / 3)
    assert [part["nights"] for part in table.stretches(rows, ["never", "refreshed"], 2)] == ["1–1", "2–2"]
    text = table.markdown(rows, took, ["never", "refreshed"], 10)
    assert "| new | refreshed | 40 (4) | 0.315" in text
    assert "| refreshed | 5.50 (10.0) | 3 | 0 |" in text
    assert table.picture(rows, took, ["never", "refreshed"], 10)[:4] == b"\x89PNG"
    assert np.isfinite(found["old", "never"]["hit_interval"]).all()
    assert Path(DATA).is_dir()

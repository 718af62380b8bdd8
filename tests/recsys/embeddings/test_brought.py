"""Vectors that are brought: what they cover, what they cannot be, and what no check can see of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.data.config import PrepareConfig
from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.door.tables import DataError
from recsys.embeddings.config import EmbedConfig
from recsys.embeddings.embed import embed
from recsys.embeddings.leaks import LeakError
from recsys.run import Run

FAULTS = Path(__file__).parents[2] / "support" / "faults"
LEAKING = {
    "user_embeddings": FAULTS / "m_leak_users.parquet",
    "item_embeddings": FAULTS / "m_leak_items.parquet",
}


@pytest.fixture
def run(tmp_path) -> Run:
    made = Run.create(tmp_path / "run")
    files = {"interactions": FAULTS / "base_events.csv", "items": FAULTS / "base_items.csv"}
    prepare(PrepareConfig(source="files", **files), made)
    return made


def embedded(run: Run, **settings) -> dict:
    embed(EmbedConfig(text_encoder=None, lightgcn={"epochs": 2}, **settings), run)
    return run.read_json("embed", "embed.json")


def test_vectors_dated_before_their_users_first_event_are_refused_by_name(run):
    with pytest.raises(
        LeakError, match=r"120 of 120 user vectors are dated before .*embed.accept to \[before_first_event"
    ):
        embedded(run, **LEAKING)
    assert not (run.path / "embed").exists()


def test_one_vector_a_user_never_passes_a_check_that_cannot_see_it(run, capsys):
    report = embedded(run, **LEAKING, accept=("before_first_event", "far_above_history"))
    assert {one["key"]: one["accepted"] for one in report["suspicions"]} == {
        "before_first_event": True,
        "constant": False,
        "far_above_history": True,
    }
    assert report["leak_check"].startswith("cannot tell")
    assert "passed" not in capsys.readouterr().out


def test_one_vector_an_item_passes_no_check_either(run, capsys):
    """Means of brought item vectors find training and validation targets alike, whichever of them the vectors know."""
    report = embedded(run, item_embeddings=LEAKING["item_embeddings"])
    assert report["leak_check"].startswith("cannot tell: each item has one vector")
    assert "passed" not in capsys.readouterr().out


def test_hits_far_above_what_the_history_explains_are_refused(run):
    with pytest.raises(LeakError, match="more than 2 times as many"):
        embedded(run, **LEAKING, accept=("before_first_event",))


def test_vectors_of_today_cover_no_earlier_moment(run):
    with pytest.raises(
        DataError, match=r"personalize instances with a vector from before their moment: 0 of 361"
    ):
        embedded(
            run,
            user_embeddings=FAULTS / "m_users_today.parquet",
            item_embeddings=FAULTS / "m_items_index.parquet",
        )


def test_ids_that_hardly_match_are_refused_and_an_index_is_a_column(run):
    with pytest.raises(
        DataError, match=r"items with a vector: 6 of 90 .*84 ids of the file are unknown.*'I006'"
    ):
        embedded(run, item_embeddings=FAULTS / "m_items_mostly_other_ids.parquet")
    report = embedded(run, item_embeddings=FAULTS / "m_items_index.parquet")
    assert report["item_coverage"]["share"] == 1.0


def test_honest_vectors_of_many_moments_pass_and_say_what_would_have_been_seen(run, tmp_path):
    """Means of item vectors over the history, exported after every event: they explain what the history explains."""
    data = Dataset.load(run)
    items = pd.read_parquet(FAULTS / "m_leak_items.parquet").set_index("item_id")["vector"]
    table = np.stack([items[item_id] for item_id in data.catalogue.item_ids])
    rows = [
        (
            data.user_ids[user],
            int(data.times[event]),
            table[data.items[data.offsets[user] : event + 1]].mean(0),
        )
        for event, user in enumerate(data.users)
    ]
    path = tmp_path / "honest.parquet"
    pd.DataFrame(rows, columns=["user_id", "timestamp", "vector"]).to_parquet(path)
    report = embedded(run, user_embeddings=path, item_embeddings=FAULTS / "m_leak_items.parquet")
    assert report["suspicions"] == []
    check = report["leak_check"]
    assert check["margin"] < check["smallest_seen"] < 1
    assert [found["share"] for found in report["user_coverage"]] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (
            [("i001", [1.0, 2.0]), ("i001", [1.0, 2.0])],
            "row 2: item_id 'i001' already has a vector of that moment",
        ),
        (
            [("i001", [1.0, 2.0]), ("i002", [1.0])],
            r"row 2: the vector has 1 number\(s\), and the first one 2",
        ),
        ([("i001", [1.0, float("nan")])], "row 1: the vector has a value that is not finite"),
        ([("i001", "text")], "expected lists of numbers"),
        ([(None, [1.0])], "row 1: item_id is blank"),
        ([("zzz", [1.0])], "no item_id in it is known to the run .*'zzz'.*'i000'"),
    ],
)
def test_bad_vectors_are_refused_by_place(run, tmp_path, rows, problem):
    path = tmp_path / "v.parquet"
    pd.DataFrame(rows, columns=["item_id", "vector"]).to_parquet(path)
    with pytest.raises(DataError, match=problem):
        embedded(run, item_embeddings=path)

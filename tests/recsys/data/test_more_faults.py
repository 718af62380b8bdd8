"""More situations of the kinds of tests/recsys/data/test_faults.py, made from its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.data.config import PrepareConfig
from recsys.data.dataset import Dataset
from recsys.data.filters import sounds_against
from recsys.data.phrases import Phrases
from recsys.data.prepare import prepare
from recsys.door.tables import DataError
from recsys.run import Run

FAULTS = Path(__file__).parents[2] / "support" / "faults"


@pytest.fixture
def events() -> pd.DataFrame:
    return pd.read_csv(FAULTS / "base_events.csv")


def prepared(folder: Path, rows: pd.DataFrame, items: pd.DataFrame | None = None, queries=None, **settings):
    files = {"interactions": folder / "events.csv", "items": FAULTS / "base_items.csv"}
    folder.mkdir(exist_ok=True)
    rows.to_csv(files["interactions"], index=False)
    for name, frame in (("items", items), ("queries", queries)):
        if frame is not None:
            files[name] = folder / f"{name}.csv"
            frame.to_csv(files[name], index=False)
    run = Run.create(folder / "run")
    prepare(PrepareConfig(source="files", **files, **settings), run)
    report = run.read_json("prepare", "prepare.json")
    return Dataset.load(run), report, {one["reason"]: one["count"] for one in report["warnings"]}


def test_rows_of_items_that_the_file_lacks_count_and_not_only_the_items(tmp_path, events):
    """Half of the items are there, and they are those that hardly anybody had."""
    items = pd.read_csv(FAULTS / "base_items.csv")
    rare = items[items["item_id"].isin(events["item_id"].value_counts().index[40:])]
    with pytest.raises(
        DataError, match=r"interactions with an item that the items file describes: 374 of 1,417 \(26\.4%\)"
    ):
        prepared(tmp_path, events, rare, unknown_items="drop")
    found, _, _ = prepared(tmp_path, events, rare, unknown_items="drop", min_known_items=0.2)
    assert len(found.users) == 374


def test_an_item_that_is_half_of_everything_is_named(tmp_path, events):
    half = np.arange(len(events)) % 2 == 0
    _, _, said = prepared(tmp_path, events.assign(item_id=np.where(half, "i001", events["item_id"])))
    assert said["item_with_many_events"] == half.sum() + (events["item_id"][~half] == "i001").sum()


def test_roles_that_nothing_can_be_asked_of_are_named(tmp_path, events):
    events["item_id"] = "i001"
    events.loc[0, "item_id"] = "i002"
    _, _, said = prepared(tmp_path, events)
    assert {"no_validation_events", "no_test_events"} <= said.keys()


@pytest.mark.parametrize("kind", ["thumb_down", "ThumbsDown", "DISLIKED", "unfavorite", "remove_from_cart", "negative", "downvoted", "-1", "not interested", "skipped", "hidden"])  # fmt: skip
def test_kinds_that_sound_like_dislikes(kind):
    assert sounds_against(kind)


@pytest.mark.parametrize("kind", ["like", "view", "buy", "urban", "shipped", "badge", "1", "noted", "add_to_cart", "banner_click"])  # fmt: skip
def test_kinds_that_do_not(kind):
    assert not sounds_against(kind)


def test_where_all_is_against_nothing_is_learned_and_ratings_of_nothing_are_named(tmp_path, events):
    with pytest.raises(DataError, match="no kind of event for an item"):
        prepared(tmp_path, events.assign(event="dislike"), events={"dislike": "against"})
    bad = np.arange(len(events)) % 5 == 0
    _, _, said = prepared(tmp_path, events.assign(rating=np.where(bad, -1, 1)))
    assert said["ratings_of_nothing_or_less"] == bad.sum()


def test_what_of_the_catalogue_hangs_on_test_events_is_counted(tmp_path, events):
    last = events.sort_values("timestamp").groupby("user_id").tail(1).index[:7]
    events.loc[last, "item_id"] = [f"late{number}" for number in range(7)]
    dataset, _, said = prepared(tmp_path, events, min_known_items=0, split={"kind": "leave_last_out"})
    assert said["items_that_test_alone_names"] == 7
    assert "late0" in dataset.catalogue.item_ids
    rest = events.drop(last)
    few = rest.groupby("item_id")["user_id"].nunique()
    found, _, said = prepared(tmp_path, rest, k_core_items=3, split={"kind": "leave_last_out"})
    assert 0 < said["items_that_test_events_keep"] < len(few)
    assert "items_that_test_alone_names" not in said
    assert (np.bincount(found.items) > 0).all()


# -- queries -----------------------------------------------------------------------------------------------------


@pytest.fixture
def queries() -> pd.DataFrame:
    return pd.read_csv(FAULTS / "f_unique_ok.csv")


def read_of(dataset: Dataset) -> set[str]:
    return {phrase for phrases in Phrases(dataset).of for phrase in phrases}


@pytest.mark.parametrize("change", ["a minute before", "the day", "of no time"])
def test_queries_of_nobody_known_about_held_out_events_are_held_back(tmp_path, events, queries, change):
    """People ask a little before they choose, logs cut times to days, and times may be missing: none of it opens the test's queries."""
    known, _, _ = prepared(tmp_path / "known", events, queries=queries, held_out_queries=0)
    held = set(queries["query"]) - read_of(known)
    times = {
        "a minute before": queries["timestamp"] - 60,
        "the day": queries["timestamp"] // 86_400 * 86_400,
        "of no time": 0,
    }[change]
    strangers = queries.assign(user_id="", timestamp=times)
    dataset, _, said = prepared(tmp_path / "strangers", events, queries=strangers, held_out_queries=0)
    assert len(held) > 100
    assert not held & read_of(dataset)
    assert ("queries_outside_of_the_events_times" in said) == (change == "of no time")


def test_queries_without_an_item_are_refused_or_left_out_as_the_message_says(tmp_path, events, queries):
    queries.loc[:2, "item_id"] = None
    with pytest.raises(
        DataError,
        match=r"queries\.csv:2: item_id is blank; 3 of 473 row\(s\) have none: fill them in or delete the rows$",
    ):
        prepared(tmp_path, events, queries=queries)
    dataset, _, said = prepared(tmp_path, events, queries=queries, missing_ids="drop")
    assert (said["queries_without_item_id"], len(dataset.queries)) == (3, 470)


def test_how_the_times_of_queries_are_read_is_said(tmp_path, events, queries):
    _, report, _ = prepared(tmp_path, events, queries=queries.assign(timestamp=queries["timestamp"] * 1000))
    assert any(
        "queries.csv: timestamps are read as Unix time in milliseconds" in line
        for line in report["card"]["readings"]
    )

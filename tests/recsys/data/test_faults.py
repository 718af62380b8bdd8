"""Situations of public bug reports of other recommenders, each as a small file, and what is right.

The files (tests/support/faults) are made data: 120 people, 90 items of six genres, 1,417 events in base_events.csv.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys.data.config import PrepareConfig
from recsys.data.dataset import Dataset
from recsys.data.phrases import Phrases
from recsys.data.prepare import prepare
from recsys.data.splits import FIT, PERSONALIZE, TEST, VALIDATION
from recsys.door.tables import DataError
from recsys.run import Run

FAULTS = Path(__file__).parents[2] / "support" / "faults"
EVENTS, PEOPLE, ITEMS = 1417, 120, 90


def prepared(folder: Path, interactions: str = "base_events.csv", **settings) -> tuple[Dataset, dict]:
    files = {"interactions": FAULTS / interactions, "items": FAULTS / settings.pop("items", "base_items.csv")}
    if "queries" in settings:
        files["queries"] = FAULTS / settings.pop("queries")
    run = Run.create(folder / "run")
    prepare(PrepareConfig(source="files", **files, **settings), run)
    return Dataset.load(run), run.read_json("prepare", "prepare.json")


def refusal(folder: Path, *arguments, **settings) -> str:
    with pytest.raises(DataError) as caught:
        prepared(folder, *arguments, **settings)
    assert not (folder / "run" / "prepare").exists()  # nothing half-written
    return str(caught.value)


def rows_of(dataset: Dataset) -> list[tuple[str, str, int]]:
    names = (dataset.user_ids[dataset.users], dataset.catalogue.item_ids[dataset.items], dataset.times)
    return list(zip(*(name.tolist() for name in names), strict=True))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Dataset:
    return prepared(tmp_path_factory.mktemp("base"))[0]


@pytest.mark.parametrize("name", ["a_view_purchase_partial.csv", "a_purchase_first.csv"])
def test_rows_of_another_kind_are_no_copies(tmp_path, name):
    dataset, report = prepared(tmp_path, name, keep_events=["purchase"])
    assert len(dataset.users) == EVENTS
    assert report["dropped_rows"] == {"keep_events": report["rows_read"] - EVENTS}


def test_both_orders_of_two_kinds_give_the_same_bytes(tmp_path):
    one, two = (
        prepared(tmp_path / name, name)[0] for name in ("a_view_purchase_partial.csv", "a_purchase_first.csv")
    )
    for column in ("users", "items", "times", "roles", "kinds"):
        np.testing.assert_array_equal(getattr(one, column), getattr(two, column))


def test_a_corrected_rating_is_what_the_person_meant(tmp_path):
    dataset, report = prepared(tmp_path, "a_rerated.csv", min_rating=4)
    assert len(dataset.users) == 417
    assert report["dropped_rows"] == {"corrected_rows": 417, "min_rating": 1000}


def test_repeats_are_counted_and_obey_one_rule(tmp_path):
    dataset, report = prepared(tmp_path, "j_repeats.csv")
    targets = report["card"]["targets"]
    (notice,) = [one for one in report["warnings"] if one["reason"] == "repeats_not_asked_for"]
    assert notice["count"] == targets["validation"]["repeats"] + targets["test"]["repeats"] > 150
    assert "exclude_seen to false" in notice["message"]
    for role in (PERSONALIZE, VALIDATION, TEST):
        for event in dataset.instances(role):
            request = dataset.request(int(event), dataset.exclude_seen)
            assert dataset.items[event] not in request.history
            assert set(request.exclude) == set(
                request.history
            )  # everything that was had, and nothing tells the answer
    again, _ = prepared(tmp_path / "again", "j_repeats.csv", exclude_seen=False)
    assert len(again.instances(TEST)) == len(again.events(TEST))


def test_queries_of_other_ids_are_refused(tmp_path):
    message = refusal(tmp_path, queries="f_unique_intusers.csv")
    assert "user_id is known: 0 of 473" in message
    assert "min_known_queries" in message
    _, report = prepared(tmp_path / "ok", queries="f_unique_ok.csv")
    assert [found["matched"] for found in report["card"]["coverage"] if "queries" in found["what"]] == [
        473,
        473,
    ]


def test_queries_about_held_out_events_are_held_back_whoever_asked(tmp_path):
    settings = {"queries": "f_unique_intusers.csv", "min_known_queries": 0, "held_out_queries": 0}
    dataset, _ = prepared(tmp_path, **settings)
    assert (dataset.queries["user"] == -1).all()
    later = np.isin(dataset.roles, (PERSONALIZE, VALIDATION, TEST))
    items, times = dataset.items[later], dataset.times[later]
    about = {  # whoever it is has chosen within the hour
        q
        for i, t, q in dataset.queries[["item", "timestamp", "query"]].itertuples(index=False)
        if ((items == i) & (times >= t) & (times < t + 3600)).any()
    }
    read = {phrase for phrases in Phrases(dataset).of for phrase in phrases}
    assert len(about) > 100
    assert not about & read
    assert set(dataset.queries["query"]) - about <= read


def test_a_missing_id_is_named_as_it_is_spelled(tmp_path):
    message = refusal(tmp_path, "b_na_users.csv")
    assert "b_na_users.csv:2: user_id is blank (it says 'NA'" in message
    assert "473 of 1417" in message
    dataset, report = prepared(tmp_path / "dropped", "b_na_users.csv", missing_ids="drop")
    assert len(dataset.users) == EVENTS - 473 == report["rows_kept"]
    assert report["dropped_rows"] == {"without_user_id": 473}


def test_one_id_with_a_third_of_all_events_is_capped(tmp_path):
    text = (FAULTS / "b_na_users.csv").read_text().replace("NA,", "nobody-knows,")
    (tmp_path / "crawler.csv").write_text(text)
    run = Run.create(tmp_path / "run")
    prepare(PrepareConfig(source="files", interactions=tmp_path / "crawler.csv", user_cap=0.05), run)
    dataset, report = Dataset.load(run), run.read_json("prepare", "prepare.json")
    training = np.isin(dataset.roles, (FIT, PERSONALIZE))
    mine = dataset.users == dataset.user_index("nobody-knows")
    share = (training & mine).sum() / training.sum()
    assert 0.07 < share <= 10 / PEOPLE  # ten even shares, which is more than the cap
    assert [one["reason"] for one in report["warnings"] if "nobody-knows" in one["message"]] == [
        "user_capped"
    ]


def test_text_columns_are_words(tmp_path):
    dataset, report = prepared(tmp_path, items="c_items_embedding.parquet")
    assert list(dataset.catalogue.columns) == ["genre"]
    (said,) = [line for line in report["card"]["readings"] if "read as text" in line]
    for left in (
        "embedding (lists of numbers)",
        "price (numbers)",
        "released (dates)",
        "image_url (links)",
        "thumb (bytes)",
    ):
        assert left in said


def test_seven_is_seven(tmp_path):
    dataset, _ = prepared(tmp_path, "e_float_ids.csv", items="e_int_items.csv")
    assert dataset.catalogue.titles[6] != dataset.catalogue.item_ids[6] == "7"
    assert dataset.user_ids[:3].tolist() == ["1", "2", "3"]
    message = refusal(tmp_path / "none", items="e_int_items.csv")
    assert "the items file describes: 0 of 82" in message
    assert "min_known_items" in message


def test_no_times_stop_before_anything_is_trained(tmp_path):
    message = refusal(tmp_path, "g_all_same_time.csv")
    assert "no test event has a history: all events have one time, 0" in message
    assert "time: ordinal" in message


def test_dates_and_typed_times_are_times(tmp_path, base):
    for name in ("g_iso.csv", "g_tz.parquet"):
        assert rows_of(prepared(tmp_path / name, name)[0]) == rows_of(base)
    days, report = prepared(tmp_path / "days", "g_yyyymmdd.csv")
    np.testing.assert_array_equal(np.sort(days.times), np.sort(base.times // 86400 * 86400))
    assert any("dates as YYYYMMDD" in line for line in report["card"]["readings"])
    assert "tied_test_events" in [one["reason"] for one in report["warnings"]]


def test_orders_are_warned_of_until_they_are_called_so(tmp_path):
    text = "user_id,item_id,timestamp\n" + "".join(
        f"{user},{item},{place}\n"
        for place, (user, item, _) in enumerate(
            line.split(",") for line in (FAULTS / "base_events.csv").read_text().split()[1:]
        )
    )
    (tmp_path / "order.csv").write_text(text)
    for time, warned in (("auto", True), ("ordinal", False)):
        run = Run.create(tmp_path / time)
        prepare(PrepareConfig(source="files", interactions=tmp_path / "order.csv", time=time), run)
        report = run.read_json("prepare", "prepare.json")
        assert ("times_before_1990" in [one["reason"] for one in report["warnings"]]) == warned
        assert report["time"] == ("unix_seconds" if warned else "ordinal")


def test_short_sessions_get_advice_that_works(tmp_path):
    assert "global_time" in refusal(tmp_path, "k_sessions2.csv")
    _, report = prepared(tmp_path / "last", "k_sessions2.csv", split={"kind": "leave_last_out"})
    (notice,) = [one for one in report["warnings"] if one["reason"] == "users_with_one_fit_event"]
    assert notice["count"] == 600
    assert "global_time" in notice["message"]
    dataset, report = prepared(tmp_path / "cut", "k_sessions2.csv", split={"kind": "global_time"})
    assert "users_with_one_fit_event" not in [one["reason"] for one in report["warnings"]]
    assert (
        np.bincount(np.bincount(dataset.users[dataset.events(FIT)]))[2:].sum() > 300
    )  # users with two events or more


def test_items_that_nobody_has_had_stay(base):
    had = np.bincount(base.items, minlength=base.n_items)
    assert (base.n_items, int((had == 0).sum())) == (ITEMS, 8)


def test_quotes_escaped_by_a_backslash_are_read(tmp_path):
    dataset, report = prepared(tmp_path, items="o_spark_items.csv")
    assert dataset.catalogue.titles[0] == 'The "Glass" sessions'
    assert any("escaped by a backslash" in line for line in report["card"]["readings"])


def test_dislikes_are_likes_only_until_somebody_says_so(tmp_path):
    _, report = prepared(tmp_path, "o_dislike_metal.csv")
    (notice,) = [one for one in report["warnings"] if one["reason"] == "kinds_that_sound_against"]
    assert notice["count"] == 267
    meanings = {"listen": 1.0, "dislike": "against"}
    dataset, report = prepared(tmp_path / "said", "o_dislike_metal.csv", events=meanings)
    assert (len(dataset.users), len(dataset.against.users)) == (1150, 267)
    assert report["card"]["events_against"] == 267
    metal = [title_genre == ["metal"] for title_genre in dataset.catalogue.columns["genre"]]
    turned_down = np.array(metal)[dataset.against.items]
    assert turned_down.mean() > 0.9
    with pytest.raises(
        DataError, match="says nothing of 'dislike'; the kinds are: dislike 267, listen 1,150"
    ):
        prepared(tmp_path / "half", "o_dislike_metal.csv", events={"listen": 1.0})


def test_lists_and_atomic_files_are_sources(tmp_path, base):
    assert rows_of(prepared(tmp_path / "lists", "i_lists.parquet")[0]) == rows_of(base)
    dataset, _ = prepared(tmp_path / "atomic", "h_own.inter", items="h_own.item")
    assert rows_of(dataset) == rows_of(base)
    assert dataset.catalogue.titles == base.catalogue.titles
    assert dataset.catalogue.columns == {
        "class": [[genre, "music"] for (genre,) in base.catalogue.columns["genre"]]
    }

"""Ids that a run does not know are ignored, counted and said, and 7, "7", 7.0 and the decimal 7 are one id: at every door."""

from __future__ import annotations

import json
import os
import shutil
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import serving
from recsys.data.catalogue import Catalogue
from recsys.run import Run
from serving.answering.known import Counted, known_items, known_user
from serving.playlists.rows import checked
from tests.support.command_line import prelude

SHOP = Catalogue(np.array(["7", "12", "007", "x"], dtype=object), ["seven", "twelve", "double-o", "x"], {})


@pytest.fixture(scope="module")
def recommender(small_run):
    return serving.Recommender.load(small_run[1].path)


@pytest.fixture
def copy(small_run, tmp_path) -> Run:
    shutil.copytree(small_run[1].path, tmp_path / "copy", copy_function=os.link)
    return Run.open(tmp_path / "copy")


def ids(found) -> list[str]:
    return [item.item_id for item in found]


# -- one id ------------------------------------------------------------------------------------------------------


def spellings(number: int) -> list:
    """The ways in which tables and programs write a whole number."""
    text = str(number)
    return [number, text, float(number), f"{text}.0", f" {text} ", Decimal(f"{text}.00"), np.int64(number), np.float64(number)]  # fmt: skip


@given(number=st.integers(-(10**6), 10**6))
def test_every_spelling_of_a_whole_number_is_one_id_in_python_and_in_files_of_requests(number):
    shop = Catalogue(np.array([str(number)], dtype=object), ["it"], {})
    users = SimpleNamespace(user_index={str(number): 3}.get)
    for spelled in spellings(number):
        found = known_items(shop, [spelled], "exclude")
        assert (found.numbers.tolist(), found.ignored) == ([0], None), repr(spelled)
        assert known_user(users, spelled) == (str(number), 3)
        column = pa.array([spelled, None])
        rows = pa.RecordBatch.from_pydict(
            {
                "request_id": ["a", "b"],
                "user_id": column,
                "query": pa.nulls(2),
                "allow": pa.array([[spelled], None]),
            }
        )
        table = checked(rows, 0, 1, 10)
        assert table["user_id"].to_pylist() == [str(number), None]
        assert table["allow"].to_pylist() == [[str(number)], None]
        assert table["reason"].to_pylist() == [None, None]


def test_leading_zeros_exponents_and_blanks():
    found = known_items(SHOP, ["007", "1e1", None, "", " ", "NA", "\\N", float("nan"), "n/a", "x"], "allow")
    assert found.numbers.tolist() == [2, 3]
    assert (found.given, found.ignored) == (3, Counted(1, "'1e1'"))
    lists = pa.array([["007", "1e1", None, "", "NA", "x"]])
    rows = pa.RecordBatch.from_pydict(
        {"request_id": ["a"], "user_id": ["N/A"], "query": pa.nulls(1), "allow": lists}
    )
    table = checked(rows, 0, 1, 10)
    assert table["allow"].to_pylist() == [["007", "1e1", None, None, None, "x"]]
    assert table["user_id"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (True, r"exclude\[1\]: id True is a truth value"),
        (7.5, r"exclude\[1\]: id 7.5 is a number, but not a whole one"),
        (2.0**60, "not a whole one that can be told from its neighbours"),
        (["7"], r"exclude\[1\]: id \['7'\] is a list"),
        ("a\x1b[31m", r"exclude\[1\]: id .* holds a control character"),
        (b"\xff", r"exclude\[1\]: "),
    ],
)
def test_what_is_no_id_is_refused_by_its_place(bad, message):
    with pytest.raises(ValueError, match=message):
        known_items(SHOP, ["7", bad], "exclude")


def test_an_id_of_requests_that_is_none_is_the_rows_reason():
    rows = pa.RecordBatch.from_pydict(
        {
            "request_id": ["a", "b", "c", "d"],
            "user_id": [1.0, 2.5, 3.0, 4.0],
            "query": pa.nulls(4),
            "allow": [[1.0], [2.0], [3.5, 1.0], None],
            "exclude": [None, None, None, ["ok", "e\x07"]],
        }
    )
    table = checked(rows, 0, 1, 10)
    assert table["reason"].to_pylist() == [
        None,
        "user_id 2.5 is not text or a whole number",
        "allow 3.5 is not text or a whole number",
        "exclude 'e\\x07' holds a control character",
    ]


def test_lists_of_any_arrow_type_are_lists_of_ids():
    """Nulls that hide values, slices, views, dictionaries, decimals and fixed lengths."""
    hidden = pa.ListArray.from_arrays(pa.array([0, 2, 4, 5]), pa.array(["x", "y", "7", "8", "9"]), mask=pa.array([True, False, False]))  # fmt: skip
    for column, lists in (
        (hidden.slice(1), [["7", "8"], ["9"]]),
        (hidden.slice(0, 2), [None, ["7", "8"]]),
        (pa.array([["7"], None], pa.list_view(pa.string())), [["7"], None]),
        (pa.array([["7"], ["8"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))), [["7"], ["8"]]),
        (pa.array([[7, 8], None], pa.large_list(pa.decimal128(9, 2))), [["7", "8"], None]),
        (pa.array([[7.0, None], [9.0, 10.0]], pa.list_(pa.float16(), 2)), [["7", None], ["9", "10"]]),
        (pa.array([[], [None]], pa.list_(pa.null())), [[], [None]]),
    ):
        rows = pa.RecordBatch.from_pydict(
            {"request_id": ["a", "b"], "user_id": ["u"] * 2, "query": pa.nulls(2), "allow": column}
        )
        assert checked(rows, 0, 1, 10)["allow"].to_pylist() == lists, column.type


# -- recommend ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["e2p", "embedding_retrieval", "popularity"])
def test_unknown_ids_change_nothing_and_are_counted(recommender, method):
    known = {"exclude": ["i3", "i5"], "allow": [f"i{n}" for n in range(20)], "history": ["i8", "i10"]}
    stale = {
        "exclude": ["OLD-9", "i3", "i5"],
        "allow": [*known["allow"], "NEW-1", None, "NEW-2"],
        "history": ["i8", "GONE", "i10"],
    }
    plain = recommender.recommend("u0", n=8, method=method, **known)
    found = recommender.recommend("u0", n=8, method=method, **stale)
    assert (found.items, found.path) == (plain.items, plain.path)
    assert len(found) == 8
    assert plain.ignored == {}
    assert found.ignored == {
        "exclude": Counted(1, "'OLD-9'"),
        "history": Counted(1, "'GONE'"),
        "allow": Counted(2, "'NEW-1'"),
    }


@pytest.mark.parametrize("user", ["u0", "nobody"])
@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            {"allow": ["NEW-1", "NEW-2"]},
            "no allowed item is left: unknown to the run: 2 (the first: 'NEW-1')",
        ),
        ({"allow": []}, "allow is a list without an id"),
        ({"allow": [None, "NA"]}, "allow is a list without an id"),
        ({"allow": ["i1", "i3"], "exclude": ["i3", "i1"]}, "no allowed item is left: excluded: 2"),
        (
            {"allow": ["i1", "NEW-1"], "exclude": ["i1"]},
            "no allowed item is left: excluded: 1; unknown to the run: 1 (the first: 'NEW-1')",
        ),
        ({"exclude": [f"i{n}" for n in range(60)]}, "no item of the catalogue is left: excluded: 60"),
    ],
)
def test_an_empty_answer_says_why(recommender, user, options, why):
    found = recommender.recommend(user, n=5, **options)
    assert ids(found) == []
    assert found.path == f"nothing to recommend: {why}"


def test_allowing_only_what_was_seen_says_that_it_was_seen(recommender):
    history, extra = ["i2", "i4", "i6"], ["i8"]
    found = recommender.recommend("u0", history=history, allow=["i2", "i4", "i4"], exclude_seen=True)
    left, why = (
        "nothing to recommend: no allowed item is left",
        "exclude_seen keeps what was had from coming again",
    )
    assert (ids(found), found.path) == ([], f"{left}: had before: 2 ({why})")
    both = recommender.recommend(
        "u0", history=history, allow=["i2", *extra], exclude=extra, exclude_seen=True
    )
    assert both.path == f"{left}: excluded: 1; had before: 1 ({why})"
    again = recommender.recommend("u0", history=history, allow=["i2", "i4"], exclude_seen=False)
    assert sorted(ids(again)) == ["i2", "i4"]


def test_a_moment_is_seconds_a_date_or_a_datetime(recommender):
    plain = recommender.recommend("u0", n=5, time=1_010_000)
    assert plain.items != recommender.recommend("u0", n=5).items
    moment = pd.Timestamp(1_010_000, unit="s")
    for same in ("1970-01-12T16:33:20Z", "1970-01-12 17:33:20+01:00", moment, moment.to_pydatetime(), "1010000", 1_010_000.0):  # fmt: skip
        assert recommender.recommend("u0", n=5, time=same).items == plain.items


def test_the_command_says_what_it_ignored(copy, monkeypatch, capsys):
    asked = ("recommend", copy.path, "--user", "u0", "--allow", "i1,NEW-1,i3", "--exclude", "OLD-9")
    code, out, err = prelude(monkeypatch, capsys, *asked, "--json")
    assert code == 0
    answer = json.loads(out)
    assert sorted(item["item_id"] for item in answer["items"]) == ["i1", "i3"]
    assert answer["ignored"] == {
        "exclude": {"count": 1, "first": "'OLD-9'"},
        "allow": {"count": 1, "first": "'NEW-1'"},
    }
    assert "ignored, unknown to the run: ids in allow: 1 (the first: 'NEW-1')" in err
    code, out, err = prelude(monkeypatch, capsys, "recommend", copy.path, "--user", "u0", "--allow", "NEW-1")
    assert code == 0
    assert "nothing to recommend: no allowed item is left: unknown to the run: 1" in " ".join(out.split())
    assert "personalized" not in out


# -- playlists ---------------------------------------------------------------------------------------------------


def test_playlists_and_recommend_ignore_the_same_ids(copy, recommender, tmp_path, monkeypatch, capsys):
    rows = [
        {"request_id": "r1", "user_id": "u1", "query": None, "allow": ["i1", "i2", "NEW-1"], "exclude": None},
        {"request_id": "r2", "user_id": "u2", "query": "odd", "allow": None, "exclude": ["i1", "OLD-9"]},
        {"request_id": "r3", "user_id": "u3", "query": None, "allow": ["NEW-1"], "exclude": None},
        {"request_id": "r4", "user_id": None, "query": None, "allow": None, "exclude": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "r.parquet")
    code, _, err = prelude(
        monkeypatch, capsys, "playlists", copy.path, "--requests", tmp_path / "r.parquet", "--out",
        tmp_path / "out", "--temperature", 0, "-n", 5, "--workers", 1,
    )  # fmt: skip
    assert code == 0, err
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
    assert (counts["unknown_items_excluded"], counts["unknown_items_allowed"], counts["rejected"]) == (
        1,
        2,
        1,
    )
    lists = pd.read_parquet(tmp_path / "out" / "playlists").groupby("request_id")["item_id"].agg(list)
    for row in rows:
        found = recommender.recommend(
            row["user_id"], row["query"], 5, allow=row["allow"], exclude=row["exclude"] or ()
        )
        assert lists.get(row["request_id"], []) == ids(found)
        counted = {name: one.count for name, one in found.ignored.items()}
        assert (
            counted
            == {"r1": {"allow": 1}, "r2": {"exclude": 1}, "r3": {"allow": 1}, "r4": {}}[row["request_id"]]
        )

"""Ids, times, labels and vectors as outsiders write them: read as what they are, or refused by place; never merged and never silent."""

from __future__ import annotations

import datetime
import json
import uuid
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pytest

from recsys.data.interactions import read_interactions
from recsys.door.notices import Notices
from recsys.door.tables import DataError
from recsys.door.times import one_moment
from recsys.door.values import one_id
from recsys.door.vectors import read_vectors

SECONDS = [1_600_784_832, 1_600_802_777, 1_603_000_000]


def written(folder: Path, **columns) -> Path:
    base = {"user_id": ["a", "b", "c"], "item_id": ["x", "y", "z"], "timestamp": SECONDS}
    pa.feather.write_feather(pa.table(base | columns), folder / "f.arrow")
    return folder / "f.arrow"


def users_of(path: Path) -> list[str]:
    return read_interactions(path).frame["user_id"].to_list()


def refusal(path: Path, **options) -> str:
    with pytest.raises(DataError) as caught:
        read_interactions(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- ids ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "why"),
    [
        (pa.array(np.array([2**24, 2**24 + 2, 7], np.float32)), "row 1: user_id 16777216.0 .* below 2\\^24"),
        (pa.array(np.array([2048, 7, 8], np.float16)), "row 1: user_id 2048.0 .* below 2\\^11"),
        (pa.array([Decimal("7.00"), Decimal("7.50"), Decimal("8.00")]), "row 2: user_id 7.50 is no whole number"),
        (pa.array([True, False, True]), "'user_id' holds bool"),
        (pa.array([datetime.date(2020, 1, 1)] * 3), "'user_id' holds date32"),
        (pa.array(["a", "(null)", "c"]), r"row 2: user_id is blank \(it says '\(null\)'"),
        (pa.array(["a", "-", "c"]), r"row 2: user_id is blank \(it says '-'"),
        (pa.array(["a", "#VALUE!", "c"]), r"row 2: user_id is blank \(it says '#VALUE!'"),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)  # fmt: skip
def test_ids_that_stand_for_several_or_for_none_are_refused(tmp_path, column, why):
    path = written(tmp_path, user_id=column)
    with pytest.raises(DataError, match=why):
        read_interactions(path)


def test_what_is_one_id_to_people_is_one(tmp_path):
    same = ["é1", "e\u03011", "\ufeffé1\u200b"]
    assert users_of(written(tmp_path, user_id=pa.array(same))) == ["é1"] * 3
    assert {one_id(text) for text in same} == {"é1"}
    ids = [uuid.UUID(int=number) for number in (1, 1, 2)]
    column = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([one.bytes for one in ids], pa.binary(16)))
    assert users_of(written(tmp_path, user_id=column)) == [str(one) for one in ids]


def test_a_truth_value_among_numbers_and_half_a_character_are_no_ids(tmp_path):
    path = tmp_path / "f.jsonl"
    rows = [{"user_id": user, "item_id": "x", "timestamp": 5} for user in (1, True, 7)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert "f.jsonl:2: user_id is true" in refusal(path)
    path.write_text('{"user_id": 1, "user_id": 2, "item_id": "x", "timestamp": 5}')
    assert "f.jsonl:1: not JSON (two values are named 'user_id'" in refusal(path)
    for value in ("\ud800", np.float32(2**24), Decimal("1.5"), pd.Series(["a"])):
        with pytest.raises(ValueError, match="id") as caught:
            one_id(value)
        assert "\n" not in str(caught.value)


def test_kinds_with_a_missing_one_are_what_they_were(tmp_path):
    """pandas writes the kinds 1 and 2 as 1.0 and 2.0 beside a blank one."""
    path = tmp_path / "f.csv"
    pd.DataFrame({"user_id": list("abc"), "item_id": list("xyz"), "timestamp": SECONDS, "event": [1, None, 2]}).to_csv(path, index=False)  # fmt: skip
    assert read_interactions(path).frame["event"].to_list() == ["1", "", "2"]


# -- times -------------------------------------------------------------------------------------------------------


def stamps(form: str) -> list[str]:
    return pd.to_datetime(pd.Series(SECONDS), unit="s").dt.strftime(form).to_list()


@pytest.mark.parametrize(
    ("form", "said", "cut"),
    [
        ("%Y%m%d%H%M%S", "YYYYMMDDHHMMSS", 1),  # as milliseconds this is the year 2610
        ("%Y%m%d%H%M", "YYYYMMDDHHMM", 60),  # and this 1976
        ("%Y%m%d", "YYYYMMDD", 86_400),
        ("%Y/%m/%d %H:%M:%S", "ISO", 1),
        ("%Y-%-m-%-d", "ISO", 86_400),
        ("%Y%m%dT%H%M%SZ", "ISO", 1),
    ],
)
def test_dates_that_could_pass_for_numbers(tmp_path, form, said, cut):
    notices = Notices()
    path = written(tmp_path, timestamp=stamps(form))
    assert read_interactions(path, notices=notices).frame["timestamp"].to_list() == [
        at // cut * cut for at in SECONDS
    ]
    assert any(said in line for line in notices.readings)


def test_what_is_no_moment_is_refused(tmp_path):
    assert "holds duration" in refusal(written(tmp_path, timestamp=pa.array(SECONDS, pa.duration("s"))))
    assert "holds time64" in refusal(written(tmp_path, timestamp=pa.array([1, 2, 3], pa.time64("us"))))
    typed = written(tmp_path, timestamp=pa.array(SECONDS, pa.timestamp("s", "Asia/Tokyo")))
    assert "time: ordinal is for places in an order" in refusal(typed, time="ordinal")
    text = written(tmp_path, timestamp=stamps("%Y-%m-%d"))
    assert "row 1: timestamp '2020-09-22' is a date" in refusal(text, time="ordinal")


@pytest.mark.parametrize("default", [0, 9_999_999_999])
def test_times_that_are_a_default_are_counted_by_place(tmp_path, default):
    notices = Notices()
    read_interactions(written(tmp_path, timestamp=[SECONDS[0], default, SECONDS[2]]), notices=notices)
    (notice,) = [one for one in notices.entries if one.reason == "times_far_from_others"]
    assert notice.count == 1
    assert "f.arrow row 2: 1 of 3 times lie more than ten years from most of the others" in notice.message


@pytest.mark.parametrize(
    "value",
    [20200922, "20200922", "2020-09-22", datetime.date(2020, 9, 22), np.datetime64("2020-09-22"), Decimal(20200922), "20200922T000000Z"],
    ids=repr,
)  # fmt: skip
def test_a_day_is_one_moment_to_every_caller(value):
    assert one_moment(value) == 1_600_732_800


def test_what_callers_give_instead_of_a_moment():
    assert one_moment(20200922, is_clock=False) == 20200922  # a place in an order
    for value in (pd.NaT, np.datetime64("NaT"), float("nan"), 1.5, "soon", 20201340, True, [5]):
        if value == 20201340:
            assert one_moment(value) == value  # no date: seconds
            continue
        with pytest.raises(ValueError, match="time is"):
            one_moment(value)


# -- vectors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["[0.5, 2.0]", "[0.5 2. ]", "0.5 2", "0.5|2", "(0.5,2)"])
def test_vectors_in_text(tmp_path, form):
    path = tmp_path / "v.csv"
    pd.DataFrame({"item_id": ["x", "y"], "vector": form}).to_csv(path, index=False)
    assert read_vectors(path, "item_id", {"x": 0, "y": 1}).vectors.tolist() == [[0.5, 2.0]] * 2


def test_vectors_of_recbole_and_names_that_no_setting_maps(tmp_path):
    path = tmp_path / "v.item"
    path.write_text("item_id:token\tvector:float_seq\nx\t0.5 2\ny\t1 3\n")
    assert read_vectors(path, "item_id", {"x": 0}).vectors.tolist() == [[0.5, 2.0]]
    path.write_text("item_id:token\tvector:float_seq\nx\t0.5 2\ny\t1 three\n")
    with pytest.raises(DataError, match=r"v\.item:3: vector '1 three' is not a row of numbers"):
        read_vectors(path, "item_id", {"x": 0})
    path = tmp_path / "v.jsonl"
    path.write_text('{"item_id": "x", "embedding": [1]}')
    with pytest.raises(DataError, match="rename the column"):
        read_vectors(path, "item_id", {"x": 0})
    for vector, why in (([1, "a"], "does not hold lists of numbers"), ([True, False], "holds list<item: bool>"), (None, "no column|no vector|expected lists")):  # fmt: skip
        path.write_text(json.dumps({"item_id": "x", "vector": vector}))
        with pytest.raises(DataError, match=why):
            read_vectors(path, "item_id", {"x": 0})

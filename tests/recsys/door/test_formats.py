"""Sources and types: what each format's rows become, and how each refusal names its place."""

from __future__ import annotations

import datetime
import gzip
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from recsys.data.interactions import read_interactions
from recsys.door.sources import read_table, source_hash
from recsys.door.tables import DataError
from recsys.door.times import one_moment, read_times
from recsys.door.values import id_array, natural_order, one_id

TEXT = "user_id,item_id,timestamp\n7,a,10\n8,b,20\n7,c,30\n"
ROWS = [("7", "a", 10), ("8", "b", 20), ("7", "c", 30)]


def rows_of(path: Path) -> list[tuple]:
    return list(read_interactions(path).frame.itertuples(index=False, name=None))


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_interactions(path)
    return str(caught.value)


@pytest.mark.parametrize("packing", ["gzip", "zstd", "bz2", "lz4"])
def test_packed_text(tmp_path, packing):
    suffix = {"gzip": ".gz", "zstd": ".zst"}.get(packing, f".{packing}")
    path = tmp_path / f"x.csv{suffix}"
    with pa.CompressedOutputStream(str(path), packing) as file:
        file.write(TEXT.encode())
    assert rows_of(path) == ROWS
    path.write_bytes(path.read_bytes()[:-9])
    assert path.name in refusal(path)


def test_two_gzip_members_are_one_file(tmp_path):
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(TEXT[:30].encode()) + gzip.compress(TEXT[30:].encode()))
    assert rows_of(path) == ROWS


def test_a_folder_of_parquet_parts_with_hive_partitions(tmp_path):
    for day, rows in (("2026-01-31", ROWS[:2]), ("2026-02-01", ROWS[2:])):
        folder = tmp_path / "x" / f"day={day}" / "shop=007"
        folder.mkdir(parents=True)
        frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
        frame.to_parquet(folder / "part.parquet")
    (tmp_path / "x" / "_SUCCESS").write_text("")
    assert rows_of(tmp_path / "x") == ROWS
    table = read_table(tmp_path / "x")
    assert table.raw("shop") == ["007"] * 3  # text, whatever it looks like
    assert table.place(2).endswith("part.parquet row 1")
    assert "day=2026-02-01" in table.place(2)
    before = source_hash(tmp_path / "x")
    (tmp_path / "x" / "_SUCCESS").write_text("again")
    assert source_hash(tmp_path / "x") == before  # no part
    (folder / "part.parquet").rename(folder / "other.parquet")
    assert source_hash(tmp_path / "x") != before


def test_a_folder_says_what_is_wrong_with_it(tmp_path):
    assert "is a directory without parts (found nothing)" in refusal(tmp_path)
    (tmp_path / "a.csv").write_text(TEXT)
    (tmp_path / "b.jsonl").write_text('{"user_id": 1, "item_id": 2, "timestamp": 3}')
    assert "parts of two kinds, .csv (a.csv) and .jsonl (b.jsonl)" in refusal(tmp_path)
    (tmp_path / "b.jsonl").unlink()
    (tmp_path / "b.csv").write_text("user_id,item_id\n1,2\n")
    assert f"{tmp_path / 'a.csv'} has a column 'timestamp' and {tmp_path / 'b.csv'} has not" in refusal(
        tmp_path
    )
    (tmp_path / "b.csv").write_text("user_id,item_id,timestamp\n9,d,40\n9,,50\n")
    assert f"{tmp_path / 'b.csv'}:3: item_id is blank" in refusal(tmp_path)


def test_a_data_set_that_datasets_saved(tmp_path):
    """The layout of `Dataset.save_to_disk`: Arrow streams beside dataset_info.json and state.json."""
    folder = tmp_path / "saved"
    folder.mkdir()
    table = pa.table(dict(zip(("user_id", "item_id", "timestamp"), zip(*ROWS, strict=True), strict=True)))
    for number, part in enumerate((table[:1], table[1:])):
        with pa.ipc.new_stream(str(folder / f"data-{number:05}-of-00002.arrow"), table.schema) as stream:
            stream.write_table(part)
    (folder / "state.json").write_text("{}")
    (folder / "dataset_info.json").write_text("{}")
    assert rows_of(folder) == ROWS
    (tmp_path / "dataset_dict.json").write_text("{}")
    assert f"several data sets (saved); give the path of one, such as {folder}" in refusal(tmp_path)


def test_one_row_a_user(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(
        '{"user_id": 7, "item_id": ["a", "c"], "timestamp": [10, 30]}\n{"user_id": 8, "item_id": ["b"], "timestamp": [20]}'
    )
    assert sorted(rows_of(path)) == sorted(ROWS)
    path.write_text('{"user_id": 7, "item_id": ["a", "c"]}\n{"user_id": 8, "item_id": ["b"]}')
    found = read_interactions(path)
    assert list(found.frame.itertuples(index=False, name=None)) == [
        ("7", "a", 0),
        ("7", "c", 1),
        ("8", "b", 0),
    ]
    assert not found.is_clock
    path.write_text('{"user_id": 7, "item_id": ["a", "c"], "timestamp": [10]}')
    assert "x.jsonl:1: timestamp has 1 value(s) and item_id 2" in refusal(path)


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["7", "8", "7"], pa.string_view()),
        pa.array(["7", "8", "7"]).dictionary_encode(),
        pa.array([7, 8, 7], pa.int8()),
        pa.array([7, 8, 7], pa.uint64()),
        pa.array([7.0, 8.0, 7.0], pa.float64()),
        pa.array(np.array([7, 8, 7], np.float16)),
        pa.array([Decimal("7.00"), Decimal("8.00"), Decimal("7.00")]),
        pa.array([b"7", b"8", b"7"]),
        pa.array([" 7", "8.0 ", "7"], pa.large_string()),
    ],
    ids=lambda column: str(column.type),
)
def test_seven_is_seven_in_every_type(tmp_path, column):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"user_id": column, "item_id": ["a", "b", "c"], "timestamp": [10, 20, 30]}), path)
    assert rows_of(path) == ROWS


@pytest.mark.parametrize(
    "value", [7, "7", " 7 ", 7.0, "7.0", "7.000", Decimal("7.0"), np.int8(7), np.float32(7), b"7"], ids=repr
)
def test_one_value_reads_as_a_column_does(value):
    assert one_id(value) == "7"


def test_what_is_no_id():
    assert [
        one_id(value) for value in (None, "", "NA", " n/a", "\\N", "#N/A", "nil", float("nan"), pd.NA, pd.NaT)
    ] == [None] * 10
    assert (one_id("007"), one_id("1e5"), one_id("7.5"), one_id("nano")) == ("007", "1e5", "7.5", "nano")
    for value in (True, [7], 7.5, 2.0**60, b"\xff", "a\x1bb"):
        with pytest.raises(ValueError, match=r"id|decode"):
            one_id(value)


def test_a_float_that_stands_for_several_ids_is_refused(tmp_path):
    path = tmp_path / "x.parquet"
    pd.DataFrame({"user_id": [1.0, 2.0**53], "item_id": ["a", "b"], "timestamp": [1, 2]}).to_parquet(path)
    assert "x.parquet row 2: user_id 9007199254740992.0 is a floating-point number" in refusal(path)


@pytest.mark.parametrize(
    ("column", "seconds"),
    [
        (pa.array([1_700_000_000_123], pa.timestamp("ms")), 1_700_000_000),
        (pa.array([1_700_000_000], pa.timestamp("s", "Europe/Berlin")), 1_700_000_000),
        (pa.array([datetime.date(2023, 11, 14)]), 1_699_920_000),
        (pa.array([1_700_000_000_123_456]), 1_700_000_000),
        (pa.array([Decimal("1700000000.5")]), 1_700_000_000),
        (pa.array([1.7e12]), 1_700_000_000),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_typed_moments(tmp_path, column, seconds):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"t": column}), path)
    assert read_times(read_table(path), "t").seconds.tolist() == [seconds]


def test_a_unit_can_be_named(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("t\n20200922\n20200923\n")
    table = read_table(path)
    assert read_times(table, "t").seconds.tolist() == [1_600_732_800, 1_600_819_200]
    assert read_times(table, "t", "seconds").seconds.tolist() == [20200922, 20200923]
    assert read_times(table, "t", "milliseconds").seconds.tolist() == [20200, 20200]
    ordinal = read_times(table, "t", "ordinal")
    assert (ordinal.is_clock, ordinal.looks_odd) == (False, None)


def test_what_is_cut_off_a_second_still_says_which_came_first(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("user_id,item_id,timestamp\nu,b,1700000000900\nu,a,1700000000100\n")
    frame = read_interactions(path).frame
    assert frame["timestamp"].to_list() == [1_700_000_000] * 2
    assert frame["rest"].to_list() == [900, 100]


@pytest.mark.parametrize(
    "value",
    [
        1_700_000_000,
        "1700000000",
        "2023-11-14T22:13:20Z",
        pd.Timestamp("2023-11-14T22:13:20"),
        np.int64(1_700_000_000),
    ],
)
def test_a_callers_moment(value):
    assert one_moment(value) == 1_700_000_000
    for bad in ("yesterday", None, True, -1, 1_700_000_000_000, float("nan"), 1.5):
        with pytest.raises(ValueError, match="time is"):
            one_moment(bad)


def test_a_column_of_a_value_per_row_is_what_one_value_is(tmp_path):
    """`id_array` against `one_id`, value by value."""
    values = ["7", "7.0", "007", "NA", "-3.00", "x.0", "1e5", " 8 ", "nil", "0.0"]
    path = tmp_path / "x.csv"
    path.write_text("id\n" + "\n".join(f'"{value}"' for value in values) + "\n")
    assert id_array(read_table(path), "id").to_pylist() == [one_id(value) for value in values]


def test_names_in_their_natural_order():
    names = ["i10", "i2", "b", "10", "9", "i02", "", "i2a"]
    assert [names[at] for at in natural_order(names)] == ["", "9", "10", "b", "i02", "i2", "i2a", "i10"]

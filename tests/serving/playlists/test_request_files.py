"""Requests in any format of the door, and of any of Arrow's types, are the same requests."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from recsys.door.tables import DataError
from serving.playlists.requests import Source

ROWS = [
    {"request_id": "a", "user_id": "7", "query": "quiet, please", "time": 1_700_000_000, "n": 5, "exclude": ["1", "2"], "allow": None},
    {"request_id": "b", "user_id": None, "query": None, "time": None, "n": None, "exclude": None, "allow": ["12"]},
    {"request_id": "c", "user_id": "8", "query": "NA", "time": 1_700_000_001, "n": 30, "exclude": None, "allow": ["3", "4", "5"]},
]  # fmt: skip
READ = [row | {"n": row["n"] or 10} for row in ROWS]


def rows_of(path) -> list[dict]:
    source = Source(path)
    tables = pa.concat_tables(list(source.tables(10)))
    assert source.rows == len(tables)
    assert tables["reason"].null_count == len(tables)
    return tables.drop_columns(["file", "row", "reason"]).to_pylist()


def csv_text(rows) -> str:
    frame = pd.DataFrame(rows).astype(object)
    for name in ("exclude", "allow"):
        frame[name] = [None if ids is None else "|".join(ids) for ids in frame[name]]
    times = [row["time"] for row in rows]
    frame["time"] = [None if at is None else f"{pd.Timestamp(at, unit='s').isoformat()}Z" for at in times]
    return frame.to_csv(index=False)


def test_every_format_gives_the_same_requests(tmp_path):
    (tmp_path / "r.csv").write_text(csv_text(ROWS))
    (tmp_path / "r.csv.gz").write_bytes(gzip.compress(csv_text(ROWS).encode()))
    loose = [row | {"user_id": float(row["user_id"]) if row["user_id"] else None} for row in ROWS]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in loose))
    pa.feather.write_feather(pa.Table.from_pylist(ROWS), tmp_path / "r.arrow")
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "r.parquet")
    folder = tmp_path / "parts"
    (folder / "b").mkdir(parents=True)
    (folder / "a.csv").write_text(csv_text(ROWS[:1]))
    (folder / "b" / "b.csv").write_text(csv_text(ROWS[1:]))
    for name in ("r.csv", "r.csv.gz", "r.jsonl", "r.arrow", "r.parquet", "parts"):
        assert rows_of(tmp_path / name) == READ, name


def test_typed_columns_of_parquet(tmp_path):
    seconds = [1_700_000_000, None, 1_700_000_001]
    for kind in (pa.timestamp("s"), pa.timestamp("ms", "UTC"), pa.timestamp("ns", "Europe/Paris")):
        moments = [None if at is None else pd.Timestamp(at, unit="s", tz="UTC") for at in seconds]
        times = pa.array(moments, pa.timestamp("ns", "UTC")).cast(pa.timestamp(kind.unit, "UTC")).cast(kind)
        table = pa.table(
            {
                "request_id": pa.array(["a", "b", "c"], pa.string_view()),
                "user_id": pa.array([Decimal("7.00"), None, Decimal("8.00")]),
                "query": pa.array([row["query"] for row in ROWS]).dictionary_encode(),
                "time": times,
                "n": pa.array([5, None, 30], pa.float32()),
                "exclude": pa.array([[1.0, 2.0], None, None], pa.list_(pa.float64())),
                "allow": pa.array([None, [12], [3, 4, 5]], pa.large_list(pa.int16())),
            }
        )
        pq.write_table(table, tmp_path / "r.parquet")
        assert rows_of(tmp_path / "r.parquet") == READ, kind


def test_a_date_is_midnight_and_a_time_that_is_none_is_the_rows_reason(tmp_path):
    (tmp_path / "r.csv").write_text(
        "request_id,user_id,query,time\na,1,,2026-01-31\nb,1,,soon\nc,1,,1700000000000\nd,1,,\n"
    )
    table = next(iter(Source(tmp_path / "r.csv").tables(10)))
    assert table["time"].to_pylist() == [1_769_817_600, None, None, None]
    reasons = table["reason"].to_pylist()
    assert reasons[0] is reasons[3] is None
    assert reasons[1] == "time is 'soon'; expected whole Unix seconds, or a date such as 2026-01-31T12:00:00Z"
    assert "not milliseconds" in reasons[2]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("r.csv", "request_id,user_id\na,1\n", r"r\.csv has no column 'query'"),
        ("r.csv", "request_id,user_id,query,n\na,1,,5\nb,1,,many\n", r"r\.csv:3: n 'many' is not a number"),
        ("r.jsonl", '{"request_id": "a", "user_id": "u", "query": 7}\n', "column 'query' holds int64; expected text"),
        ("r.csv", "request_id,user_id,query\na,1\n", r"r\.csv:2: 2 field"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        Source(tmp_path / name)

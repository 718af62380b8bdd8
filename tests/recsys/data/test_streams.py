"""Interactions read a piece at a time: the same artifacts, to the byte, however they lie in files; and the same refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.artifacts.manifest import sha256_of
from recsys.data import interactions
from recsys.data.config import PrepareConfig
from recsys.data.interactions import duplicated, read_interactions
from recsys.data.prepare import prepare
from recsys.data.splits import SplitConfig, begins_moment, blocks_of, had_before, is_sorted
from recsys.door import stored
from recsys.door.sources import read_table
from recsys.door.tables import DataError, Stored
from recsys.run import Run

ARTIFACTS = ("events.parquet", "users.parquet", "items.parquet", "queries.parquet")


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces and blocks of a few rows, so that a small file has many."""
    monkeypatch.setattr(stored, "PIECE", 7)


def events(seed: int = 0, n: int = 400) -> pd.DataFrame:
    """Events with copies, corrections, ties and a kind; ids as text, some as Excel writes them."""
    draw = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "user_id": [f" u{user}" for user in draw.integers(0, 20, n)],
            "item_id": [f"{item}.0" if item % 3 else f"{item}" for item in draw.integers(0, 30, n)],
            "timestamp": draw.integers(1_700_000_000, 1_700_000_060, n),
            "rating": draw.integers(1, 6, n).astype(float),
            "event": draw.choice(["play", "skip"], n),
        }
    )
    return pd.concat([frame, frame.iloc[::9]], ignore_index=True)


def prepared(folder: Path, source: Path) -> tuple[list[str], dict]:
    """Hashes of what prepare makes of a file or folder, and what it counted."""
    run = Run.create(folder)
    config = PrepareConfig(
        source="files", interactions=source, events={"play": 1.0, "skip": "against"}, split=SplitConfig(kind="leave_last_out")
    )  # fmt: skip
    prepare(config, run)
    report = run.read_json("prepare", "prepare.json")
    counted = {name: report[name] for name in ("counts", "dropped_rows", "rows_read", "rows_kept", "roles")}
    return [sha256_of(run.artifact("prepare", name)) for name in ARTIFACTS], counted


def write_parts(folder: Path, table: pa.Table, parts: int, group: int) -> Path:
    folder.mkdir()
    rows = -(-table.num_rows // parts)
    for number in range(parts):
        pq.write_table(
            table.slice(number * rows, rows), folder / f"part-{number:03}.parquet", row_group_size=group
        )
    return folder


@pytest.mark.parametrize(("parts", "group"), [(1, 1000), (1, 3), (5, 40), (40, 5)])
def test_the_same_bytes_however_the_rows_are_split(tmp_path, small_pieces, parts, group):
    table = pa.Table.from_pandas(events(), preserve_index=False)
    table.to_pandas().to_csv(tmp_path / "whole.csv", index=False)
    expected = prepared(tmp_path / "csv", tmp_path / "whole.csv")
    assert prepared(tmp_path / "run", write_parts(tmp_path / "folder", table, parts, group)) == expected


def test_dictionaries_and_hive_partitions_are_read_the_same(tmp_path, small_pieces):
    frame = events()
    frame.to_csv(tmp_path / "whole.csv", index=False)
    for kind, some in frame.groupby("event", sort=True):
        folder = tmp_path / "folder" / f"event={kind}"
        folder.mkdir(parents=True)
        some = some.drop(columns="event").astype({"user_id": "category"})
        pq.write_table(pa.Table.from_pandas(some, preserve_index=False), folder / "a.parquet")
    table = read_table(tmp_path / "folder", stored=True)
    assert all(isinstance(column, Stored) for column in table.columns.values())
    found = read_interactions(tmp_path / "folder").frame
    assert found["event"].value_counts().to_dict() == read_interactions(tmp_path / "whole.csv").frame["event"].value_counts().to_dict()  # fmt: skip
    assert (
        prepared(tmp_path / "a", tmp_path / "folder")[1]["counts"]
        == prepared(tmp_path / "b", tmp_path / "whole.csv")[1]["counts"]
    )


@pytest.mark.parametrize(
    ("column", "row", "value"),
    [
        ("user_id", 33, None),
        ("item_id", 21, "nan"),
        ("item_id", 30, "a\nb"),
        ("timestamp", 25, -5),
        ("timestamp", 25, 1_700_000_000_000),
        ("rating", 31, 1e31),
    ],
)
def test_what_is_refused_is_refused_in_the_same_words(tmp_path, small_pieces, column, row, value):
    """In one file in memory, and over parts in pieces: but for the place, which names the part and its row."""
    frame = events(n=60).astype({column: object})
    frame.loc[row, column] = value
    table = pa.Table.from_pandas(frame.infer_objects(), preserve_index=False)
    pq.write_table(table, tmp_path / "one.parquet")
    folder = write_parts(tmp_path / "folder", table, 4, 5)
    whole = read_table(tmp_path / "one.parquet")
    with pytest.raises(DataError) as expected:
        read_interactions(tmp_path / "one.parquet", table=whole)
    with pytest.raises(DataError) as found:
        read_interactions(folder)
    rows = -(-len(frame) // 4)
    place = f"{folder}/part-{row // rows:03}.parquet row {row % rows + 1}"
    assert str(found.value) == str(expected.value).replace(f"{tmp_path}/one.parquet row {row + 1}", place)


def test_a_damaged_part_is_named(tmp_path, small_pieces):
    folder = write_parts(tmp_path / "folder", pa.Table.from_pandas(events(), preserve_index=False), 3, 1000)
    damaged = folder / "part-001.parquet"
    content = bytearray(damaged.read_bytes())
    content[4:400] = bytes(396)
    damaged.write_bytes(content)
    with pytest.raises(DataError, match=r"part-001\.parquet cannot be read as Parquet"):
        read_interactions(folder)


def test_duplicates_some_users_at_a_time_are_pandas_duplicates(monkeypatch):
    frame = events(3).drop(columns="rating").astype({"user_id": "category"})
    monkeypatch.setattr(interactions, "AT_ONCE", 50)
    for keep in ("first", "last"):
        expected = frame.duplicated(keep=keep).to_numpy()
        assert expected.any()
        assert np.array_equal(duplicated(frame, list(frame), keep), expected)


def test_blocks_are_of_whole_users():
    draw = np.random.default_rng(0)
    for counts in (draw.integers(0, 9, 30), np.array([100, 0, 1]), np.array([], int)):
        ends = np.cumsum(counts)
        blocks = list(blocks_of(ends, least=10))
        assert [stop for _, stop in blocks[:-1]] == [start for start, _ in blocks[1:]]
        assert sum(stop - start for start, stop in blocks) == counts.sum()
        assert all(stop - start >= 10 for start, stop in blocks[:-1])
        assert {stop for _, stop in blocks} <= set(ends.tolist())


def test_what_was_had_before_and_where_moments_begin():
    draw = np.random.default_rng(0)
    counts = draw.integers(0, 12, 25)
    users = np.repeat(np.arange(25), counts)
    items, times = draw.integers(0, 5, len(users)), draw.integers(0, 6, len(users))
    assert not is_sorted(users, times)
    times = times[np.lexsort((times, users))]
    assert is_sorted(users, times)
    rows = list(zip(users.tolist(), items.tolist(), times.tolist(), strict=True))
    slow = [any((u, i) == (v, j) and s < t for v, j, s in rows) for u, i, t in rows]
    assert np.array_equal(had_before(items, times, users, np.cumsum(counts)), slow)
    first = [all((v, s) != (u, t) for v, _, s in rows[:at]) for at, (u, _, t) in enumerate(rows)]
    assert np.array_equal(begins_moment(users, times), first)

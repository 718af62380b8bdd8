"""Any table that the door accepts gives counts that add up, whatever its format, its rows' order, and the files it is split into."""

from __future__ import annotations

import json
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.data.build import build
from recsys.data.config import PrepareConfig
from recsys.data.filters import give_meaning, keep_rated, last_of_ties
from recsys.data.interactions import read_interactions
from recsys.data.loaders import Source
from recsys.door.notices import Notices
from recsys.door.tables import DataError

IDS = st.sampled_from(
    ["7", "07", "a b", "ü", "i-1", "1e5", "0", "x,y", 'q"q', "-3", "nano", "12345678901234567890"]
)
MOMENTS = st.one_of(st.integers(0, 5), st.integers(1_600_000_000, 1_600_000_005))
ROWS = st.lists(
    st.tuples(
        IDS, IDS, MOMENTS, st.sampled_from([None, 1.0, 2.5, 5.0]), st.sampled_from(["view", "buy", "no"])
    ),
    min_size=1,
    max_size=25,
)
COLUMNS = ("user_id", "item_id", "timestamp", "rating", "event")
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
MEANINGS = {"view": 0.5, "buy": 1.0, "no": "against"}


def write(path: Path, rows: list[tuple], kind: str) -> Path:
    frame = pd.DataFrame(rows, columns=COLUMNS)
    if kind == "csv":
        frame.to_csv(path.with_suffix(".csv"), index=False)
    elif kind == "jsonl":
        lines = [json.dumps(dict(zip(COLUMNS, row, strict=True))) for row in rows]
        path.with_suffix(".jsonl").write_text("\n".join(lines))
    else:
        table = pa.table({name: pa.array([row[at] for row in rows]) for at, name in enumerate(COLUMNS)})
        pq.write_table(table, path.with_suffix(".parquet"))
    return path.with_suffix(f".{kind}")


def read(path: Path):
    notices = Notices()
    return read_interactions(path, notices=notices), notices


def rows_of(interactions) -> list[tuple]:
    frame = interactions.frame.astype({"rating": object}).where(interactions.frame.notna(), None)
    return list(frame[list(COLUMNS)].itertuples(index=False, name=None))


def counted(interactions, rows: int) -> None:
    assert interactions.rows_read == rows
    assert len(interactions.frame) + sum(interactions.dropped.values()) == rows
    assert all(count > 0 for count in interactions.dropped.values())


@SETTINGS
@given(ROWS)
def test_counts_add_up_through_every_filter(rows):
    with tempfile.TemporaryDirectory() as folder:
        interactions, notices = read(write(Path(folder) / "x", rows, "csv"))
    counted(interactions, len(rows))
    assert set(rows_of(interactions)) == {
        (u, i, t, r, e) for u, i, t, r, e in rows
    }  # nothing but copies went
    for step in (
        lambda some: last_of_ties(some, notices),
        lambda some: keep_rated(some, 2.0),
    ):
        interactions = step(interactions)
        counted(interactions, len(rows))
    kinds = set(interactions.frame["event"])
    meant = give_meaning(interactions, {kind: MEANINGS[kind] for kind in kinds} if kinds else None, notices)
    counted(meant, len(rows))


@SETTINGS
@given(ROWS)
def test_every_format_says_the_same(rows):
    with tempfile.TemporaryDirectory() as folder:
        found = [
            rows_of(read(write(Path(folder) / "x", rows, kind))[0]) for kind in ("csv", "jsonl", "parquet")
        ]
    assert found[0] == found[1] == found[2]


@SETTINGS
@given(ROWS, st.lists(st.integers(0, 25), max_size=3))
def test_a_folder_of_parts_is_the_file(rows, cuts):
    with tempfile.TemporaryDirectory() as folder:
        whole, _ = read(write(Path(folder) / "whole", rows, "parquet"))
        parts = Path(folder) / "parts"
        parts.mkdir()
        edges = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
        for number, (start, end) in enumerate(pairwise(edges)):
            write(parts / f"part-{number:05}", rows[start:end], "csv")
        (parts / "_SUCCESS").write_text("")
        split, _ = read(parts)
    assert rows_of(split) == rows_of(whole)
    assert split.rows_read == whole.rows_read
    assert split.dropped == whole.dropped


@SETTINGS
@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_rows_says_nothing(rows, random):
    """But which of two rows of one moment and kind is the later, so one of each is kept here."""
    rows = list({(u, i, t, e): (u, i, t, r, e) for u, i, t, r, e in rows}.values())
    shuffled = random.sample(rows, len(rows))
    config = PrepareConfig(
        source="files", interactions="x.csv", user_cap=0.3, split={"kind": "leave_last_out"}
    )
    built = []
    for some in (rows, shuffled):
        with tempfile.TemporaryDirectory() as folder:
            interactions, notices = read(write(Path(folder) / "x", some, "parquet"))
        try:
            built.append(build(interactions, Source(interactions, None, None), config, notices))
        except DataError as error:
            built.append(str(error))
    one, two = built
    assert one.user_ids.tolist() == two.user_ids.tolist()
    assert one.catalogue.item_ids.tolist() == two.catalogue.item_ids.tolist()
    for name in ("users", "items", "times", "roles", "weights", "ratings", "kinds"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))

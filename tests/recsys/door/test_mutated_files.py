"""Damaged and altered files through the door: one clear message or a data set, no traceback, and the run before stays as it was.

Each mutant is a small file of one kind (interactions, items, queries, user or item vectors) in one format, altered by one seeded
mutation; `prepare` or the reader of vectors takes it. What is raised must be a `ValueError` that names the file in one line.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.data.config import PrepareConfig
from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.door.vectors import read_vectors
from recsys.run import Run
from recsys.seeds import rng

MUTANTS = 1700  # of files; with those of tests/serving/playlists/test_mutated_requests.py 2,000
FORMATS = ("csv", "tsv", "jsonl", "parquet", "csv.gz", "arrow")
KINDS = ("interactions", "items", "queries", "user vectors", "item vectors")


def frames() -> dict[str, pd.DataFrame]:
    draw = rng(0, "small world")
    users, items = [f"u{n}" for n in range(6)], [f"i{n}" for n in range(8)]
    rows = [
        (user, items[at], 1_600_000_000 + 100 * step)
        for user in users
        for step, at in enumerate(draw.permutation(8)[:7])
    ]
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    events["rating"] = draw.integers(1, 6, len(events)).astype(float)
    events["event"] = draw.choice(["view", "buy"], len(events))
    queries = events[::3][["user_id", "item_id", "timestamp"]].assign(query="something light")
    return {
        "interactions": events,
        "items": pd.DataFrame({"item_id": items, "title": [f"Title {n}" for n in range(8)], "genre": "a|b"}),
        "queries": queries,
        "user vectors": pd.DataFrame(
            {"user_id": users, "timestamp": 1_600_000_000, "vector": [[1.0, float(n)] for n in range(6)]}
        ),
        "item vectors": pd.DataFrame({"item_id": items, "vector": [[1.0, float(n)] for n in range(8)]}),
    }


def save(frame: pd.DataFrame, path: Path) -> None:
    kind = path.name.split(".", 1)[1]
    if kind == "parquet":
        frame.to_parquet(path)
    elif kind == "arrow":
        frame.to_feather(path, compression="uncompressed")
    elif kind == "jsonl":
        rows = [
            dict(zip(frame.columns, row, strict=True))
            for row in frame.astype(object).itertuples(index=False, name=None)
        ]
        path.write_text("\n".join(json.dumps(row, default=str) for row in rows))
    else:
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")


# -- mutations: of the table, then of the bytes ------------------------------------------------------------------


def reordered(frame, draw):
    return frame.iloc[draw.permutation(len(frame))].reset_index(drop=True)


def dropped(frame, draw):
    return frame.drop(columns=draw.choice(frame.columns))


def renamed(frame, draw):
    column = draw.choice(frame.columns)
    return frame.rename(
        columns={column: str(draw.choice([column.upper(), f" {column} ", "x", "", f"{column}:token"]))}
    )


def doubled(frame, draw):
    extra = frame[[draw.choice(frame.columns)]]
    return pd.concat([frame, extra if draw.random() < 0.5 else extra.add_suffix("_2")], axis=1)


def retyped(frame, draw):
    column = draw.choice(frame.columns)
    how = draw.integers(6)
    values = frame[column]
    made = {
        0: lambda: values.astype(str),
        1: lambda: pd.Series([None if draw.random() < 0.3 else value for value in values], dtype=object),
        2: lambda: pd.Series(draw.choice([-1.0, 0.5, 7.0, np.nan, 1e300, np.inf], len(values))),
        3: lambda: pd.Series(draw.choice(["NA", "7.0", "x", "", "\\N", "1e5", "2020-01-01"], len(values))),
        4: lambda: pd.Series([[value] for value in values], dtype=object),
        5: lambda: pd.Series(draw.random(len(values)) < 0.5),
    }[int(how)]()
    return frame.assign(**{column: made})


def repeated(frame, draw):
    return pd.concat([frame, frame.iloc[draw.integers(0, len(frame), 3)]], ignore_index=True)


def emptied(frame, draw):
    return frame[: int(draw.integers(0, 3))]


def truncated(data, draw):
    return data[: int(draw.integers(0, len(data)))]


def spoiled(data, draw):
    found = bytearray(data)
    for place in draw.integers(0, max(len(found), 1), 4):
        if found:
            found[place] = int(draw.choice([0, 34, 44, 10, 92, 255, 123]))
    return bytes(found)


def reencoded(data, draw):
    try:
        return data.decode().encode(str(draw.choice(["utf-16", "utf-8-sig", "utf-32"])))
    except UnicodeDecodeError:
        return data[::-1]


def joined(data, draw):
    return data + data[int(draw.integers(0, max(len(data), 1))) :]


OF_TABLES = (reordered, dropped, renamed, doubled, retyped, repeated, emptied)
OF_BYTES = (truncated, spoiled, reencoded, joined)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Path, Run]:
    folder = tmp_path_factory.mktemp("mutants")
    for kind, frame in frames().items():
        frame.to_parquet(folder / f"{kind}.parquet")
    run = Run.create(folder / "run")
    prepare(config_of(folder, "interactions", folder / "interactions.parquet"), run)
    return folder, run


def config_of(folder: Path, kind: str, path: Path) -> PrepareConfig:
    files = {name: folder / f"{name}.parquet" for name in ("interactions", "items", "queries")} | {kind: path}
    return PrepareConfig(source="files", **files, split={"kind": "leave_last_out"})


@pytest.mark.parametrize("part", range(10))
def test_mutants_are_read_or_refused_in_one_line(world, tmp_path, part):
    folder, run = world
    whole = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    tables, outcomes = frames(), Counter[str]()
    index = {
        name: number
        for number, name in enumerate([*(f"u{n}" for n in range(6)), *(f"i{n}" for n in range(8))])
    }
    for number in range(part, MUTANTS, 10):
        draw = rng(number, "mutant")
        kind, form = KINDS[number // 10 % len(KINDS)], str(draw.choice(FORMATS))
        path = tmp_path / f"mutant{number}.{form}"
        mutate = (*OF_TABLES, *OF_BYTES)[int(draw.integers(len(OF_TABLES) + len(OF_BYTES)))]
        try:
            save(mutate(tables[kind], draw) if mutate in OF_TABLES else tables[kind], path)
        except Exception:  # a table that this format cannot hold is no file
            outcomes["no file"] += 1
            continue
        if mutate in OF_BYTES:
            path.write_bytes(mutate(path.read_bytes(), draw))
        try:
            if "vectors" in kind:
                read_vectors(path, "user_id" if kind == "user vectors" else "item_id", index)
            else:
                other = Run.create(tmp_path / "other")
                prepare(config_of(folder, kind, path), other)
                assert len(Dataset.load(other).users)
            outcomes["read"] += 1
        except ValueError as error:
            message = str(error)
            assert "\n" not in message, (number, message)
            assert (
                path.name in message
                or "split" in message
                or "queries" in message
                or "items of the" in message
            ), (number, message)
            if (tmp_path / "other").exists():
                assert not list((tmp_path / "other").glob("prepare*"))
                assert not list((tmp_path / "other").glob(".partial*"))
            outcomes["refused"] += 1
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == whole
    assert len(Dataset.load(run).users) == 42
    assert min(outcomes["read"], outcomes["refused"]) > 20
    assert outcomes["no file"] < 12

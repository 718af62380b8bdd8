"""Small tables of every kind that comes from outside, as files of every format, and seeded mutations of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from recsys.seeds import rng

FORMATS = ("csv", "tsv", "jsonl", "parquet", "csv.gz", "arrow")
# How many mutated files go through which door; a test holds their sum
MUTANTS = {
    "prepare and brought vectors": 1700,
    "requests of playlists": 90,
    "feedback": 90,
    "labelled lists": 60,
    "files of a finished run": 30,
    "configurations": 60,
    "exported runs": 40,
}


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


def mutated(frame: pd.DataFrame, path: Path, draw: np.random.Generator) -> bool:
    """Write the table to `path`, altered by one mutation; False where this format cannot hold such a table."""
    mutate = (*OF_TABLES, *OF_BYTES)[int(draw.integers(len(OF_TABLES) + len(OF_BYTES)))]
    try:
        save(mutate(frame, draw) if mutate in OF_TABLES else frame, path)
    except Exception:  # a table that this format cannot hold is no file
        return False
    if mutate in OF_BYTES:
        path.write_bytes(mutate(path.read_bytes(), draw))
    return True


def told(error: ValueError, *names: str, lines: bool = False) -> None:
    """The message is one line (or `lines`) that names what it is about."""
    message = str(error)
    assert message
    assert lines or "\n" not in message, message
    assert "Traceback" not in message
    assert any(name in message for name in names), message

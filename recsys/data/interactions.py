"""The door: interactions and queries come in here, strictly, and everything behind it is relaxed.

Raw ids are strings, always, without the spaces around them. A time is a whole number of Unix seconds (or an
ordinal, where the data has only order). Their column names are spelled once, in a mapping from ours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.tables import DataError, Table, finite_or_none, read_table, require

log = logging.getLogger("prelude.prepare")

MILLISECONDS = 100_000_000_000  # as seconds this is the year 5138; as milliseconds, 1973
SHARED = ("user_id", "item_id", "timestamp")  # columns that more than one file has


@dataclass(frozen=True)
class Notice:
    """Something that was let through or dropped, and how often."""

    reason: str
    count: int
    message: str


@dataclass
class Notices:
    """The counted warnings of one preparation; each is logged as it is added."""

    entries: list[Notice] = field(default_factory=list)

    def add(self, reason: str, count: int, message: str) -> None:
        if count:
            self.entries.append(Notice(reason, int(count), message))
            log.warning("warning: %s", message)


@dataclass(frozen=True)
class Interactions:
    """A validated frame: user_id, item_id (str), timestamp (int64); rating, weight (float64), event (str).

    The last three are there if the file has them; a rating may be NaN. The frame's index is the row in its
    file, and `place(row)` names it for messages.
    """

    frame: pd.DataFrame
    place: Callable[[int], str]

    def keep(self, mask: np.ndarray | pd.Series) -> Interactions:
        return Interactions(self.frame[np.asarray(mask)], self.place)


def read_interactions(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    notices: Notices | None = None,
    table: Table | None = None,
) -> Interactions:
    """Read and check a file of interactions.

    Args:
        path: CSV, TSV, JSON lines (each also .gz) or Parquet.
        columns: our column name → theirs; `interactions.user_id` speaks of this file alone.
        notices: where counted warnings go.
        table: the file, if it has been read already.

    Raises:
        DataError: naming file, line, problem and remedy.
    """
    notices = Notices() if notices is None else notices
    table = read_table(path) if table is None else table
    names = find_columns(table, "interactions", SHARED, ("rating", "weight", "event"), columns or {})
    frame = pd.DataFrame(
        {
            "user_id": ids(table, names["user_id"], "user_id"),
            "item_id": ids(table, names["item_id"], "item_id"),
            "timestamp": whole_seconds(table, names["timestamp"]),
        }
    )
    if "rating" in names:
        frame["rating"] = numbers(table, names["rating"], "rating", missing_allowed=True)
    if "weight" in names:
        frame["weight"] = _weights(table, names["weight"])
    if "event" in names:
        frame["event"] = table.text(names["event"]).fill_null("").to_pandas()
    return drop_duplicates(Interactions(frame, table.place), notices)


def read_queries(
    path: str | Path, columns: Mapping[str, str] | None = None, table: Table | None = None
) -> pd.DataFrame:
    """Read queries: user_id (null: nobody), item_id (what was found), timestamp, query (str)."""
    table = read_table(path) if table is None else table
    names = find_columns(table, "queries", (*SHARED, "query"), (), columns or {})
    query = table.text(names["query"], blank=("",))  # "nan" is also a bread
    if query.null_count:
        raise table.error(first(pc.is_null(query)), "query is blank; delete the row or write the words")
    return pd.DataFrame(
        {
            "user_id": table.text(names["user_id"]).to_pandas(),
            "item_id": ids(table, names["item_id"], "item_id"),
            "timestamp": whole_seconds(table, names["timestamp"]),
            "query": query.to_pandas(),
        }
    )


def drop_duplicates(interactions: Interactions, notices: Notices) -> Interactions:
    """Drop every row that repeats an earlier row's user, item and timestamp."""
    frame = interactions.frame
    repeated = frame.duplicated(["user_id", "item_id", "timestamp"]).to_numpy()
    if repeated.any():
        where = interactions.place(int(frame.index[int(repeated.argmax())]))
        count = int(repeated.sum())
        notices.add(
            "duplicate_rows",
            count,
            f"{where}: {count} row(s) repeat the user, item and timestamp of an earlier row (the first is "
            f"here); dropped. Delete the copies to be rid of this warning",
        )
    return interactions.keep(~repeated)


# -- columns -------------------------------------------------------------------------------------------------


def find_columns(
    table: Table, kind: str, required: tuple[str, ...], optional: tuple[str, ...], mapping: Mapping[str, str]
) -> dict[str, str]:
    """Our column name → theirs, for one file of `kind` (interactions, items, queries).

    A mapping is held to: where the mapped column is not there, the file is refused. Except that items and
    queries may use our own name for a column that was mapped for the interactions.
    """
    names = {}
    for ours in (*required, *optional):
        theirs = mapping.get(f"{kind}.{ours}", mapping.get(ours, ours))
        borrowed = kind != "interactions" and ours in SHARED and f"{kind}.{ours}" not in mapping
        if theirs not in table.columns and borrowed and ours in table.columns:
            theirs = ours
        asked_for = ours in required or ours in mapping or f"{kind}.{ours}" in mapping
        if asked_for or theirs in table.columns:
            names[ours] = require(table, theirs, ours)
    twice = [ours for ours in names if list(names.values()).count(names[ours]) > 1]
    if twice:
        raise DataError(
            f"{table.path}: {' and '.join(twice)} are mapped to one column, '{names[twice[0]]}'; map it once"
        )
    return names


def ids(table: Table, column: str, ours: str) -> pd.Series:
    """A column of ids as strings; blank ids and ids with control characters are refused."""
    values = table.text(column)
    if values.null_count:
        row = first(pc.is_null(values))
        raise table.error(row, f"{ours} is blank (or NaN); every row needs one: fill it in or delete the row")
    odd = pc.match_substring_regex(values, r"[\x00-\x1f\x7f]")
    if pc.any(odd).as_py():
        row = first(odd)
        raise table.error(
            row, f"{ours} {values[row].as_py()[:40]!r} holds a control character; is a quote left open?"
        )
    return values.to_pandas()


def whole_seconds(table: Table, column: str) -> np.ndarray:
    """A column of times as int64 [n]: whole Unix seconds, from 0 up to `MILLISECONDS`."""
    values = table.text(column)
    if pc.all(pc.match_substring_regex(values, r"^\d{1,18}$"), skip_nulls=False).as_py():
        seconds = values.cast(pa.int64()).to_numpy(zero_copy_only=False)
        whole = np.ones(len(seconds), dtype=bool)
    else:
        floats = _floats(values)
        whole = np.isfinite(floats) & (floats == np.floor(floats))
        seconds = np.where(whole & (np.abs(floats) < 2**62), floats, MILLISECONDS).astype(np.int64)
    bad = ~whole | (seconds < 0) | (seconds >= MILLISECONDS)
    if bad.any():
        row = int(bad.argmax())
        raise table.error(row, _why_not_a_time(values[row].as_py()))
    return seconds


def _why_not_a_time(text: str | None) -> str:
    if text is None:
        return "timestamp is blank; every row needs one, in whole seconds since 1970"
    value = finite_or_none(text)
    if value is None:
        return f"timestamp '{text[:60]}' is not a Unix time; expected whole seconds"
    if value >= MILLISECONDS:
        return f"timestamp '{text}' is too large; expected whole seconds: divide milliseconds by 1000"
    if value == int(value) and value >= 0:
        return f"timestamp '{text}' is not a Unix time as digits; expected whole seconds, such as 1700000000"
    if value < 0:
        return f"timestamp '{text}' is negative; expected whole seconds since 1970"
    return f"timestamp '{text}' has a fraction; expected whole seconds: round it"


def numbers(table: Table, column: str, ours: str, missing_allowed: bool) -> np.ndarray:
    """A column of finite numbers as float64 [n]; NaN where there is none, if that is allowed."""
    values = table.text(column)
    floats = _floats(values)
    bad = ~(np.abs(floats) < 1e30)  # also NaN; they are kept in 32 bits
    if missing_allowed:
        bad &= ~pc.is_null(values).to_numpy(zero_copy_only=False)
    if bad.any():
        row = int(bad.argmax())
        text = values[row].as_py()
        what = "is blank" if text is None else f"'{text[:60]}' is not a number (below 1e30)"
        raise table.error(
            row, f"{ours} {what}; expected a number such as 3.5, with a point and no thousands mark"
        )
    return floats


def _weights(table: Table, column: str) -> np.ndarray:
    weights = numbers(table, column, "weight", missing_allowed=False)
    if (weights <= 0).any():
        row = int((weights <= 0).argmax())
        raise table.error(row, f"weight {weights[row]:g} is not above 0; delete rows that should not count")
    return weights


def _floats(values: pa.Array) -> np.ndarray:
    """Strings as float64, NaN where one is not a finite number."""
    numeric = pc.match_substring_regex(values, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$")
    text = pc.if_else(pc.fill_null(numeric, False), values, pa.scalar(None, pa.string()))
    text = pc.replace_substring_regex(text, r"^\+", "")
    floats = np.array(text.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    return np.where(np.isfinite(floats), floats, np.nan)


def first(mask: pa.Array) -> int:
    """Index of the first true value."""
    return int(np.asarray(mask.to_numpy(zero_copy_only=False)).argmax())

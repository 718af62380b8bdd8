"""Interactions and queries as checked tables: who had what, when, how; strict here, so that everything behind is relaxed.

Ids are strings, times whole Unix seconds (or an ordinal, where the data has only order); `recsys.door` reads both, by one rule for
every file. Their column names are spelled once, in a mapping from ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from recsys.door.coded import coded_ids
from recsys.door.notices import Notices
from recsys.door.sources import read_table
from recsys.door.tables import SHARED, DataError, Table, find_columns
from recsys.door.times import Reading, Times, read_times
from recsys.door.values import (
    NO_WORDS,
    WHOLE_AS_FLOAT,
    checked_ids,
    first,
    id_array,
    ids,
    missing,
    numbers,
    text_array,
)
from recsys.elsewhere import Elsewhere

AT_ONCE = 1 << 20  # rows among which copies are looked for at once, about; no result depends on it
OPTIONAL = ("rating", "weight", "event")
COPY_OF = ("user_id", "item_id", "timestamp", "rest", *OPTIONAL)  # rows alike in all of these are copies


@dataclass(frozen=True)
class Interactions:
    """A validated frame: user_id, item_id (str, or categories of str), timestamp (int64); rest (int64: the part of the second), rating,
    weight (float64), event (str).

    The last four are there if the file has them; a rating may be NaN. The frame's index is the row in its
    file, and `place(row)` names it for messages. `rows_read` is how many rows the file had, `dropped` why some are gone by now.
    """

    frame: pd.DataFrame
    place: Callable[[int], str]
    rows_read: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    is_clock: bool = True  # False: timestamps are places in an order
    let_go: int | None = None  # how many rows there were, where `without_rows` has let go of them

    @property
    def rows_kept(self) -> int:
        return len(self.frame) if self.let_go is None else self.let_go

    def without_rows(self) -> Interactions:
        """What is known of the rows, without them."""
        return replace(self, frame=self.frame[:0].copy(), let_go=self.rows_kept)

    def keep(self, mask: np.ndarray | pd.Series, reason: str | None = None) -> Interactions:
        """The rows of `mask`; with a `reason` the others are counted under it."""
        chosen = np.asarray(mask, dtype=bool)
        dropped, gone = dict(self.dropped), int((~chosen).sum())
        if reason is not None and gone:
            dropped[reason] = dropped.get(reason, 0) + gone
        frame = self.frame[chosen] if gone else self.frame  # no copy of what is all kept
        return Interactions(frame, self.place, self.rows_read, dropped, self.is_clock)


def read_interactions(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    notices: Notices | None = None,
    table: Table | None = None,
    time: Reading = "auto",
    drop_missing_ids: bool = False,
    elsewhere: Elsewhere | None = None,
) -> Interactions:
    """Read and check interactions.

    Args:
        path: whatever `recsys.door.sources` reads: a file, packed or not, or a folder of parts. A row whose item_id is a list is as
            many rows; without a timestamp the places in the list are their order.
        columns: our column name → theirs; `interactions.user_id` speaks of this file alone.
        notices: where counted warnings, and what was understood of the file, go.
        table: the file, if it has been read already.
        time: how timestamps are read; `auto` understands what can be only one thing.
        drop_missing_ids: leave rows without a user or an item out, counted, instead of refusing them.
        elsewhere: who makes integers of the ids of Parquet files; the same are made here without.

    Raises:
        DataError: naming file, line, problem and remedy.
    """
    notices = Notices() if notices is None else notices
    table = read_table(path, stored=True) if table is None else table
    given = columns or {}
    of = {ours: given.get(f"interactions.{ours}", given.get(ours, ours)) for ours in (*SHARED, *OPTIONAL)}
    items = of["item_id"]
    if items in table.columns:
        table.unpack_lists(items, of["timestamp"])
        if table.is_list(items):
            table = table.in_memory().one_row_each(items, [of[name] for name in ("timestamp", *OPTIONAL)])
    notices.read(*table.reading)
    listed = table.positions is not None and of["timestamp"] not in table.columns
    required = ("user_id", "item_id") if listed else SHARED
    names = find_columns(table, "interactions", required, OPTIONAL, given)
    frame, kept, dropped = _ids(table, names, notices, drop_missing_ids, elsewhere)
    if listed:
        _one_list_each(table, frame["user_id"])
    times = _in_lists(table, notices) if listed else read_times(table, names["timestamp"], time)
    if not listed:
        say_times(table, times, notices, time)
    frame["timestamp"] = times.seconds
    if times.rest.any():
        frame["rest"] = times.rest
    is_clock = times.is_clock
    del times
    if "rating" in names:
        frame["rating"] = numbers(table, names["rating"], "rating", missing_allowed=True)
    if "weight" in names:
        frame["weight"] = _weights(table, names["weight"])
    if "event" in names:
        kinds = text_array(table, names["event"])
        frame["event"] = pc.replace_substring_regex(kinds, WHOLE_AS_FLOAT, r"\1").fill_null("").to_pandas()
    unread = [name for name in table.columns if name not in names.values() and name]
    if unread:
        notices.read(
            f"{table.path}: columns not read: {', '.join(unread)}; --column ours=theirs maps them to {', '.join(OPTIONAL)}"
        )
    frame = frame if kept.all() else frame[kept]
    return drop_copies(Interactions(frame, table.place, table.n_rows, dropped, is_clock), notices)


def _ids(
    table: Table, names: Mapping[str, str], notices: Notices, drop: bool, elsewhere: Elsewhere | None
) -> tuple[pd.DataFrame, np.ndarray, dict[str, int]]:
    """The two id columns, which rows [n] have both, and how many have none of each."""
    columns: dict[str, pd.Categorical] = {}
    kept, dropped = np.ones(table.n_rows, bool), dict[str, int]()
    for ours in ("user_id", "item_id"):
        found = coded_ids(table, names[ours], ours, drop, elsewhere)
        if found.blank:
            gone = kept & (found.codes < 0)
            dropped[f"without_{ours}"] = int(gone.sum())
            kept &= found.codes >= 0
            why = found.blank.split(";")[0]
            notices.add(
                f"rows_without_{ours}", int(gone.sum()), f"{table.place(found.first_blank)}: {why}; left out"
            )
        columns[ours] = pd.Categorical.from_codes(found.codes, found.names.to_pandas())
    if not kept.any():
        raise DataError(
            f"{table.path}: no row has both a user_id and an item_id; are the right columns mapped?"
        )
    return pd.DataFrame(columns), kept, {name: count for name, count in dropped.items() if count}


def _in_lists(table: Table, notices: Notices) -> Times:
    assert table.positions is not None
    notices.read(f"{table.path}: no timestamp; the place in a user's list is the order of their events")
    return Times(table.positions, np.zeros_like(table.positions), "places in a list", is_clock=False)


def _one_list_each(table: Table, users: pd.Series) -> None:
    """Two lists of a user, without times, have no order between them: refused, as it would be drawn."""
    rows, owners = table.row_of, users.to_numpy()
    assert rows is not None
    firsts = pd.Series(rows).groupby(owners).transform("min").to_numpy()
    again = np.flatnonzero((rows != firsts) & (owners != ""))
    if len(again):
        row = int(again[0])
        raise table.error(
            row,
            f"user '{owners[row]}' already has a list at {table.place(int((rows == firsts[row]).argmax()))}, and nothing says which came "
            "first; give the lists timestamps, or join the two",
        )


def say_times(table: Table, times: Times, notices: Notices, time: Reading = "auto") -> None:
    """Say how a column of moments was read, where that is not seconds, and which of them are odd."""
    if times.said != "Unix time in seconds":
        notices.read(f"{table.path}: timestamps are read as {times.said}")
    if time == "auto" and times.looks_odd:
        notices.add("times_before_1990", len(times.seconds), f"{table.path}: {times.looks_odd}")
    far = times.far_away()
    if far is not None:
        odd, row = far
        notices.add(
            "times_far_from_others",
            int(odd.sum()),
            f"{table.place(row)}: {int(odd.sum()):,} of {len(odd):,} times lie more than ten years from most of the others (the first, "
            f"{np.datetime64(int(times.seconds[row]), 's')}, is here); is that how somebody wrote that they don't know?",
        )


def read_queries(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    table: Table | None = None,
    time: Reading = "auto",
    notices: Notices | None = None,
    drop_missing_ids: bool = False,
) -> pd.DataFrame:
    """Read queries: user_id (null: nobody), item_id (what was found), timestamp, query (str).

    Rows without an item are refused by place, or left out and counted with `drop_missing_ids`.
    """
    table = read_table(path) if table is None else table
    told = Notices() if notices is None else notices
    if notices is not None:
        told.read(*table.reading)
    names = find_columns(table, "queries", (*SHARED, "query"), (), columns or {})
    query = text_array(table, names["query"], blank=NO_WORDS)  # "nan" is also a bread
    if query.null_count:
        raise table.error(first(pc.is_null(query)), "query is blank; delete the row or write the words")
    times = read_times(table, names["timestamp"], time)
    if notices is not None:
        say_times(table, times, told, time)
    kept = np.ones(table.n_rows, bool)
    if drop_missing_ids:
        items, kept = known_ids(table, names["item_id"], "item_id", told, "queries")
    else:
        items = ids(table, names["item_id"], "item_id")
    found = pd.DataFrame(
        {
            "user_id": id_array(table, names["user_id"]).to_pandas(),
            "item_id": items,
            "timestamp": times.seconds,
            "query": query.to_pandas(),
        }
    )
    return found[kept].reset_index(drop=True)


def known_ids(
    table: Table, column: str, ours: str, notices: Notices, what: str
) -> tuple[pd.Series, np.ndarray]:
    """A column of ids ("" where there is none), and which rows [n] have one; the others are left out and counted."""
    values = id_array(table, column)
    blank = pc.is_null(values).to_numpy(zero_copy_only=False)
    if blank.any():
        why = missing(table, column, ours, values, drop=False).split(": fill")[0]
        notices.add(
            f"{what}_without_{ours}", int(blank.sum()), f"{table.place(int(blank.argmax()))}: {why}; left out"
        )
    return checked_ids(table, pc.fill_null(values, ""), ours).to_pandas(), ~blank


def codes_of(ids: pd.Series) -> tuple[np.ndarray, pd.Index]:
    """Ids [n] as places in their names: int32 (int64 of ids that are not categories)."""
    if isinstance(ids.dtype, pd.CategoricalDtype):
        return ids.cat.codes.to_numpy().astype(np.int32, copy=False), ids.cat.categories
    codes, names = pd.factorize(ids)
    return codes, pd.Index(names)


def duplicated(
    frame: pd.DataFrame, columns: Sequence[str], keep: Literal["first", "last"] = "first"
) -> np.ndarray:
    """`frame.duplicated` of columns of which `user_id` is one, as a mask [n]; some users at a time, for pandas takes a hundred bytes a row."""
    if len(frame) <= AT_ONCE:
        return frame.duplicated(columns, keep=keep).to_numpy()
    found = np.zeros(len(frame), bool)
    part = codes_of(frame["user_id"])[0] % -(-len(frame) // AT_ONCE)
    for number in range(int(part.max()) + 1):
        rows = np.flatnonzero(part == number)
        found[rows] = frame[list(columns)].take(rows).duplicated(keep=keep).to_numpy()
    return found


def drop_copies(interactions: Interactions, notices: Notices) -> Interactions:
    """Drop every row that repeats an earlier row in all that is read of it: rows of another kind, rating or weight are no copies."""
    frame = interactions.frame
    repeated = duplicated(frame, [name for name in COPY_OF if name in frame])
    if repeated.any():
        where = interactions.place(int(frame.index[int(repeated.argmax())]))
        count = int(repeated.sum())
        notices.add(
            "duplicate_rows",
            count,
            f"{where}: {count} row(s) repeat an earlier row in user, item, timestamp and all else that is read (the first is "
            f"here); dropped. Delete the copies to be rid of this warning",
        )
    return interactions.keep(~repeated, "duplicate_rows")


def _weights(table: Table, column: str) -> np.ndarray:
    weights = numbers(table, column, "weight", missing_allowed=False)
    if (weights <= 0).any():
        row = int((weights <= 0).argmax())
        raise table.error(row, f"weight {weights[row]:g} is not above 0; delete rows that should not count")
    return weights

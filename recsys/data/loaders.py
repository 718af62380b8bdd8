"""Loaders of known data sets, each returning the same `Source`; docs/contributing.md lists what a new one touches.

- MovieLens ml-latest-small (Harper and Konstan 2015): ratings, titles, genres; the free tags are queries.
- Amazon 5-core of 2014 (McAuley et al. 2015) in the S3-Rec / P5 / TIGER form: order without time.
- HetRec 2011 Last.fm 2K (Cantador et al. 2011): a user's first tag for an artist, by month; tags are queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from recsys.data.catalogue import Catalogue, read_items
from recsys.data.interactions import Interactions, read_interactions, read_queries
from recsys.door.notices import Notices
from recsys.door.sources import read_table
from recsys.door.tables import DataError, Table, require
from recsys.door.text_files import read_lines
from recsys.door.times import Reading, whole_seconds
from recsys.door.values import ids
from recsys.elsewhere import Elsewhere


@dataclass(frozen=True)
class Source:
    """What a loader found. `has_clock` is False where timestamps are ordinals within a user."""

    interactions: Interactions
    catalogue: Catalogue | None
    queries: pd.DataFrame | None  # user_id, item_id, timestamp, query
    has_clock: bool = True
    as_listed: bool = False  # True: ids are numbered as the files list them, which is a published order; else by their names


def load_files(
    paths: Mapping[str, Path],
    columns: Mapping[str, str],
    text_columns: Sequence[str] | None,
    notices: Notices,
    time: Reading = "auto",
    drop_missing_ids: bool = False,
    elsewhere: Elsewhere | None = None,
) -> Source:
    """Plain files of one's own: `interactions`, and optionally `items` and `queries`."""
    interactions = read_interactions(
        paths["interactions"], columns, notices, None, time, drop_missing_ids, elsewhere
    )
    catalogue = (
        read_items(paths["items"], columns, text_columns, notices=notices, drop_missing_ids=drop_missing_ids)
        if "items" in paths
        else None
    )
    queries = (
        read_queries(paths["queries"], columns, None, time, notices, drop_missing_ids)
        if "queries" in paths
        else None
    )
    return Source(interactions, catalogue, queries, has_clock=interactions.is_clock)


def load_movielens(paths: Mapping[str, Path], text_columns: Sequence[str] | None, notices: Notices) -> Source:
    """MovieLens in the CSV form of ml-latest-small: every rating is an event."""
    names = {"user_id": "userId", "item_id": "movieId"}
    interactions = read_interactions(paths["interactions"], names, notices)
    catalogue = _select_text(read_items(paths["items"], names, ["genres"]), text_columns)
    for genres in catalogue.columns.get("genres", []):
        if genres == ["(no genres listed)"]:
            genres.clear()
    return Source(interactions, catalogue, read_queries(paths["queries"], {**names, "query": "tag"}))


def _select_text(catalogue: Catalogue, names: Sequence[str] | None) -> Catalogue:
    """The catalogue with only the named text columns (None: all)."""
    unknown = sorted(set(names or ()) - set(catalogue.columns))
    if unknown:
        has = ", ".join(catalogue.columns) or "none"
        raise DataError(f"text_columns names '{unknown[0]}'; the text columns of this data set are: {has}")
    columns = {name: column for name, column in catalogue.columns.items() if names is None or name in names}
    return Catalogue(catalogue.item_ids, catalogue.titles, columns)


def load_amazon(paths: Mapping[str, Path], text_columns: Sequence[str] | None, notices: Notices) -> Source:
    """Amazon 5-core: `user_sequence.txt` (user, then ASINs in order) and `items.jsonl` by ASIN.

    The timestamp is the position in the user's own sequence, so it says nothing across users.
    An item without a title is called by its brand and most special category.
    """
    path = paths["interactions"]
    users: list[str] = []
    items: list[str] = []
    positions: list[int] = []
    rows: list[int] = []  # line of each event
    for line, text in enumerate(read_lines(path), start=1):
        if not text.strip():
            continue
        user, *sequence = text.split()
        if not sequence:
            raise DataError(f"{path}:{line}: a line needs a user and at least one item; delete or mend it")
        users.extend([user] * len(sequence))
        items.extend(sequence)
        positions.extend(range(len(sequence)))
        rows.extend([line] * len(sequence))
    frame = pd.DataFrame(
        {"user_id": users, "item_id": items, "timestamp": np.array(positions, dtype=np.int64)}
    )
    starts = np.flatnonzero(frame["timestamp"] == 0)
    again = starts[frame["user_id"].iloc[starts].duplicated().to_numpy()]
    if len(again):
        raise DataError(f"{path}:{rows[again[0]]}: user '{users[again[0]]}' already has a line; join the two")
    catalogue = read_items(paths["items"], {"item_id": "asin"}, ["attributes"], title_required=False)
    catalogue = _select_text(_name_by_attributes(catalogue, notices), text_columns)
    events = Interactions(frame, lambda row: f"{path}:{rows[row]}", len(frame), is_clock=False)
    return Source(events, catalogue, None, has_clock=False, as_listed=True)


def _name_by_attributes(catalogue: Catalogue, notices: Notices) -> Catalogue:
    attributes = catalogue.columns["attributes"]
    for item in attributes:
        item[:] = [name for name in item if name != "Unknown"]  # the publisher's word for "no brand"
    titles, made = [], 0
    for item_id, title, item in zip(catalogue.item_ids, catalogue.titles, attributes, strict=True):
        nameless = title == item_id and bool(item)
        made += nameless
        titles.append(" ".join(dict.fromkeys([item[0], item[-1]])) if nameless else title)
    notices.add(
        "titles_from_attributes",
        made,
        f"{made} item(s) have no title; they are named by their first and last attribute",
    )
    return Catalogue(catalogue.item_ids, titles, catalogue.columns)


def load_lastfm(paths: Mapping[str, Path], text_columns: Sequence[str] | None, notices: Notices) -> Source:
    """Last.fm 2K: an event is the first time that a user tags an artist; every tagging is a query for it.

    The publisher's listening counts are totals at the end of the crawl and have no time, so they are not
    used. Nor are an artist's tags a text column: most were given later than the events that would read them.
    """
    table = read_table(paths["interactions"], "\t", quoting=False)
    tagging = pd.DataFrame(
        {
            "user_id": ids(table, require(table, "userID", "user_id"), "user_id"),
            "item_id": ids(table, require(table, "artistID", "item_id"), "item_id"),
            "tag_id": ids(table, require(table, "tagID", "query"), "tag_id"),
            "timestamp": _month_to_seconds(table),
        }
    )
    dated = (tagging["timestamp"] >= pd.Timestamp("2000-01-01").timestamp()).to_numpy()
    if not dated.all():
        count, where = int((~dated).sum()), table.place(int((~dated).argmax()))
        notices.add(
            "impossible_dates",
            count,
            f"{where}: {count} taggings are dated before 2000 (first here); dropped",
        )
    tagging = tagging[dated]
    ordered = tagging.sort_values("timestamp", kind="stable")
    first = ordered.drop_duplicates(["user_id", "item_id"]).sort_index()
    dropped = {"impossible_dates": int((~dated).sum()), "later_tags": len(tagging) - len(first)}
    events = Interactions(
        first[["user_id", "item_id", "timestamp"]],
        table.place,
        table.n_rows,
        {k: n for k, n in dropped.items() if n},
    )
    words = read_table(paths["tags"], "\t", quoting=False, encoding="latin-1")
    word_ids = ids(words, require(words, "tagID", "tag_id"), "tag_id").to_list()
    word_of = pd.Series(words.raw(require(words, "tagValue", "query")), index=word_ids)
    queries = tagging[["user_id", "item_id", "timestamp"]].assign(
        query=tagging["tag_id"].map(word_of).str.strip()
    )
    return Source(
        events,
        _select_text(_artists(paths["items"]), text_columns),
        queries[queries["query"].fillna("") != ""],
    )


def _artists(path: Path) -> Catalogue:
    table = read_table(path, "\t", quoting=False)
    return read_items(path, {"item_id": "id", "title": "name"}, [], table=table)


def _month_to_seconds(table: Table) -> np.ndarray:
    """Unix seconds [n] of the start of each row's day (UTC); in this data mostly the first of a month."""
    parts = {}
    for name in ("year", "month", "day"):
        parts[name] = whole_seconds(table, require(table, name, name))
    dates = pd.to_datetime(pd.DataFrame(parts), errors="coerce")
    if dates.isna().any():
        row = int(dates.isna().to_numpy().argmax())
        raise table.error(
            row, f"{'-'.join(str(parts[name][row]) for name in parts)} is not a date; mend or delete the row"
        )
    return dates.to_numpy().astype("datetime64[s]").astype(np.int64)

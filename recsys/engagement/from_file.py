"""The door for labelled lists of one's own: user_id, timestamp, query, item_id, engaged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from recsys.data.dataset import Dataset
from recsys.data.interactions import say_times
from recsys.door.notices import Coverage, Notices
from recsys.door.sources import read_table
from recsys.door.tables import SHARED, Table, find_columns
from recsys.door.times import Reading, read_times
from recsys.door.values import NO_WORDS, WHOLE_AS_FLOAT, first, id_array, ids, text_array

ENGAGED, NOT_ENGAGED = ("1", "true"), ("0", "false")


def read_lists(
    path: Path,
    columns: Mapping[str, str],
    data: Dataset,
    notices: Notices,
    least_known: float = 0.0,
    time: Reading = "auto",
) -> pd.DataFrame:
    """Rows `user, timestamp, query, item, engaged`, in the file's order, ids as the run's integers
    (user −1: unknown). A row whose item_id is a list is as many rows. `time`: as the run's times are read.

    Labels are 1 and 0, or truth values. Rows of items outside the catalogue are dropped and counted. Raises `DataError` with file and
    line for a blank query, another label, an item shown twice in a list, and whatever the shared doors refuse; and where less than
    `least_known` of the rows have an item, or of those that name one a user, that the run knows.
    """
    table = read_table(path)
    of = {ours: columns.get(ours, ours) for ours in (*SHARED, "query", "engaged")}
    if of["item_id"] in table.columns:
        table.unpack_lists(of["item_id"], of["engaged"])
        if table.is_list(of["item_id"]):
            table = table.one_row_each(of["item_id"], [of["engaged"]])
    notices.read(*table.reading)
    names = find_columns(table, "lists", (*SHARED, "query", "engaged"), (), columns)
    if unread := [name for name in table.columns if name not in names.values() and name]:
        notices.read(f"{path}: columns not read: {', '.join(unread)}")
    query = text_array(table, names["query"], blank=NO_WORDS)
    if query.null_count:
        raise table.error(first(pc.is_null(query)), "query is blank; delete the row or write the words")
    engaged = _labels(table, names["engaged"])
    item_ids = ids(table, names["item_id"], "item_id")
    items = pd.Index(data.catalogue.item_ids).get_indexer(item_ids)
    user_ids = id_array(table, names["user_id"]).to_pandas()
    times = read_times(table, names["timestamp"], time)
    say_times(table, times, notices)
    frame = pd.DataFrame(
        {
            "user": [data.user_numbers.get(user, -1) for user in user_ids],
            "timestamp": times.seconds,
            "query": query.to_pandas(),
            "item": items,
            "engaged": engaged,
        }
    )
    known = items >= 0
    twice = frame.duplicated(["user", "timestamp", "query", "item"]).to_numpy() & known
    if twice.any():
        row = int(twice.argmax())
        raise table.error(
            row, "this item was already shown in this list (same user, timestamp and query); keep one row"
        )
    named = user_ids.notna().to_numpy()
    met = (frame["user"] >= 0).to_numpy()
    for what, values, found, of_all in (
        ("item_id", item_ids, known, np.ones(len(frame), bool)),
        ("user_id", user_ids, met, named),
    ):
        lacking = np.flatnonzero(of_all & ~found)
        example = f"{table.place(int(lacking[0]))}, {values[lacking[0]]!r}" if len(lacking) else None
        notices.require(
            Coverage(
                f"{path}: rows whose {what} the run knows",
                int(found[of_all].sum()),
                int(of_all.sum()),
                example,
            ),
            least_known,
            "engagement.min_known",
            "are the ids of the lists and of the interactions of one form?",
        )
    if not known.all():
        row, gone = int((~known).argmax()), int((~known).sum())
        notices.add(
            "lists_of_unknown_items",
            gone,
            f"{path}: {gone} row(s) show an item outside the catalogue; dropped (the first: {table.place(row)}, '{item_ids[row]}')",
        )
    unknown = np.unique(user_ids[~met].fillna(""))
    if len(unknown):
        notices.add(
            "lists_of_unknown_users",
            len(unknown),
            f"{path}: {len(unknown)} user(s) are unknown to the run; their lists are tested on, as of nobody known (the first: "
            f"'{unknown[0]}')",
        )
    return frame[known]


def _labels(table: Table, column: str) -> np.ndarray:
    """Bool [n]: 1 or true, 0 or false."""
    texts = pc.utf8_lower(text_array(table, column))
    labels = pc.replace_substring_regex(texts, WHOLE_AS_FLOAT, r"\1").to_pandas()
    odd = ~labels.isin([*ENGAGED, *NOT_ENGAGED]).to_numpy()
    if odd.any():
        row = int(odd.argmax())
        raise table.error(
            row, f"engaged is {table.raw(column)[row]!r}; expected 1 (engaged) or 0 (shown, not engaged)"
        )
    return labels.isin(ENGAGED).to_numpy()

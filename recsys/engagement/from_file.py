"""The door for labelled lists of one's own: user_id, timestamp, query, item_id, engaged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from recsys.data.dataset import Dataset
from recsys.door.notices import Notices
from recsys.door.sources import read_table
from recsys.door.tables import SHARED, find_columns
from recsys.door.times import whole_seconds
from recsys.door.values import first, id_array, ids, text_array


def read_lists(path: Path, columns: Mapping[str, str], data: Dataset, notices: Notices) -> pd.DataFrame:
    """Rows `user, timestamp, query, item, engaged`, in the file's order, ids as the run's integers
    (user −1: unknown).

    Raises `DataError` with file and line for a blank query, a label other than 0 and 1, an item shown twice
    in a list, and whatever the shared doors refuse. Rows of items outside the catalogue are dropped and
    counted.
    """
    table = read_table(path)
    names = find_columns(table, "lists", (*SHARED, "query", "engaged"), (), columns)
    query, engaged = text_array(table, names["query"], blank=("",)), text_array(table, names["engaged"])
    if query.null_count:
        raise table.error(first(pc.is_null(query)), "query is blank; delete the row or write the words")
    labels = engaged.to_pandas()
    odd = ~labels.isin(["0", "1"]).to_numpy()
    if odd.any():
        row = int(odd.argmax())
        raise table.error(row, f"engaged is {labels[row]!r}; expected 1 (engaged) or 0 (shown, not engaged)")
    item_ids = ids(table, names["item_id"], "item_id")
    items = pd.Index(data.catalogue.item_ids).get_indexer(item_ids)
    user_ids = id_array(table, names["user_id"]).to_pandas()
    frame = pd.DataFrame(
        {
            "user": [data.user_numbers.get(user, -1) for user in user_ids],
            "timestamp": whole_seconds(table, names["timestamp"]),
            "query": query.to_pandas(),
            "item": items,
            "engaged": labels.to_numpy() == "1",
        }
    )
    known = items >= 0
    twice = frame.duplicated(["user", "timestamp", "query", "item"]).to_numpy() & known
    if twice.any():
        row = int(twice.argmax())
        raise table.error(
            row, "this item was already shown in this list (same user, timestamp and query); keep one row"
        )
    if not known.all():
        row, gone = int((~known).argmax()), int((~known).sum())
        notices.add(
            "lists_of_unknown_items",
            gone,
            f"{path}: {gone} row(s) show an item outside the catalogue; dropped (the first: {table.place(row)}, '{item_ids[row]}')",
        )
    unknown = np.unique(user_ids[frame["user"] < 0].fillna(""))
    if len(unknown):
        notices.add(
            "lists_of_unknown_users",
            len(unknown),
            f"{path}: {len(unknown)} user(s) are unknown to the run; their lists are tested on, as of nobody known (the first: "
            f"'{unknown[0]}')",
        )
    return frame[known]

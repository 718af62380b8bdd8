"""The catalogue: items as integers, with their ids, titles and phrases of text; and how often each was had."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.artifacts.arrays import read_columns
from recsys.door.notices import Notices
from recsys.door.sources import read_table
from recsys.door.tables import DataError, Table, find_columns, require
from recsys.door.text_columns import not_words
from recsys.door.values import NO_WORDS, first, id_array, ids, missing, text_array

TOTALS = "item_totals.parquet"  # in place of the events, where a run was exported without users
RETIRED, TRAINED = (
    "@retired",
    "prelude.trained",
)  # of items.parquet of a refreshed run: a column, and a number beside them


@dataclass(frozen=True, eq=False)
class Catalogue:
    """N items. Item i has id `item_ids[i]` (str), title `titles[i]`, and phrases `columns[name][i]`."""

    item_ids: np.ndarray  # [N] str (object)
    titles: Sequence[str]  # [N]; the id where there is no title
    columns: Mapping[str, Sequence[list[str]]]  # e.g. {"genres": [["Comedy", "Drama"], ...]}
    # [K] int64, ascending: items that are answered with no more (`prelude refresh`); their integers stay, and they may return
    retired: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    n_trained: int | None = None  # items from here on came after the training, by refreshes; None: none did

    def __post_init__(self) -> None:
        assert len(self.titles) == len(self.item_ids)
        assert all(len(column) == len(self.item_ids) for column in self.columns.values())

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {item_id: index for index, item_id in enumerate(self.item_ids)}

    def number(self, item_id: str) -> int | None:
        """The integer of an item id; None where the catalogue lacks it."""
        return self._index.get(item_id)

    def index_of(self, item_id: str) -> int:
        """The integer of an item id. Raises `DataError` naming the id if the catalogue lacks it."""
        index = self._index.get(item_id)
        if index is None:
            raise DataError(
                f"the catalogue has no item '{item_id}' (it has {len(self):,} items; ids are strings)"
            )
        return index

    def texts(self) -> list[str]:
        """One text per item for a sentence encoder: `title. genres: a, b. brand: c`."""
        texts = []
        for index, title in enumerate(self.titles):
            parts = [title]
            for name, column in self.columns.items():
                if column[index]:
                    parts.append(f"{name}: {', '.join(column[index])}")
            texts.append(". ".join(parts))
        return texts

    def select(self, item_ids: Sequence[str]) -> Catalogue:
        """The catalogue of these items, in this order; an unknown one has its id as title and no text."""
        rows = [self._index.get(item_id) for item_id in item_ids]
        titles = [
            item_id if row is None else self.titles[row] for row, item_id in zip(rows, item_ids, strict=True)
        ]
        columns = {
            name: [[] if row is None else column[row] for row in rows]
            for name, column in self.columns.items()
        }
        return Catalogue(np.array(list(item_ids), dtype=object), titles, columns)

    def save(self, folder: Path, name: str = "items.parquet") -> None:
        """Write `items.parquet`: item_id, title, and each text column as a list of strings."""
        table = {
            "item_id": pa.array(list(self.item_ids), pa.string()),
            "title": pa.array(list(self.titles), pa.string()),
        }
        table |= {
            name: pa.array(list(column), pa.list_(pa.string())) for name, column in self.columns.items()
        }
        whole = pa.table(table)
        if self.n_trained is not None:  # a refreshed catalogue; of others the bytes are what they always were
            gone = np.zeros(len(self), bool)
            gone[self.retired] = True
            whole = whole.append_column(RETIRED, pa.array(gone))
            whole = whole.replace_schema_metadata({TRAINED: str(self.n_trained)})
        pq.write_table(whole, folder / name)

    @classmethod
    def load(cls, folder: Path) -> Catalogue:
        table = pq.ParquetFile(folder / "items.parquet").read()
        item_ids = np.array(table["item_id"].to_pylist(), dtype=object)
        own = ("item_id", RETIRED)
        columns = {name: _values(table[name]) for name in table.column_names if name not in own}
        trained = (table.schema.metadata or {}).get(TRAINED.encode())
        if trained is None:
            return cls(item_ids, columns.pop("title"), columns)
        retired = np.flatnonzero(table[RETIRED].to_numpy())
        return cls(item_ids, columns.pop("title"), columns, retired, int(trained))


class ArrowValues(Sequence[Any]):
    """Values [N] of an Arrow array, each a Python value when it is asked for: a million lists of texts take 300 MB as Python has them."""

    def __init__(self, values: pa.ChunkedArray):
        self._values = values.combine_chunks()

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._values[index].to_pylist()
        return self._values[int(index)].as_py()

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self._values), AT_ONCE):
            yield from self._values[start : start + AT_ONCE].to_pylist()


LARGE = 100_000  # items from which on texts stay as Arrow has them; fewer are Python's lists, which are read faster
MOST_RECURRING = 50_000  # phrases of a column that are looked out for; more are not the values of a category
AT_ONCE = 65_536  # values made at once where all are read


def _values(column: pa.ChunkedArray) -> Sequence[Any]:
    return column.to_pylist() if len(column) < LARGE else ArrowValues(column)


def read_items(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    text_columns: Sequence[str] | None = None,
    title_required: bool = True,
    table: Table | None = None,
    notices: Notices | None = None,
    drop_missing_ids: bool = False,
) -> Catalogue:
    """Read items: `item_id`, `title`, and text columns (unless they are named: all that hold words; see `recsys.door.text_columns`).

    A cell with several values is split at `|`, or is a JSON list. `table` is the file, if it was read
    before. What is read as text, and what is not and why, goes to `notices`. Raises `DataError` for a repeated id, and for a blank one,
    whose row is left out and counted with `drop_missing_ids`.
    """
    table, columns, notices = table or read_table(path), columns or {}, notices or Notices()
    notices.read(*table.reading)
    title = ("title",)
    names = find_columns(
        table, "items", ("item_id", *(title * title_required)), title * (not title_required), columns
    )
    if drop_missing_ids:
        _drop_nameless(table, names["item_id"], notices)
    item_ids = ids(table, names["item_id"], "item_id")
    _refuse_repeats(table, item_ids)
    titles = item_ids.to_list()
    if "title" in names:
        given = text_array(table, names["title"], blank=NO_WORDS).to_pylist()
        titles = [
            " ".join(name.split()) if name else item_id for name, item_id in zip(given, titles, strict=True)
        ]
        blank = sum(not name for name in given)
        notices.add(
            "items_without_title",
            blank,
            f"{table.path}: {blank} item(s) have no title; they are called by their id",
        )
        _say_repeated_titles(table, titles, item_ids.to_list(), notices)
    wanted = (
        _words(table, {*names.values(), "item_id", "title", ""}, notices)
        if text_columns is None
        else {
            name: require(table, columns.get(f"items.{name}", columns.get(name, name)), name)
            for name in text_columns
        }
    )
    texts = {name: _each_once(table.raw(theirs)) for name, theirs in wanted.items()}
    return Catalogue(np.array(item_ids.to_list(), dtype=object), titles, texts)


def _drop_nameless(table: Table, column: str, notices: Notices) -> None:
    """The table without its rows that have no id, in place."""
    values = id_array(table, column)
    if values.null_count in (0, len(values)):
        return
    row, why = first(pc.is_null(values)), missing(table, column, "item_id", values, drop=False)
    notices.add(
        "items_without_id", values.null_count, f"{table.place(row)}: {why.split(': fill')[0]}; left out"
    )
    table.keep(np.flatnonzero(pc.is_valid(values).to_numpy(zero_copy_only=False)))


def _say_repeated_titles(table: Table, titles: list[str], item_ids: list[str], notices: Notices) -> None:
    """Most items under titles that others have too: another column is the title, or the words say little."""
    named = [title for title, item_id in zip(titles, item_ids, strict=True) if title != item_id]
    counts = Counter(named)
    shared = sum(count for count in counts.values() if count > 1)
    if len(named) > 2 and 2 * shared > len(named):
        most, times = counts.most_common(1)[0]
        notices.add(
            "items_that_share_a_title",
            shared,
            f"{table.path}: {shared:,} of {len(named):,} titles are those of other items too (the most frequent, {most[:60]!r}, {times:,} "
            "times); is title mapped to the right column?",
        )


def _words(table: Table, taken: set[str], notices: Notices) -> dict[str, str]:
    """The columns of words beside those that are `taken`, and a note of what was read as text and what was not."""
    rest = {name: not_words(table, name) for name in table.columns if name not in taken}
    words = [name for name, instead in rest.items() if instead is None]
    left = ", ".join(f"{name} ({instead})" for name, instead in rest.items() if instead is not None)
    if rest:
        notices.read(
            f"{table.path}: read as text: {', '.join(words) or 'none'}; left out: {left or 'none'}. prepare.text_columns names the columns to "
            "read"
        )
    return {name: name for name in words}


def phrases(cell: Any) -> list[str]:
    """The phrases in one cell. `Comedy|Drama` and `["Comedy", "Drama"]`, as text or a list, are the same."""
    if cell is None or (isinstance(cell, float) and cell != cell):
        return []
    if isinstance(cell, str):
        text = cell.strip()
        if text in NO_WORDS:
            return []
        if text.startswith("[") and text.endswith("]"):
            try:
                return phrases(json.loads(text))
            except json.JSONDecodeError:
                pass  # brackets, but not a list
        parts: list[Any] = text.split("|")
    elif isinstance(cell, list):
        parts = [part for part in cell if part is not None]
    elif isinstance(cell, dict):
        parts = [f"{key} {value}" for key, value in cell.items() if value is not None]
    else:
        parts = [cell]
    return [text for text in (" ".join(str(part).split()) for part in parts) if text]


def _each_once(cells: Sequence[Any]) -> list[list[str]]:
    """The phrases of each cell; of phrases that recur (a genre of a million items) there is one text in memory."""
    known: dict[str, str] = {}

    def one(text: str) -> str:
        return known.setdefault(text, text) if len(known) < MOST_RECURRING else known.get(text, text)

    return [[one(text) for text in phrases(cell)] for cell in cells]


def _refuse_repeats(table: Table, item_ids: pd.Series) -> None:
    repeated = item_ids.duplicated().to_numpy()
    if repeated.any():
        row = int(repeated.argmax())
        earlier = table.place(int((item_ids == item_ids[row]).to_numpy().argmax()))
        raise table.error(
            row, f"item_id '{item_ids[row]}' was already given at {earlier}; keep one of the rows"
        )


@dataclass(frozen=True)
class ItemTotals:
    """What is known of each item [N] from everybody's training events (FIT and PERSONALIZE),
    and of nobody in particular.
    """

    # int64: how many events; float64, the sum of their weights, where events weigh differently
    counts: np.ndarray
    last: np.ndarray  # int64: place of its last event among all in time, a later row winning ties; −1: none. No weight moves it

    @classmethod
    def of(
        cls, items: np.ndarray, times: np.ndarray, n_items: int, weights: np.ndarray | None = None
    ) -> ItemTotals:
        """Counted from events [E]: `items` and `times` (unix seconds), each as one, or as its share of `weights` [E]."""
        last = np.full(n_items, -1, np.int64)
        # the last write of an item wins
        last[items[np.argsort(times, kind="stable")]] = np.arange(len(items))
        return cls(np.bincount(items, weights, minlength=n_items), last)

    @classmethod
    def load(cls, path: Path) -> ItemTotals:
        columns = read_columns(path)
        return cls(columns["events"], columns["last"])

    def save(self, folder: Path) -> None:
        """Write `item_totals.parquet`; `last` as ranks, from which no number of events can be told."""
        touched = np.flatnonzero(self.last >= 0)
        ranks = self.last.copy()
        ranks[touched[np.argsort(self.last[touched], kind="stable")]] = np.arange(len(touched))
        pq.write_table(pa.table({"events": self.counts, "last": ranks}), folder / TOTALS)

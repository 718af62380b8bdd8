"""A table from outside: its columns as they stand there, with a place for every row. And the error that names places."""

from __future__ import annotations

import difflib
import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

FIRST_LOOK = 1024  # rows
SHARED = ("user_id", "item_id", "timestamp")  # columns that more than one file has


class DataError(ValueError):
    """Input that cannot be used. The message names the file, the line or row, the problem, and the remedy."""


class Stored(ABC):
    """A column [n] that is not in memory: `pieces` reads it, in order; `type` is that of every piece, a plain one."""

    type: pa.DataType

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def pieces(self) -> Iterator[pa.Array]:
        """Some rows after the other. Raises `DataError` naming a file that is damaged."""

    def whole(self) -> pa.Array:
        return plain(pa.chunked_array(list(self.pieces()), self.type))


class Table:
    """The columns of one source: Arrow arrays, or (of JSON lines) lists of Python values, or columns that are not in memory (`Stored`).

    `place(row)` names a row (0-based, header and blank lines not counted) as `file:line` (1-based, the header counted) or,
    in Parquet and Arrow files, as `file row n` (1-based). `reading` says in words what was understood of the format, where
    that was not obvious.
    """

    def __init__(
        self,
        path: Path,
        columns: dict[str, Any],
        n_rows: int,
        place: Callable[[int], str],
        reading: Sequence[str] = (),
    ):
        self.path, self.columns, self.n_rows, self.place = path, columns, n_rows, place
        self.reading = list(reading)

    def error(self, row: int, problem: str) -> DataError:
        return DataError(f"{self.place(row)}: {problem}")

    def array(self, column: str) -> pa.Array:
        """The column as one Arrow array, dictionaries decoded, views and half floats widened."""
        values = self.columns[column]
        if isinstance(values, Stored):
            found = values.whole()
        else:
            found = self._plain(column, values) if isinstance(values, list) else plain(values)
        return found.cast(pa.float32()) if pa.types.is_float16(found.type) else found

    def kind(self, column: str) -> pa.DataType:
        """The type of the column's values as the source has them, before half floats are widened."""
        values = self.columns[column]
        if isinstance(values, Stored):
            return values.type
        return self.array(column).type if isinstance(values, list) else plain(values).type

    def raw(self, column: str) -> list[Any]:
        """The column as Python values: strings, numbers, lists, None."""
        values = self.columns[column]
        return values if isinstance(values, list) else self.array(column).to_pylist()

    def pieces(self, column: str) -> Iterator[tuple[int, Table]]:
        """The column a piece at a time: the row at which it begins, and a table of it alone; of a column in memory, one piece."""
        values, start = self.columns[column], 0
        if not isinstance(values, Stored):
            yield 0, self
            return
        for piece in values.pieces():
            yield start, Table(self.path, {column: piece}, len(piece), self._place_from(start))
            start += len(piece)

    def _place_from(self, start: int) -> Callable[[int], str]:
        return lambda row: self.place(start + row)

    def in_memory(self) -> Table:
        """The table with every column in memory."""
        columns = {
            name: values.whole() if isinstance(values, Stored) else values
            for name, values in self.columns.items()
        }
        return Table(self.path, columns, self.n_rows, self.place, self.reading)

    def is_list(self, column: str) -> bool:
        """Does a row of this column hold several values?"""
        values = self.columns[column]
        if isinstance(values, list):
            return any(isinstance(value, list) for value in values)
        return is_list_type(values.type)

    def keep(self, rows: np.ndarray) -> None:
        """Only these rows (indices, ascending), in place; they keep their places."""
        place, self.n_rows = self.place, len(rows)
        self.columns = {
            name: [values[row] for row in rows] if isinstance(values, list) else values.take(pa.array(rows))
            for name, values in self.columns.items()
        }
        self.place = lambda row: place(int(rows[row]))

    def unpack_lists(self, key: str, *others: str) -> None:
        """Where every cell of `key` is a JSON list as text, lists in place of the texts, there and in `others` that are so too.

        Raises `DataError` for a text in square brackets that is no JSON.
        """
        for name in (key, *others):
            if name not in self.columns or not self._looks_like_lists(name):
                if name == key:
                    return
                continue
            self.columns[name] = [self._list(row, name, text) for row, text in enumerate(self.raw(name))]

    def _looks_like_lists(self, column: str) -> bool:
        values = self.columns[column]
        if isinstance(values, Stored):
            values = (
                next(values.pieces(), pa.array([], values.type))
                if is_string_type(values.type)
                else pa.array([])
            )
        if not isinstance(values, list):
            if not is_string_type(values.type):
                return False
            for some in (values.slice(0, FIRST_LOOK), values):  # most columns are told by their first rows
                looks = pc.match_substring_regex(plain(some), r"^\s*\[.*\]\s*$")
                if pc.all(looks).as_py() is False:
                    return False
            return looks.null_count < len(looks)
        texts = [text for text in values if text is not None]
        return bool(texts) and all(
            isinstance(text, str) and text.strip()[:1] == "[" and text.strip()[-1:] == "]" for text in texts
        )

    def _list(self, row: int, column: str, text: str | None) -> list[Any] | None:
        if text is None:
            return None
        try:
            return list(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise self.error(
                row, f'{column} is {text[:40]!r}, a list but not JSON ({error}); write ["a", "b"]'
            ) from None

    def one_row_each(self, key: str, along: Collection[str] = ()) -> Table:
        """The table with one row for each element of the lists in `key`; lists of the columns `along` go with them, the rest repeats.

        Raises `DataError` where two lists of a row differ in length.
        """
        lists = {
            name: self.raw(name)
            for name in self.columns
            if name == key or (name in along and self.is_list(name))
        }
        lengths = np.array([len(value or []) for value in lists[key]], dtype=np.int64)
        for name, values in lists.items():
            other = np.array([len(value or []) for value in values], dtype=np.int64)
            if (other != lengths).any():
                row = int((other != lengths).argmax())
                raise self.error(
                    row, f"{name} has {other[row]} value(s) and {key} {lengths[row]}; make them one length"
                )
        row_of = np.repeat(np.arange(self.n_rows), lengths)
        columns: dict[str, Any] = {}
        for name, values in self.columns.items():
            if name in lists:
                columns[name] = [element for value in lists[name] for element in value or []]
            elif isinstance(values, list):
                columns[name] = [values[row] for row in row_of]
            else:
                columns[name] = values.take(pa.array(row_of))
        said = f"{self.path}: one row holds a list of {key}; {self.n_rows:,} rows are read as {len(row_of):,}"
        if (empty := int((lengths == 0).sum())) > 0:
            where = self.place(int((lengths == 0).argmax()))
            said += (
                f"; {empty:,} list(s) are empty (the first: {where}), and whoever has no other is left out"
            )
        found = Table(
            self.path, columns, len(row_of), lambda row: self.place(int(row_of[row])), [*self.reading, said]
        )
        found.row_of = row_of
        found.positions = np.arange(len(row_of)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return found

    # of a table made by `one_row_each`, [n]: the row that each came from, and the place in its list
    row_of: np.ndarray | None = None
    positions: np.ndarray | None = None

    def _plain(self, column: str, values: list[Any]) -> pa.Array:
        try:
            array = pa.array(values)
        except (pa.ArrowException, OverflowError, ValueError):  # numbers and strings side by side
            array = None
        if array is None or pa.types.is_nested(array.type):
            array = pa.array(
                [self._scalar(row, column, value) for row, value in enumerate(values)], pa.string()
            )
        return plain(array)

    def _scalar(self, row: int, column: str, value: Any) -> str | None:
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, list | dict):
            raise self.error(row, f"{column} is {json.dumps(value)[:60]}; expected one plain value")
        if isinstance(value, bool):  # beside numbers or texts
            raise self.error(
                row, f"{column} is {json.dumps(value)}; expected a value of one kind with the others"
            )
        return str(value)


def is_string_type(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_list_type(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    )


def plain(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array of a plain type: dictionaries and run-ends decoded, views as strings, UUIDs as text."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks() if values.num_chunks != 1 else values.chunk(0)
    if isinstance(values, pa.ExtensionArray):
        kind, values = values.type, values.storage
        if isinstance(kind, pa.UuidType):
            values = pa.array([raw and str(uuid.UUID(bytes=raw)) for raw in values.to_pylist()], pa.string())
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_run_end_encoded(values.type):
        values = pc.run_end_decode(values)
    if pa.types.is_string_view(values.type):
        values = values.cast(pa.large_string())
    if pa.types.is_binary_view(values.type):
        values = values.cast(pa.large_binary())
    return values


# -- columns -----------------------------------------------------------------------------------------------------


def require(table: Table, column: str, ours: str) -> str:
    """`column` if the table has it; else a `DataError` that lists what it has and how to map it."""
    if column in table.columns:
        return column
    found = list(table.columns)
    folded = {name.lower(): name for name in reversed(found)}
    close = difflib.get_close_matches(column.lower(), list(folded), n=1, cutoff=0.6)
    example = folded[close[0]] if close else "your_name_for_it"
    message = f"{table.path}: no column '{column}'; found: {', '.join(found) or 'none'}."
    if len(found) == 1 and any(mark in found[0] for mark in ";\t|,"):
        raise DataError(f"{message} Separate the fields by commas in .csv and by tabs in .tsv")
    raise DataError(f"{message} Name the column in the config, for example columns: {{{ours}: {example}}}")


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


def refuse_twins(names: Sequence[str], where: str) -> None:
    """Raises `DataError` where two columns have one name."""
    twins = sorted({name for name in names if list(names).count(name) > 1})
    if twins:
        raise DataError(f"{where}: two columns are named '{twins[0]}'; rename one of them")

"""A column of ids as integers, made a piece at a time: what is kept is a number a row, and every name once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.door.tables import DataError, Table
from recsys.door.values import blank_ids, checked_ids, first, id_array


@dataclass(frozen=True, eq=False)
class Coded:
    """Ids of a table's rows: `codes` [n] int32, places in `names` (in the order in which they first occur); −1 where a row has none.

    `blank` says what is wrong with the first such row, at `first_blank`; None: there is none.
    """

    codes: np.ndarray
    names: pa.Array
    blank: str | None = None
    first_blank: int = -1


def coded_ids(table: Table, column: str, ours: str, blank_allowed: bool) -> Coded:
    """A column of ids. Raises `DataError` by place for what is no id, and for nothing unless that is allowed; as `ids` of `values` does.

    Memory: four bytes a row, each name twice, and a piece of the column.
    """
    codes = np.empty(table.n_rows, np.int32)
    names = pa.array([], pa.large_string())
    blanks, first_blank, spelled = 0, -1, None
    odd: DataError | None = None
    for start, piece in table.pieces(column):
        values = id_array(piece, column)
        if values.null_count and not blanks:
            row = first(pc.is_null(values))
            first_blank, spelled = start + row, piece.raw(column)[row]
        blanks += values.null_count
        numbers, names = _add(names, values.cast(pa.large_string()))
        codes[start : start + len(values)] = numbers
        try:
            checked_ids(piece, values, ours)
        except DataError as error:  # what is blank is said before it
            odd = odd or error
    blank = blank_ids(spelled, ours, blanks, table.n_rows) if blanks else None
    if blank and not blank_allowed:
        raise table.error(first_blank, blank)
    if odd:
        raise odd
    return Coded(codes, names, blank, first_blank)


def _add(names: pa.Array, values: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """The places of `values` [n] among the names, −1 of null; and the names with those that are new."""
    coded = values.dictionary_encode()
    found = pc.index_in(coded.dictionary, value_set=names)
    fresh = pc.is_null(found)
    places = np.array(found.fill_null(-1).to_numpy(zero_copy_only=False), np.int32)
    new = np.asarray(fresh.to_numpy(zero_copy_only=False), bool)
    places[new] = len(names) + np.arange(int(new.sum()), dtype=np.int32)
    if len(names) + int(new.sum()) >= 2**31:
        raise DataError(f"more than {2**31 - 1:,} different ids; split the data")
    numbers = np.asarray(coded.indices.fill_null(-1).to_numpy(zero_copy_only=False))
    known = np.append(places, np.int32(-1))[numbers]  # −1 takes the last
    return known, pa.concat_arrays([names, coded.dictionary.filter(fresh)]) if new.any() else names

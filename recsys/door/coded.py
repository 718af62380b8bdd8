"""A column of ids as integers, made a piece at a time: what is kept is a number a row, and every name once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from recsys.door.stored import Span, StoredColumn, read_span
from recsys.door.tables import DataError, Table
from recsys.door.values import blank_ids, checked_ids, first, id_array
from recsys.elsewhere import Elsewhere, put


@dataclass(frozen=True, eq=False)
class Coded:
    """Ids of a table's rows: `codes` [n] int32, places in `names` (in the order in which they first occur); −1 where a row has none.

    `blank` says what is wrong with the first such row, at `first_blank`; None: there is none.
    """

    codes: np.ndarray
    names: pa.Array
    blank: str | None = None
    first_blank: int = -1


def coded_ids(
    table: Table, column: str, ours: str, blank_allowed: bool, elsewhere: Elsewhere | None = None
) -> Coded:
    """A column of ids. Raises `DataError` by place for what is no id, and for nothing unless that is allowed; as `ids` of `values` does.

    Memory: four bytes a row, each name twice, and a piece of the column. Pieces of Parquet files may be coded `elsewhere`: the same codes
    and names. A column of which some row has no id, or an odd one, is read here, which says where.
    """
    found = None if elsewhere is None else _coded_elsewhere(table, column, ours, elsewhere)
    if found is not None:
        return found
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
        numbers, names = _add(names, values.cast(pa.large_string()).dictionary_encode())
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


def _add(names: pa.Array, coded: pa.DictionaryArray) -> tuple[np.ndarray, pa.Array]:
    """The places of some values [n] among the names, −1 of null; and the names with those that are new."""
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


def _coded_elsewhere(table: Table, column: str, ours: str, elsewhere: Elsewhere) -> Coded | None:
    """`coded_ids` by workers; None of a column that does not lie in files, or that has rows to be spoken of."""
    stored = table.columns[column]
    if not isinstance(stored, StoredColumn):
        return None
    spans = stored.spans()
    clean = elsewhere.done(
        "recsys.door.coded:coder",
        {"spans": spans, "column": column, "ours": ours},
        len(spans),
        below=f"coded-{ours}",
    )
    if not all(clean):
        return None
    codes, start = np.empty(table.n_rows, np.int32), 0
    names = pa.array([], pa.large_string())
    for number in range(len(spans)):
        with pa.memory_map(str(_file(elsewhere.file(f"coded-{ours}", ""), number))) as file:
            piece = pa.ipc.open_file(file).get_batch(0).column(0)
            codes[start : start + len(piece)], names = _add(names, piece)
            start += len(piece)
    return Coded(codes, names)


def coder(
    folder: str, spans: Sequence[Sequence[Span]], column: str, ours: str
) -> Callable[[tuple[int]], bool]:
    """A worker: a function of the number of a piece, which leaves its codes and names in a file, unless a row has no id or an odd one."""

    def do(task: tuple[int]) -> bool:
        try:
            values = read_span(spans[task[0]], column)
            piece = Table(Path(spans[task[0]][0][0]), {column: values}, len(values), str)
            ids = checked_ids(piece, id_array(piece, column), ours)
        except (
            DataError,
            pa.ArrowException,
            OSError,
        ):  # who reads it once more, in order, says what is wrong
            return False
        if not ids.null_count:
            batch = pa.record_batch([ids.cast(pa.large_string()).dictionary_encode()], [ours])
            put(_file(Path(folder), task[0]), lambda path: _write(path, batch))
        return not ids.null_count

    return do


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.arrow"


def _write(path: Path, batch: pa.RecordBatch) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)

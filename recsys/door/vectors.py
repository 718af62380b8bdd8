"""Vectors that a service brings: rows (id, the moment at which the vector became available, vector), in any format of the door."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.door.notices import Notices
from recsys.door.sources import read_table
from recsys.door.tables import DataError, Table, is_list_type, is_string_type, plain, require
from recsys.door.times import Reading, read_times
from recsys.door.values import checked_ids, finite_or_none, first, id_array, missing

NAMES = "user_id, timestamp and vector, or item_id and vector"
_BETWEEN = re.compile(r"\s*[,;|]\s*|\s+")


@dataclass(frozen=True)
class Brought:
    """Rows whose id the run knows: integers [M], moments [M] (0 where the file has none), vectors [M, d]. And what was left out."""

    ids: np.ndarray
    times: np.ndarray
    vectors: np.ndarray
    rows: int  # rows of the file
    unknown_ids: int  # different ids that the run does not know
    first_unknown: str | None
    has_times: bool


def read_vectors(
    path: Path, key: str, index: Mapping[str, int], time: Reading = "auto", notices: Notices | None = None
) -> Brought:
    """Read `key` (user_id or item_id), `timestamp` (optional for items) and `vector` columns; vectors in text are their numbers.

    Rows of ids that the run does not know are left out and counted; how the file was read goes to `notices`. Raises `DataError` by place for blank ids, vectors that are ragged,
    empty or not finite, and two rows of one id and moment; and where no id is known.
    """
    table, notices = read_table(path), notices or Notices()
    notices.read(*table.reading)
    ids = _ids(table, key)
    vectors = _matrix(table, _needed(table, "vector"))
    has_times = "timestamp" in table.columns
    if key == "user_id":
        _needed(table, "timestamp")
    times = np.zeros(len(ids), np.int64)
    if has_times:
        read = read_times(table, "timestamp", time)
        times = read.seconds
        if read.said != "Unix time in seconds":
            notices.read(f"{path}: timestamps are read as {read.said}")
    if unread := [name for name in table.columns if name not in (key, "timestamp", "vector")]:
        notices.read(f"{path}: columns not read: {', '.join(unread)}")
    _refuse_repeats(table, key, ids, times)
    names = ids.to_pylist()
    numbers = np.array([index.get(name, -1) for name in names], dtype=np.int64)
    unknown = list(dict.fromkeys(name for name, number in zip(names, numbers, strict=True) if number < 0))
    if len(unknown) and (numbers < 0).all():
        ours = next(iter(index), "nothing")
        raise DataError(
            f"{path}: no {key} in it is known to the run (the first is {unknown[0]!r}; the run's look like {ours!r}); are these the ids of "
            "the interactions?"
        )
    known = numbers >= 0
    return Brought(
        numbers[known],
        times[known],
        vectors[known],
        len(names),
        len(unknown),
        unknown[0] if unknown else None,
        has_times,
    )


def _ids(table: Table, key: str) -> pa.Array:
    values = id_array(table, _needed(table, key))
    if values.null_count:
        raise table.error(first(pc.is_null(values)), missing(table, key, key, values, drop=False))
    return checked_ids(table, values, key)


def _needed(table: Table, column: str) -> str:
    """A column that embeddings must have, under that name: no setting maps it."""
    try:
        return require(table, column, column)
    except DataError as error:
        raise DataError(f"{str(error).split('. ')[0]}. Embeddings have {NAMES}: rename the column") from None


def _matrix(table: Table, column: str) -> np.ndarray:
    """[n, d] float32 of a column of lists of numbers."""
    values = table.columns[column]
    try:
        values = pa.array(values) if isinstance(values, list) else plain(values)
    except (pa.ArrowException, OverflowError, ValueError) as error:
        raise DataError(f"{table.path}: column '{column}' does not hold lists of numbers ({error})") from None
    if is_string_type(values.type):
        values = pa.array([_of_text(table, row, text) for row, text in enumerate(values.to_pylist())])
    if not is_list_type(values.type) or not _is_number(values.type.value_type):
        raise DataError(f"{table.path}: column '{column}' holds {values.type}; expected lists of numbers")
    lengths = np.asarray(pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False))
    absent = np.asarray(pc.is_null(values).to_numpy(zero_copy_only=False)) | (lengths == 0)
    if absent.any():
        row = int(absent.argmax())
        raise table.error(
            row, f"there is no vector, as in {int(absent.sum()):,} row(s); leave these rows out"
        )
    if (lengths != lengths[0]).any():
        row = int((lengths != lengths[0]).argmax())
        raise table.error(
            row,
            f"the vector has {lengths[row]} number(s), and the first one {lengths[0]}; every vector must have one length",
        )
    inner = pc.list_flatten(values)
    if pa.types.is_float16(inner.type):
        inner = inner.cast(pa.float32())
    flat = inner.cast(pa.float64())
    matrix = np.asarray(flat.to_numpy(zero_copy_only=False), np.float64).reshape(len(lengths), -1)
    with np.errstate(over="ignore"):
        found = matrix.astype(np.float32)
    if not np.isfinite(found).all():
        raise table.error(
            int((~np.isfinite(found)).any(1).argmax()), "the vector has a value that is not finite"
        )
    return found


def _of_text(table: Table, row: int, text: str | None) -> list[float] | None:
    """The numbers that a cell spells: `0.1 0.2`, `0.1|0.2`, `[0.1, 0.2]`; None where it is blank."""
    numbers = [finite_or_none(part) for part in _BETWEEN.split((text or "").strip().strip("[]()").strip())]
    if None in numbers:
        if not (text or "").strip():
            return None
        raise table.error(row, f"vector '{str(text)[:60]}' is no row of numbers; expected lists of numbers")
    return numbers  # type: ignore[return-value]


def _is_number(kind: pa.DataType) -> bool:
    return (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    )


def _refuse_repeats(table: Table, key: str, ids: pa.Array, times: np.ndarray) -> None:
    codes = (
        pc.dictionary_encode(ids).combine_chunks()
        if isinstance(ids, pa.ChunkedArray)
        else pc.dictionary_encode(ids)
    )
    pairs = np.stack([np.asarray(codes.indices.to_numpy(zero_copy_only=False), np.int64), times], axis=1)
    _, where, counts = np.unique(pairs, axis=0, return_index=True, return_counts=True)
    if (counts > 1).any():
        earlier = int(where[counts > 1].min())
        again = int(np.flatnonzero((pairs == pairs[earlier]).all(1))[1])
        raise table.error(
            again,
            f"{key} '{ids[again].as_py()}' already has a vector of that moment at {table.place(earlier)}; keep one of the rows",
        )

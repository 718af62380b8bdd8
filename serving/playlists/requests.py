"""The door of `prelude playlists`: Parquet files of requests, read a piece at a time, each row checked.

What a whole column or file gets wrong (a missing column, a kind of value that can mean nothing) is an error
before anything is written. What one row gets wrong is a reason beside that row; nothing else stops.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.data.tables import DataError

MILLISECONDS = 100_000_000_000  # as in recsys.data.interactions, which needs pandas
MOST_ITEMS = 1000  # n of a request: a list is made at once, with all others of its micro-batch
MOST_IDS = 100_000  # ids in a list of a row
BATCH_ROWS, READ_ROWS = 8192, 256  # rows that are checked at once, and that are decoded at once
BATCH_BYTES = 8 << 20  # and bytes: whichever is fewer
BUFFER_BYTES = 1 << 20  # of a column chunk being read
TEXTS, NUMBERS, LISTS = ("request_id", "user_id", "query"), ("time", "n"), ("exclude", "allow")
NEEDED = TEXTS
IDS = pa.large_list(pa.large_string())  # large: 64-bit offsets, which no amount of text overflows
# file: number in `Source.files`; row: 1-based; reason: why the row is rejected, or null
SCHEMA = pa.schema(
    [(name, pa.large_string()) for name in TEXTS]
    + [(name, pa.int64()) for name in NUMBERS]
    + [(name, IDS) for name in LISTS]
    + [("file", pa.int32()), ("row", pa.int64()), ("reason", pa.large_string())]
)


@dataclass(frozen=True)
class RequestFile:
    """A file of the input, as its footer describes it."""

    name: str  # relative to the input
    size_bytes: int
    rows: int
    footer_sha256: str


class Source:
    """One Parquet file, or all `*.parquet` below a folder (names that begin with `.` or `_` are left out).

    Opening reads the footers alone. Raises `DataError` for what no row could be read from.
    """

    def __init__(self, path: Path):
        self.path = path
        if path.is_dir():
            found = sorted(path.rglob("*.parquet"), key=lambda file: file.relative_to(path).as_posix())
            paths = [file for file in found if not _hidden(file.relative_to(path)) and file.is_file()]
            self.root = path
            if not paths:
                raise DataError(f"{path} has no *.parquet files; give a Parquet file or a folder of them")
        elif path.is_file():
            paths, self.root = [path], path.parent
        else:
            raise DataError(f"{path} does not exist; give a Parquet file of requests or a folder of them")
        self.files = [_opened(file, file.relative_to(self.root).as_posix()) for file in paths]
        self.rows = sum(file.rows for file in self.files)
        if not self.rows:
            raise DataError(f"{path} holds no requests: every file has 0 rows")

    def tables(self, default_n: int) -> Iterator[pa.Table]:
        """The rows as tables of `SCHEMA`, file by file: thousands at a time, fewer where they are large."""
        for number, file in enumerate(self.files):
            path, first = self.root / file.name, 1
            try:
                for batch in _batches(path):
                    yield checked(batch, number, first, default_n)
                    first += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                raise DataError(
                    f"{path}: damaged at or after row {first} ({_line(error)}); make or download it again"
                ) from None


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The columns that a request may have, within `BATCH_ROWS` and,
    save for `READ_ROWS` rows that are larger, `BATCH_BYTES`.
    """
    opened = pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)
    groups = [opened.metadata.row_group(group) for group in range(opened.metadata.num_row_groups)]
    row_bytes = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
    at_once = max(1, min(READ_ROWS, BATCH_BYTES // max(row_bytes, 1)))
    wanted = [name for name in SCHEMA.names if name in opened.schema_arrow.names]
    held: list[pa.RecordBatch] = []
    for batch in opened.iter_batches(at_once, columns=wanted, use_threads=False):
        plain = _decoded(batch)
        rows, size = sum(some.num_rows for some in held), sum(some.nbytes for some in held)
        if held and (rows + plain.num_rows > BATCH_ROWS or size + plain.nbytes > BATCH_BYTES):
            yield pa.concat_batches(held)
            held = []
        held.append(plain)
    if held:
        yield pa.concat_batches(held)


def _decoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Without dictionaries, whose size says nothing of that of the rows, and with 64-bit offsets."""
    columns = []
    for encoded in batch.columns:
        column = encoded.dictionary_decode() if pa.types.is_dictionary(encoded.type) else encoded
        kind = column.type
        large = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}
        if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
            kind = pa.large_list(large.get(kind.value_type, kind.value_type))
        columns.append(column.cast(large.get(kind, kind)))
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _hidden(relative: Path) -> bool:
    return any(part.startswith((".", "_")) for part in relative.parts)


def _opened(path: Path, name: str) -> RequestFile:
    try:
        opened = pq.ParquetFile(path)
        schema, rows = opened.schema_arrow, opened.metadata.num_rows
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(-8, 2)
            file.seek(-8 - int.from_bytes(file.read(4), "little"), 2)
            footer = hashlib.sha256(file.read()).hexdigest()
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet ({_line(error)}); make or download it again"
        ) from None
    if missing := [column for column in NEEDED if column not in schema.names]:
        raise DataError(
            f"{path} has no column '{missing[0]}' (it has {', '.join(schema.names) or 'none'}); requests "
            "need "
            f"{', '.join(NEEDED)} (null where there is none), and may have {', '.join(NUMBERS + LISTS)}"
        )
    for column in (*TEXTS, *NUMBERS, *LISTS):
        if schema.names.count(column) > 1:
            raise DataError(f"{path}: two columns are named '{column}'; rename one of them")
        if column in schema.names:
            _check_kind(path, column, schema.field(column).type)
    return RequestFile(name, size, rows, footer)


def _check_kind(path: Path, column: str, kind: pa.DataType) -> None:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)
    if column in NUMBERS:
        fine, expected = number, "whole seconds since 1970" if column == "time" else "whole numbers"
    elif column in LISTS:
        listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        inner = kind.value_type if listed else kind
        fine = pa.types.is_null(kind) or (
            listed and (pa.types.is_integer(inner) or pa.types.is_null(inner) or _is_text(inner))
        )
        expected = "lists of item ids"
    elif column == "query":
        fine, expected = pa.types.is_null(kind) or _is_text(kind), "text"
    else:
        fine, expected = number or _is_text(kind), "text or whole numbers"
    if not fine:
        raise DataError(f"{path}: column '{column}' holds {kind}; expected {expected}")


def _is_text(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


# -- rows ----------------------------------------------------------------------------------------------------


def checked(batch: pa.RecordBatch, file: int, first_row: int, default_n: int) -> pa.Table:
    """A piece of a file as a table of `SCHEMA`.

    Ids are text (5 and "5" are one id); blank users and queries are null.
    """
    rows = batch.num_rows
    reasons: list[str | None] = [None] * rows

    def because(row: int, reason: str) -> None:
        reasons[row] = reasons[row] or reason

    def column(name: str) -> pa.Array | None:
        return batch.column(name) if name in batch.schema.names else None

    ready: dict[str, pa.Array] = {}
    for name in TEXTS:
        ready[name] = _texts(column(name), name, because)
    for row in np.flatnonzero(_blank(ready["request_id"])).tolist():
        because(row, "request_id is empty; every request needs an id of its own")
    ready["user_id"] = _or_null(pc.utf8_trim_whitespace(ready["user_id"]))
    ready["query"] = _or_null(ready["query"])
    ready["time"] = _numbers(column("time"), rows, 0, MILLISECONDS, because, _bad_time)
    ready["n"] = _numbers(column("n"), rows, 1, MOST_ITEMS + 1, because, _bad_n).fill_null(default_n)
    for name in LISTS:
        ready[name] = _lists(column(name), rows)
        lengths = pc.fill_null(pc.list_value_length(ready[name]), 0).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(lengths > MOST_IDS).tolist():
            because(row, f"{name} has {lengths[row]:,} ids; at most {MOST_IDS:,}")
    ready["file"] = pa.array(np.full(rows, file, np.int32))
    ready["row"] = pa.array(np.arange(first_row, first_row + rows))
    ready["reason"] = pa.array(reasons, pa.large_string())
    return pa.table(ready, schema=SCHEMA)


def _bad_n(value: Any) -> str:
    if value > MOST_ITEMS and value == value // 1:
        return f"n is {value:.0f}; at most {MOST_ITEMS}"
    return f"n is {value:g}; ask for a whole number of items, at least one"


def _bad_time(value: Any) -> str:
    if value >= MILLISECONDS and value != float("inf"):
        return f"time {value:.0f} looks like milliseconds; expected whole seconds since 1970"
    return f"time {value:g} is not a Unix time; expected whole seconds since 1970"


def _texts(values: pa.Array, name: str, because: Callable[[int, str], None]) -> pa.Array:
    """Text of a column of text, bytes, whole numbers, or whole numbers written as 42.0.

    (As pandas writes them beside a null.)
    """
    kind = values.type
    if pa.types.is_floating(kind):
        numbers = values.to_numpy(zero_copy_only=False)
        whole = np.isnan(numbers) | ((np.trunc(numbers) == numbers) & (np.abs(numbers) < 2**53))
        for row in np.flatnonzero(~whole).tolist():
            because(row, f"{name} {numbers[row]:g} is not text or a whole number")
        values = pa.array(np.where(whole, np.nan_to_num(numbers), 0).astype(np.int64), mask=np.isnan(numbers))
    elif _is_text(kind) and not _is_utf8(values):
        decoded = []
        for row, raw in enumerate(values.cast(pa.large_binary()).to_pylist()):
            try:
                decoded.append(None if raw is None else raw.decode())
            except UnicodeDecodeError:
                decoded.append(None)
                because(row, f"{name} is not text: bytes that are not UTF-8 (half a surrogate pair is not)")
        return pa.array(decoded, pa.large_string())
    return values.cast(pa.large_string())


def _is_utf8(values: pa.Array) -> bool:
    try:
        values.cast(pa.large_string()).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _blank(texts: pa.Array) -> np.ndarray:
    """Bool [n]: null, or nothing but white space."""
    empty = pc.equal(pc.utf8_trim_whitespace(texts), "")
    return pc.fill_null(empty, True).to_numpy(zero_copy_only=False)


def _or_null(texts: pa.Array) -> pa.Array:
    return pc.if_else(pa.array(_blank(texts)), pa.scalar(None, pa.large_string()), texts)


def _numbers(values, rows: int, low: int, end: int, because, reason: Callable[[Any], str]) -> pa.Array:
    """Whole numbers from `low` up to `end`, as int64; NaN is how pandas writes null."""
    if values is None or pa.types.is_null(values.type):
        return pa.nulls(rows, pa.int64())
    absent = values.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    numbers = values.fill_null(low).to_numpy(zero_copy_only=False)
    floats = numbers.astype(np.float64)
    fine = absent | ((np.trunc(floats) == floats) & (floats >= low) & (floats < end))
    for row in np.flatnonzero(~fine).tolist():
        because(row, reason(floats[row]))
    return pa.array(np.where(fine & ~absent, numbers, low).astype(np.int64), mask=absent | ~fine)


def _lists(values: pa.Array | None, rows: int) -> pa.Array:
    """Lists of item ids as text. Ids that are not UTF-8 are no item's, and read with the bytes replaced."""
    if values is None or pa.types.is_null(values.type):
        return pa.nulls(rows, IDS)
    inner = values.type.value_type
    if _is_text(inner) and not _is_utf8(values.flatten()):
        raw = values.cast(pa.large_list(pa.large_binary())).to_pylist()
        return pa.array([r and [i and i.decode(errors="replace") for i in r] for r in raw], IDS)
    return values.cast(IDS)


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__

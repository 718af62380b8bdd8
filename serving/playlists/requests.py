"""The door of `prelude playlists`: files of requests, read a piece at a time.

Parquet, of any size, is streamed. What else `recsys.door.sources` reads (CSV, JSON lines, Arrow, packed or in parts) is held in memory,
a file at a time; ids of a list in a cell of text are parted by `|`, or are a JSON list.

What a whole column or file gets wrong (a missing column, a kind of value that can mean nothing) is an error
before anything is written. What one row gets wrong is a reason beside that row; nothing else stops.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.artifacts.manifest import sha256_of
from recsys.door.notices import Notices
from recsys.door.sources import SUFFIXES, read_table, source_files
from recsys.door.tables import DataError, Table, plain
from recsys.door.values import BLANK, NUMBER_BLANK, floats, text_array
from serving.playlists.rows import LISTS, NUMBERS, SCHEMA, TEXTS, checked, wrong_kind

BATCH_ROWS, READ_ROWS = 8192, 256  # rows that are checked at once, and that are decoded at once
BATCH_BYTES = 8 << 20  # and bytes: whichever is fewer
BUFFER_BYTES = 1 << 20  # of a column chunk being read
NEEDED = TEXTS
OTHERS = tuple(suffix for suffix in SUFFIXES if suffix != ".parquet")


@dataclass(frozen=True)
class RequestFile:
    """A file of the input, as its footer (or, where it has none, all of it) describes it."""

    name: str  # relative to the input
    size_bytes: int
    rows: int
    footer_sha256: str
    is_streamed: bool = True  # Parquet
    unread: tuple[str, ...] = ()  # columns that no request has


class Source:
    """One file, or all below a folder (names that begin with `.` or `_` are left out): `*.parquet` if there are any, else the others.

    Opening reads the footers of Parquet files alone. Raises `DataError` for what no row could be read from. `is_clock`: times are those of
    a clock, and not places in an order.
    """

    def __init__(self, path: Path, is_clock: bool = True):
        self.path, self.is_clock = path, is_clock
        if path.is_dir():
            paths, self.root = _files_of(path), path
        elif path.is_file():
            paths, self.root = [path], path.parent
        else:
            raise DataError(f"{path} does not exist; give a file of requests or a folder of them")
        self.files = [_opened(file, file.relative_to(self.root).as_posix()) for file in paths]
        self.rows = sum(file.rows for file in self.files)
        if not self.rows:
            raise DataError(f"{path} holds no requests: every file has 0 rows")
        if unread := sorted({column for file in self.files for column in file.unread}):
            Notices().read(
                f"{path}: columns not read: {', '.join(unread)}; a request may have {', '.join((*TEXTS, *NUMBERS, *LISTS))}"
            )

    def tables(self, default_n: int) -> Iterator[pa.Table]:
        """The rows as tables of `SCHEMA`, file by file: thousands at a time, fewer where they are large."""
        for number, file in enumerate(self.files):
            path, first = self.root / file.name, 1
            try:
                for batch in _batches(path) if file.is_streamed else _pieces(path):
                    yield checked(batch, number, first, default_n, self.is_clock)
                    first += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                raise DataError(
                    f"{path}: damaged at or after row {first} ({_line(error)}); make or download it again"
                ) from None


def _files_of(folder: Path) -> list[Path]:
    """The files of a folder in the order of their names."""
    found = sorted(folder.rglob("*"), key=lambda file: file.relative_to(folder).as_posix())
    files = [file for file in found if not _hidden(file.relative_to(folder)) and file.is_file()]
    streamed = [file for file in files if file.suffix == ".parquet"]
    if streamed:
        return streamed
    if not any(_is_other(file) for file in files):
        raise DataError(f"{folder} has no *.parquet files; give a file of requests or a folder of them")
    return source_files(folder)


def _is_other(path: Path) -> bool:
    return path.name.lower().endswith(OTHERS)


def _pieces(path: Path) -> Iterator[pa.RecordBatch]:
    """The columns that a request may have, of a file that is read whole."""
    whole = _whole(path)
    for first in range(0, whole.num_rows, BATCH_ROWS):
        yield whole.slice(first, BATCH_ROWS)


def _whole(path: Path) -> pa.RecordBatch:
    return _batch_of(read_table(path))


def _batch_of(table: Table) -> pa.RecordBatch:
    columns = {name: _column(table, name) for name in SCHEMA.names if name in table.columns}
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _column(table: Table, name: str) -> pa.Array:
    """A column as Parquet would have it: of a text file, numbers of `n` and lists of cells are spelled out."""
    if name in LISTS:
        values = table.columns[name]
        if not isinstance(values, list) and table.is_list(name):
            return plain(values)
        from recsys.data.catalogue import phrases  # pandas: only where it is needed

        cells = [
            None
            if cell is None or (isinstance(cell, str) and cell.strip().lower() in BLANK)
            else phrases(cell)
            for cell in table.raw(name)
        ]
        return pa.array(cells, pa.large_list(pa.large_string()))
    values = table.array(name)
    if name != "n" or not pa.types.is_string(values.type):
        return values
    texts = text_array(table, name, NUMBER_BLANK)
    numbers = floats(texts)
    bad = np.isnan(numbers) & ~pc.is_null(texts).to_numpy(zero_copy_only=False)
    if bad.any():
        row = int(bad.argmax())
        raise table.error(row, f"n '{texts[row].as_py()[:60]}' is not a number; expected whole numbers")
    return pa.array(numbers, mask=np.isnan(numbers))


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
    large = {
        pa.string(): pa.large_string(),
        pa.string_view(): pa.large_string(),
        pa.binary(): pa.large_binary(),
        pa.binary_view(): pa.large_binary(),
    }
    columns = []
    for encoded in batch.columns:
        column = plain(encoded)
        kind = column.type
        if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
            kind = pa.large_list(large.get(kind.value_type, kind.value_type))
        columns.append(column.cast(large.get(kind, kind)))
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _hidden(relative: Path) -> bool:
    return any(part.startswith((".", "_")) for part in relative.parts)


def _opened(path: Path, name: str) -> RequestFile:
    if _is_other(path):
        table = read_table(path)
        whole = _batch_of(table)
        _check_columns(path, whole.schema, list(table.columns))
        return RequestFile(
            name, path.stat().st_size, whole.num_rows, sha256_of(path), False, _unread(list(table.columns))
        )
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
    _check_columns(path, schema, schema.names)
    return RequestFile(name, size, rows, footer, True, _unread(schema.names))


def _unread(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in (*TEXTS, *NUMBERS, *LISTS))


def _check_columns(path: Path, schema: pa.Schema, there: Sequence[str]) -> None:
    if missing := [column for column in NEEDED if column not in schema.names]:
        raise DataError(
            f"{path} has no column '{missing[0]}' (it has {', '.join(there) or 'none'}); requests "
            "need "
            f"{', '.join(NEEDED)} (null where there is none), and may have {', '.join(NUMBERS + LISTS)}"
        )
    for column in (*TEXTS, *NUMBERS, *LISTS):
        if schema.names.count(column) > 1:
            raise DataError(f"{path}: two columns are named '{column}'; rename one of them")
        if column in schema.names:
            kind = schema.field(column).type
            if (expected := wrong_kind(column, kind)) is not None:
                raise DataError(f"{path}: column '{column}' holds {kind}; expected {expected}")


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__

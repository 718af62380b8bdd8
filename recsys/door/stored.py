"""Columns of Parquet files that stay on disk and are read a piece at a time, so that a folder may be larger than memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.door.tables import DataError, Stored, Table, plain

PIECE = 1 << 20  # rows of a piece; no result depends on it
Span = tuple[str, int]  # a file, and the number of a row group in it


def stored_table(path: Path, files: Sequence[Path]) -> Table | None:
    """The Parquet `files` of `path` as one table whose columns are read when they are asked for.

    None where they have to be read whole: a file that cannot be opened or is empty, columns or types that differ between files, a
    name that Parquet itself reads as a path, a type without a plain form. Who then reads them whole says what is wrong, by name.
    """
    opened = [_opened(file) for file in files]
    heads = [(schema, rows) for schema, rows in opened if schema is not None]
    if not heads or len(heads) < len(opened):
        return None
    with_rows = [(file, *head) for file, head in zip(files, heads, strict=True) if head[1]]
    if not with_rows or any(schema != with_rows[0][1] for _, schema, _ in with_rows):
        return None
    schema = with_rows[0][1]
    if len(set(schema.names)) < len(schema.names) or any("." in name for name in schema.names):
        return None
    starts = np.cumsum([0, *(rows for _, _, rows in with_rows)]).tolist()

    def place(row: int) -> str:
        part = bisect_right(starts, row) - 1
        return f"{with_rows[part][0]} row {row - starts[part] + 1}"

    found = [file for file, _, _ in with_rows]
    columns: dict[str, Stored] = {}
    try:
        for field in schema:
            columns[field.name] = StoredColumn(found, field, starts[-1])
    except (pa.ArrowException, TypeError):
        return None
    partitions = [hive_partitions(file.relative_to(path).parts[:-1]) for file in found]
    if any(one.keys() != partitions[0].keys() for one in partitions):
        return None
    twice = [name for name in partitions[0] if name in columns]
    for name in partitions[0].keys() - columns.keys():
        columns[name] = PartitionColumn([one[name] for one in partitions], [rows for *_, rows in with_rows])
    empty = len(heads) - len(with_rows)
    said = [f"{path}: {len(with_rows)} file(s)" + (f", and {empty} without rows" if empty else "")]
    said += [
        f"{found[0].parent}: the files have a column '{name}', so the folder's name is not read"
        for name in twice
    ]
    return Table(path, dict(columns), starts[-1], place, said if path.is_dir() else [])


def hive_partitions(folders: Sequence[str]) -> dict[str, str | None]:
    """The columns that folders named `column=value` say, as text."""
    found: dict[str, str | None] = {}
    for folder in folders:
        name, equals, value = folder.partition("=")
        if equals:
            found.setdefault(name, None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value))
    return found


class StoredColumn(Stored):
    """One column [n] of Parquet files, one after the other."""

    def __init__(self, files: Sequence[Path], field: pa.Field, rows: int):
        self._files, self._name, self._rows = files, field.name, rows
        self.type = plain(pa.array([], field.type)).type

    def __len__(self) -> int:
        return self._rows

    def pieces(self) -> Iterator[pa.Array]:
        waiting: list[pa.Array] = []
        for file in self._files:
            try:
                with pq.ParquetFile(file) as opened:
                    for batch in opened.iter_batches(PIECE, columns=[self._name]):
                        batch.validate(full=True)
                        waiting.append(plain(batch.column(0)))
                        if sum(map(len, waiting)) >= PIECE:
                            yield plain(pa.chunked_array(waiting))
                            waiting = []
            except (pa.ArrowException, OSError) as error:
                line = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise DataError(
                    f"{file} cannot be read as Parquet ({line}); make or download it again"
                ) from None
        if waiting:
            yield plain(pa.chunked_array(waiting))

    def spans(self) -> list[list[Span]]:
        """The column cut where row groups end, into pieces of `PIECE` rows or a little more: what somebody else may read (`read_span`)."""
        pieces: list[list[Span]] = []
        waiting = PIECE
        for file in self._files:
            with pq.ParquetFile(file) as opened:
                sizes = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
            for group, size in enumerate(sizes):
                if waiting >= PIECE:
                    pieces.append([])
                    waiting = 0
                pieces[-1].append((str(file.absolute()), group))
                waiting += size
        return pieces


def read_span(span: Sequence[Span], name: str) -> pa.Array:
    """The rows [n] of a column in some row groups, one after the other."""
    found = []
    for file, group in span:
        with pq.ParquetFile(file) as opened:
            column = opened.read_row_group(group, columns=[name]).column(0)
        column.validate(full=True)
        found += column.chunks
    return plain(pa.chunked_array(found))


class PartitionColumn(Stored):
    """A column of text that has one value in each file."""

    type = pa.string()

    def __init__(self, values: Sequence[str | None], rows: Sequence[int]):
        self._values, self._rows = values, rows

    def __len__(self) -> int:
        return sum(self._rows)

    def pieces(self) -> Iterator[pa.Array]:
        for value, rows in zip(self._values, self._rows, strict=True):
            yield pa.array([value] * rows, pa.string())


def _opened(file: Path) -> tuple[pa.Schema | None, int]:
    try:
        with pq.ParquetFile(file) as opened:
            return opened.schema_arrow.remove_metadata(), opened.metadata.num_rows
    except (pa.ArrowException, OSError, ValueError):
        return None, 0

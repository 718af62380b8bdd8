"""A path becomes a `Table`: a file by its suffix, or a folder of parts.

.csv .tsv .jsonl .json     text, also packed: .gz .zst .bz2 .lz4
.parquet                   Parquet; .arrow .feather: Arrow files and streams
.inter .item .user …       RecBole's atomic files
a folder                   parts of one kind, in the order of their names, hive partitions (`day=2026-01-31/`) as columns of text; or
                           a data set that Hugging Face's `datasets` saved to disk
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from recsys.door.delimited import read_atomic, read_delimited
from recsys.door.json_lines import read_json_lines
from recsys.door.stored import hive_partitions, stored_table
from recsys.door.tables import DataError, Table, plain, refuse_twins
from recsys.door.text_files import PACKED

TEXT = (".csv", ".tsv", ".jsonl", ".json")
BINARY = (".parquet", ".arrow", ".feather")
ATOMIC = (".inter", ".item", ".user", ".kg", ".link", ".net")
DEEPEST = 20  # folders in folders
SUFFIXES = (*TEXT, *(f"{name}{packed}" for name in TEXT for packed in PACKED), *BINARY, *ATOMIC)


def read_table(
    path: str | Path,
    delimiter: str | None = None,
    quoting: bool = True,
    encoding: str = "utf-8",
    stored: bool = False,
) -> Table:
    """Read a file by its suffix, a folder of parts, or a file as delimited text when a `delimiter` is given.

    `stored`: columns of Parquet files may stay on disk (`Table.pieces`), where their files are alike. Raises `DataError` for what is
    missing, empty, header-only, damaged, ragged or in another encoding.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist; give the path of a file that does")
    table = _stored(path) if stored and delimiter is None else None
    if table is None:
        table = _folder(path) if path.is_dir() else _file(path, delimiter, quoting, encoding)
    if table.n_rows == 0:
        raise DataError(f"{path} has no rows; nothing can be learned from it")
    return table


def _stored(path: Path) -> Table | None:
    """Parquet, left on disk; None of anything else."""
    files = source_files(path)
    table = stored_table(path, files) if _kind(files[0]) == ".parquet" else None
    if table is not None and path.is_dir():
        table.reading[0] += _left_out(path, files)
    return table


def _named_twice(path: Path, name: str) -> str:
    return f"{path.parent}: the files have a column '{name}', so the folder's name is not read"


def source_files(path: Path) -> list[Path]:
    """The files that `read_table(path)` reads: the path itself, or a folder's parts in the order of their names.

    Raises `DataError` for a folder without any, or with parts of several kinds.
    """
    if not path.is_dir():
        return [path]
    saved = path / "state.json"
    if (path / "dataset_dict.json").exists():
        splits = ", ".join(sorted(entry.name for entry in path.iterdir() if entry.is_dir()))
        raise DataError(
            f"{path} holds several data sets ({splits}); give the path of one, such as {path}/{splits.split(', ')[0]}"
        )
    found = [file for file in _below(path) if not _hidden(file.relative_to(path))]
    parts = [file for file in found if _is_part(file)]
    if not parts:
        raise DataError(
            f"{path} is a directory without parts (found {', '.join(file.name for file in found[:3]) or 'nothing'}); give a file, or a "
            f"folder of files of one kind: {' '.join((*TEXT, *BINARY))}"
        )
    if saved.exists() and any(_kind(file) == ".arrow" for file in parts):
        return [file for file in parts if _kind(file) == ".arrow"]
    kinds = {_kind(file): file for file in reversed(parts)}
    if len(kinds) > 1:
        (one, a), (two, b) = sorted(kinds.items())[:2]
        raise DataError(
            f"{path} has parts of two kinds, {one} ({a.name}) and {two} ({b.name}); keep one kind in a folder"
        )
    return parts


def _below(path: Path) -> list[Path]:
    """Every file of a folder, by name; folders that are links are followed (a link to nothing is a file that cannot be read)."""
    found: list[Path] = []
    for folder, folders, names in os.walk(path, followlinks=True):
        if len(Path(folder).relative_to(path).parts) > DEEPEST:
            raise DataError(
                f"{folder} lies more than {DEEPEST} folders deep (a link to a folder above it?); give a folder of parts"
            )
        folders.sort()
        found += [file for name in names if (file := Path(folder) / name).is_file() or file.is_symlink()]
    return sorted(found, key=lambda file: file.relative_to(path).as_posix())


def _is_part(file: Path) -> bool:
    return _kind(file) in (*TEXT, *BINARY) and file.name not in ("state.json", "dataset_info.json")


def _left_out(path: Path, read: Sequence[Path]) -> str:
    """What of a folder is no part, for people to read: other kinds, and what begins with `_` or `.` though it could be a part."""
    taken = set(read)
    others = [
        file.relative_to(path).as_posix()
        for file in _below(path)
        if file not in taken
        and (_is_part(file) or not _hidden(file.relative_to(path)))
        and file.name not in ("state.json", "dataset_info.json")
    ]
    if not others:
        return ""
    return f"; {len(others)} other file(s) are not read ({', '.join(others[:3])}{', …' if len(others) > 3 else ''})"


def source_hash(path: Path) -> str:
    """The sha256 of a file, or of the names and hashes of a folder's parts. Raises `OSError` for what cannot be read."""
    parts = []
    for file in source_files(path):
        with open(file, "rb") as opened:
            parts.append(
                (file.relative_to(path).as_posix(), hashlib.file_digest(opened, "sha256").hexdigest())
            )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest() if path.is_dir() else parts[0][1]


def _hidden(relative: Path) -> bool:
    return any(part.startswith((".", "_")) for part in relative.parts)


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return (
        suffixes[-2]
        if suffixes[-1:] and suffixes[-1] in PACKED and len(suffixes) > 1
        else "".join(suffixes[-1:])
    )


def _file(path: Path, delimiter: str | None, quoting: bool, encoding: str) -> Table:
    kind = _kind(path)
    if delimiter is not None:
        return read_delimited(path, delimiter, quoting, encoding)
    readers: dict[str, Callable[[], Table]] = {
        ".csv": lambda: read_delimited(path, ",", quoting, encoding),
        ".tsv": lambda: read_delimited(path, "\t", quoting, encoding),
        ".jsonl": lambda: read_json_lines(path),
        ".json": lambda: read_json_lines(path),
        ".parquet": lambda: _parquet(path),
        ".arrow": lambda: _arrow(path),
        ".feather": lambda: _arrow(path),
    } | {suffix: lambda: read_atomic(path) for suffix in ATOMIC}
    if kind not in readers:
        raise DataError(f"{path}: cannot tell the format from the name; expected one of {' '.join(SUFFIXES)}")
    return readers[kind]()


def _parquet(path: Path) -> Table:
    return _of_arrow(path, "Parquet", lambda: pa.parquet.ParquetFile(path).read())


def _arrow(path: Path) -> Table:
    def read() -> pa.Table:
        with pa.memory_map(str(path)) as file:
            try:
                return pa.ipc.open_file(file).read_all()
            except pa.ArrowInvalid:
                file.seek(0)
                return pa.ipc.open_stream(file).read_all()

    return _of_arrow(path, "an Arrow file", read)


def _of_arrow(path: Path, what: str, read: Callable[[], pa.Table]) -> Table:
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; it needs columns and rows")
    try:
        table = read()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read as {what} ({line}); make or download it again") from None
    refuse_twins(table.column_names, str(path))
    columns = {name: plain(column) for name, column in zip(table.column_names, table.columns, strict=True)}
    return Table(path, columns, table.num_rows, lambda row: f"{path} row {row + 1}")


def _folder(path: Path) -> Table:
    """The parts one after the other; every part has the columns of the first."""
    files = source_files(path)
    tables = [
        _with_partitions(_file(file, None, True, "utf-8"), file.relative_to(path).parts[:-1])
        for file in files
    ]
    empty = sum(not table.n_rows for table in tables)
    tables = [table for table in tables if table.n_rows]
    if not tables:
        return Table(path, {}, 0, lambda row: str(path))
    names = set(tables[0].columns)
    for table in tables[1:]:
        if odd := sorted(set(table.columns) ^ names):
            has, lacks = (table, tables[0]) if odd[0] in table.columns else (tables[0], table)
            raise DataError(
                f"{has.path} has a column '{odd[0]}' and {lacks.path} has not; parts need the same columns"
            )
    starts = np.cumsum([0, *(table.n_rows for table in tables)]).tolist()

    def place(row: int) -> str:
        part = bisect_right(starts, row) - 1
        return tables[part].place(row - starts[part])

    columns = {name: _joined([table.columns[name] for table in tables]) for name in tables[0].columns}
    said = list(dict.fromkeys(line for table in tables for line in table.reading))
    first = (
        f"{path}: {len(tables)} file(s)"
        + (f", and {empty} without rows" if empty else "")
        + _left_out(path, files)
    )
    return Table(path, columns, starts[-1], place, [first, *said[:3]])


def _with_partitions(table: Table, folders: tuple[str, ...]) -> Table:
    """The table with a column of text for each folder named `column=value`."""
    for name, value in hive_partitions(folders).items():
        if name not in table.columns:
            table.columns[name] = pa.array([value] * table.n_rows, pa.string())
        else:
            table.reading.append(_named_twice(table.path, name))
    return table


def _joined(parts: list[Any]) -> Any:
    if any(isinstance(part, list) for part in parts):
        return [value for part in parts for value in (part if isinstance(part, list) else part.to_pylist())]
    kinds = {part.type for part in parts}
    if len(kinds) == 1:
        return pa.chunked_array(
            [
                chunk
                for part in parts
                for chunk in (part.chunks if isinstance(part, pa.ChunkedArray) else [part])
            ]
        ).combine_chunks()
    return [value for part in parts for value in part.to_pylist()]

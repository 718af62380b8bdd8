"""CSV, TSV and RecBole's atomic files: Arrow parses, and Python's reader, which is slow, says where a row stands when that is needed.

Quotes inside quoted fields are doubled (RFC 4180), or escaped by a backslash as Spark and MySQL write them: where only the second
reading makes a table, it is taken, and said.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from recsys.door.tables import DataError, Table, refuse_twins
from recsys.door.text_files import text_bytes
from recsys.door.values import finite_or_none

ATOMIC = ("token", "token_seq", "float", "float_seq")  # types in the header of RecBole's atomic files


def read_delimited(path: Path, delimiter: str, quoting: bool = True, encoding: str = "utf-8") -> Table:
    """A file of one header line and rows of as many fields.

    Raises `DataError` for one that is empty, header-only, ragged, in another encoding, or that leaves a quote open.
    """
    data = text_bytes(path, encoding)
    escape: str | None = None
    reading: list[str] = []
    if quoting and b'\\"' in data:
        escape, reading = _escape(path, data, encoding, delimiter)

    def records() -> Iterator[tuple[int, list[str]]]:
        """(line the record starts at, its fields), blank lines left out, as the fast parser reads them."""
        return _records(data, encoding, delimiter, quoting, escape)

    def place(row: int) -> str:
        for index, (line, _) in enumerate(records()):
            if index == row + 1:
                return f"{path}:{line}"
        raise AssertionError(f"{path} has no row {row}")

    line, header = next(records())
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(data),
            read_options=pa.csv.ReadOptions(
                block_size=min(len(data) + 1, 2**31 - 1), encoding=encoding, use_threads=False
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if quoting else False,
                escape_char=escape or False,
                newlines_in_values=quoting,
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types={name: pa.string() for name in header}, null_values=[], strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        if "cannot infer number of columns" in str(error):
            raise DataError(f"{path} has a header but no rows; nothing can be learned from it") from None
        raise _ragged(path, header, records()) or DataError(f"{path} cannot be parsed ({error})") from None
    if quoting and escape is None and table.num_rows + 1 < sum(1 for text in data.splitlines() if text):
        fault = _open_quote(data, encoding, delimiter, None)
        if fault:
            raise DataError(f"{path}:{fault[0]}: a quote is left open ({fault[1]}); close it, or double it")
    names = [name.strip() for name in table.column_names]
    refuse_twins(names, f"{path}:{line}")
    return Table(path, dict(zip(names, table.columns, strict=True)), table.num_rows, place, reading)


def read_atomic(path: Path) -> Table:
    """A file of RecBole's (`.inter`, `.item`, …): tabs, and a header of `name:type`. A `token_seq` is its words, split at spaces.

    A title is words too, so of an item file the first `token_seq` whose name holds "title" or "name" is joined again, and is called
    `title` where no column is.
    """
    table = read_delimited(path, "\t", quoting=False)
    columns, said = {}, []
    for name, values in table.columns.items():
        bare, _, kind = name.rpartition(":")
        if kind not in ATOMIC or not bare:
            raise DataError(
                f"{path}:1: column '{name}' has no type; an atomic file's header reads name:type, with one of {', '.join(ATOMIC)}"
            )
        is_title = "title" in bare or bare == "name" or bare.endswith("_name")
        if kind == "token_seq" and not is_title:
            columns[bare] = [text.split() for text in values.to_pylist()]
        elif kind == "float_seq":
            columns[bare] = _number_lists(table, name, bare)
        elif is_title and "title" not in columns and path.suffix == ".item":
            columns["title"] = values
            if bare != "title":
                said.append(f"{path}: column '{bare}' is read as the title")
        else:
            columns[bare] = values
    refuse_twins(list(columns), f"{path}:1")
    return Table(
        path, columns, table.n_rows, table.place, [f"{path}: read as an atomic file of RecBole", *said]
    )


def _number_lists(table: Table, column: str, ours: str) -> list[list[float]]:
    found = []
    for row, text in enumerate(table.columns[column].to_pylist()):
        numbers = [finite_or_none(part) for part in text.split()]
        if None in numbers:
            raise table.error(row, f"{ours} '{text[:60]}' is not a row of numbers (its type is float_seq)")
        found.append(numbers)
    return found  # type: ignore[return-value]


def _records(
    data: bytes, encoding: str, delimiter: str, quoting: bool, escape: str | None
) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(sys.maxsize)
    text = io.TextIOWrapper(io.BytesIO(data), encoding=encoding, newline="")
    reader = csv.reader(
        text,
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE,
        escapechar=escape,
        doublequote=escape is None,
    )
    start = 1
    for fields in reader:
        if fields:
            yield start, fields
        start = reader.line_num + 1


def _escape(path: Path, data: bytes, encoding: str, delimiter: str) -> tuple[str | None, list[str]]:
    """The backslash, and what was said of it, if the file can be read with it as the escape, and not without."""
    if _open_quote(data, encoding, delimiter, None) is None:
        return None, []
    if _open_quote(data, encoding, delimiter, "\\") is not None:
        return None, []  # neither reading works; the strict one says where
    return "\\", [
        f'{path}: quotes inside fields are escaped by a backslash (\\"), as Spark and MySQL write them; read so'
    ]


def _open_quote(data: bytes, encoding: str, delimiter: str, escape: str | None) -> tuple[int, str] | None:
    """The line of the first record that a strict reader cannot read, and why; None: all can be read, with the header's fields."""
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(
        io.StringIO(data.decode(encoding), newline=""),
        delimiter=delimiter,
        strict=True,
        escapechar=escape,
        doublequote=escape is None,
    )
    start, width = 1, 0
    try:
        for fields in reader:
            width = width or len(fields)
            if escape is not None and fields and len(fields) != width:
                return start, f"{len(fields)} fields"
            start = reader.line_num + 1
    except csv.Error as error:
        return start, str(error)
    return None


def _ragged(path: Path, header: Sequence[str], records: Iterator[tuple[int, list[str]]]) -> DataError | None:
    for line, fields in records:
        if len(fields) != len(header):
            return DataError(
                f"{path}:{line}: {len(fields)} field(s), but the header has {len(header)}; "
                f"mend the line (quote a field that holds the separator, and close every quote)"
            )
    return None

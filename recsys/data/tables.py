"""Reading CSV, TSV, JSON lines and Parquet into columns of text, strictly, with a place for every row.

Reading is vectorised; where a row stands in its file is worked out only when a message needs it.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import json
import math
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".json.gz")
BLANK = ("", "nan", "NaN", "null", "NULL", "None", "<NA>")  # how programs write "nothing" into text files
ONE_OBJECT = "expected one object a line (an array can be split with: jq -c '.[]')"

_DECODE = json.JSONDecoder().decode


class DataError(ValueError):
    """Input that cannot be used. The message names the file, the line or row, the problem, and the remedy."""


class Table:
    """The columns of one file, as they stand there.

    `place(row)` names a row (0-based, header and blank lines not counted) as `file:line` (1-based, the header
    counted) or, in Parquet, as `file row n` (1-based).
    """

    def __init__(self, path: Path, columns: dict[str, Any], n_rows: int, place: Callable[[int], str]):
        self.path, self.columns, self.n_rows, self.place = path, columns, n_rows, place

    def error(self, row: int, problem: str) -> DataError:
        return DataError(f"{self.place(row)}: {problem}")

    def text(self, column: str, blank: Sequence[str] = BLANK) -> pa.Array:
        """The column as trimmed strings [n]; null where there is nothing, or one of `blank`."""
        values = self.columns[column]
        if isinstance(values, list):
            values = self._plain(column, values)
        values = pc.utf8_trim_whitespace(_as_strings(values, self.path, column))
        return pc.if_else(pc.is_in(values, value_set=pa.array(blank)), pa.scalar(None, pa.string()), values)

    def raw(self, column: str) -> list[Any]:
        """The column as Python values: strings, numbers, lists, None."""
        values = self.columns[column]
        return values if isinstance(values, list) else values.to_pylist()

    def _plain(self, column: str, values: list[Any]) -> pa.Array:
        try:
            array = pa.array(values)
        except (pa.ArrowException, OverflowError):  # numbers and strings side by side
            array = None
        if array is None or pa.types.is_nested(array.type):
            array = pa.array(
                [self._scalar(row, column, value) for row, value in enumerate(values)], pa.string()
            )
        return array

    def _scalar(self, row: int, column: str, value: Any) -> str | None:
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, list | dict):
            raise self.error(row, f"{column} is {json.dumps(value)[:60]}; expected one plain value")
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        return str(value)


def read_table(
    path: str | Path, delimiter: str | None = None, quoting: bool = True, encoding: str = "utf-8"
) -> Table:
    """Read a file by its suffix (`SUFFIXES`), or as delimited text when a `delimiter` is given.

    Raises `DataError` for a file that is missing, empty, header-only, damaged, ragged or in another encoding.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist; give the path of a file that does")
    if path.is_dir():
        raise DataError(f"{path} is a directory; give the path of one file in it")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else "".join(suffixes[-1:])
    if delimiter is None and kind not in (".csv", ".tsv", ".jsonl", ".json", ".parquet"):
        raise DataError(f"{path}: cannot tell the format from the name; expected one of {' '.join(SUFFIXES)}")
    if delimiter is None and kind == ".parquet":
        table = _read_parquet(path)
    elif delimiter is None and kind in (".jsonl", ".json"):
        table = _read_json_lines(path)
    else:
        table = _read_delimited(path, delimiter or ("\t" if kind == ".tsv" else ","), quoting, encoding)
    if table.n_rows == 0:
        raise DataError(f"{path} has no rows; nothing can be learned from it")
    return table


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


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file. Raises `DataError` if it is missing, empty or in another encoding."""
    if not path.is_file():
        raise DataError(f"{path} is not a file; give the path of one")
    data = _read_bytes(path)
    _check_encoding(path, data, "utf-8")
    return data.decode("utf-8-sig").splitlines()


# -- text files ----------------------------------------------------------------------------------------------


def _read_bytes(path: Path) -> bytes:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error}); is it whole, and are you allowed to read it?"
        ) from None
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}); make or download it again") from None
    if not data.strip():
        raise DataError(f"{path} is empty; it needs a header and rows")
    return data


def _check_encoding(path: Path, data: bytes, encoding: str) -> None:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(
            f"{path}:1: the file is UTF-16; save it as UTF-8, for example: iconv -f utf-16 -t utf-8"
        )
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise DataError(f"{path}:{line}: a zero byte; this is not a text file, or it is damaged")
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not {encoding.upper()}; save the file as "
            f"UTF-8, for example: iconv -f latin1 -t utf-8"
        ) from None


def _read_delimited(path: Path, delimiter: str, quoting: bool, encoding: str) -> Table:
    data = _read_bytes(path)
    _check_encoding(path, data, encoding)
    data = data.removeprefix(b"\xef\xbb\xbf")

    def records() -> Any:
        """(line the record starts at, its fields), blank lines left out, as the fast parser reads them."""
        csv.field_size_limit(sys.maxsize)
        text = io.TextIOWrapper(io.BytesIO(data), encoding=encoding, newline="")
        reader = csv.reader(
            text, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE
        )
        start = 1
        for fields in reader:
            if fields:
                yield start, fields
            start = reader.line_num + 1

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
                delimiter=delimiter, quote_char='"' if quoting else False, newlines_in_values=quoting
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types={name: pa.string() for name in header}, null_values=[], strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        if "cannot infer number of columns" in str(error):
            raise DataError(f"{path} has a header but no rows; nothing can be learned from it") from None
        raise _ragged(path, header, records()) or DataError(f"{path} cannot be parsed ({error})") from None
    if quoting and table.num_rows + 1 < sum(1 for text in data.splitlines() if text):
        _check_quotes(path, data, encoding, delimiter)
    names = [name.strip() for name in table.column_names]
    _refuse_twins(names, f"{path}:{line}")
    return Table(path, dict(zip(names, table.columns, strict=True)), table.num_rows, place)


def _check_quotes(path: Path, data: bytes, encoding: str, delimiter: str) -> None:
    """Rows that span lines are allowed; a quote left open, which swallows rows, is not."""
    reader = csv.reader(io.StringIO(data.decode(encoding), newline=""), delimiter=delimiter, strict=True)
    start = 1
    try:
        for _ in reader:
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{start}: a quote is left open ({error}); close it, or double it") from None


def _refuse_twins(names: list[str], where: str) -> None:
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise DataError(f"{where}: two columns are named '{twins[0]}'; rename one of them")


def _ragged(path: Path, header: Sequence[str], records: Any) -> DataError | None:
    for line, fields in records:
        if len(fields) != len(header):
            return DataError(
                f"{path}:{line}: {len(fields)} field(s), but the header has {len(header)}; "
                f"mend the line (quote a field that holds the separator, and close every quote)"
            )
    return None


def _read_json_lines(path: Path) -> Table:
    data = _read_bytes(path)
    _check_encoding(path, data, "utf-8")
    texts = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    lines = [number for number, text in enumerate(texts, start=1) if text.strip()]
    rows = [_json_object(path, number, texts[number - 1]) for number in lines]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return Table(path, columns, len(rows), lambda row: f"{path}:{lines[row]}")


def _json_object(path: Path, number: int, text: bytes) -> dict[str, Any]:
    try:
        value = _DECODE(text.decode())
    except (ValueError, RecursionError) as error:  # ValueError: also numbers of thousands of digits
        raise DataError(f"{path}:{number}: not JSON ({error}); {ONE_OBJECT}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}:{number}: a JSON {type(value).__name__}; {ONE_OBJECT}")
    if b"\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # JSON can spell half of a surrogate pair, which no file of ours can hold
            raise DataError(f"{path}:{number}: half a character (a lone \\ud800-\\udfff); mend it") from None
    return value


# -- Parquet -------------------------------------------------------------------------------------------------


def _read_parquet(path: Path) -> Table:
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; it needs columns and rows")
    try:
        table = pa.parquet.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}); make or download it again") from None
    _refuse_twins(table.column_names, str(path))
    columns = dict(zip(table.column_names, table.columns, strict=True))
    return Table(path, columns, table.num_rows, lambda row: f"{path} row {row + 1}")


def _as_strings(values: Any, path: Path, column: str) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    kind = values.type
    if pa.types.is_dictionary(kind):
        values = values.dictionary_decode()
        kind = values.type
    if pa.types.is_floating(kind):
        # NaN is how pandas says "nothing"
        values = pc.if_else(pc.is_finite(values), values, pa.scalar(None, kind))
        largest = pc.max(pc.abs(values)).as_py()
        if (largest or 0) < 2**53 and pc.all(pc.equal(pc.trunc(values), values)).as_py() is not False:
            values = values.cast(pa.int64())  # 42.0 is how pandas writes 42 beside a missing value
    try:
        return values.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(f"{path}: column '{column}' holds {kind}; expected text or whole numbers") from None


def finite_or_none(text: str) -> float | None:
    """The finite number that `text` spells, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None

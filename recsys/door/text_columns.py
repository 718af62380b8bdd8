"""Which columns of an items file are words: texts are, and numbers, dates, links, bytes, truth values and vectors are not."""

from __future__ import annotations

import datetime
import decimal
import re
from typing import Any

import pyarrow as pa

from recsys.door.tables import Table, is_list_type
from recsys.door.values import finite_or_none

_LINK = re.compile(r"(https?|ftp|s3|gs|file)://\S+|data:\S+", re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?)?\s*(Z|UTC|[+-]\d{2}:?\d{2})?")


def not_words(table: Table, column: str) -> str | None:
    """What the column holds instead of words, for people to read; None if it holds words (texts, or lists of texts)."""
    values = table.columns[column]
    if not isinstance(values, list):
        by_type = _of_type(values.type)
        if by_type is not None:
            return by_type
    cells = [cell for cell in table.raw(column) if not _is_nothing(cell)]
    if not cells:
        return "nothing"
    kinds = {_of_cell(cell) for cell in cells}
    return kinds.pop() if len(kinds) == 1 else _mixed(kinds)


def _of_type(kind: pa.DataType) -> str | None:
    if pa.types.is_dictionary(kind) or is_list_type(kind):
        inner = _of_type(kind.value_type)
        return f"lists of {inner}" if inner and is_list_type(kind) else inner
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "numbers"
    if pa.types.is_boolean(kind):
        return "truth values"
    if pa.types.is_temporal(kind):
        return "dates"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return "bytes"
    return None


def _of_cell(cell: Any) -> str | None:
    if isinstance(cell, str):
        text = cell.strip()
        if finite_or_none(text) is not None:
            return "numbers"
        if _LINK.fullmatch(text):
            return "links"
        return "dates" if _DATE.fullmatch(text) else None
    if isinstance(cell, bool):
        return "truth values"
    if isinstance(cell, int | float | decimal.Decimal):
        return "numbers"
    if isinstance(cell, datetime.date | datetime.time | datetime.timedelta):
        return "dates"
    if isinstance(cell, bytes):
        return "bytes"
    if isinstance(cell, list):
        kinds = {_of_cell(part) for part in cell if not _is_nothing(part)}
        return f"lists of {kinds.pop()}" if len(kinds) == 1 and None not in kinds else None
    return None  # an object: its keys and values are words


def _mixed(kinds: set[str | None]) -> str | None:
    return None if None in kinds else " and ".join(sorted(kind for kind in kinds if kind))


def _is_nothing(cell: Any) -> bool:
    return cell is None or cell != cell or (isinstance(cell, str) and not cell.strip()) or cell == []

"""Which columns of an items file are words: texts are, and numbers, dates, links, keys, bytes, truth values and vectors are not."""

from __future__ import annotations

import datetime
import decimal
import re
from typing import Any

import pyarrow as pa

from recsys.door.tables import Table, is_list_type
from recsys.door.values import NO_WORDS, finite_or_none

_LINK = re.compile(
    r"(https?|ftp|s3|gs|file)://\S+|data:\S+|www\.\S+|\S*/\S+\.(jpe?g|png|gif|webp|svg|mp[34]|html?)(\?\S*)?",
    re.IGNORECASE,
)
_DATE = re.compile(
    r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?)?\s*(Z|UTC|[+-]\d{2}:?\d{2})?|\d{4}/\d{1,2}/\d{1,2}|\d{1,2}[./]\d{1,2}[./]\d{2,4}"
)
_NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?"
# prices, shares, thousands and times of play: a number with a sign or a unit of money
_AMOUNT = re.compile(
    r"[$€£¥]\s?[\d.,]+|[\d.,]+\s?([$€£¥%]|USD|EUR|GBP|JPY)|\d{1,3}(,\d{3})+(\.\d+)?|\d+(:\d{2}){1,2}"
)
# what programs print of a vector: numbers between spaces, commas or bars, in brackets or not
_NUMBERS = re.compile(rf"[\[(]?\s*{_NUMBER}(\s*[\s,;|]\s*{_NUMBER})+\s*[\])]?|[\[(]\s*{_NUMBER}\s*[\])]")
_KEY = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?=.*\d)[0-9a-f]{32,}", re.IGNORECASE)
_PATTERNS = (("dates", _DATE), ("links", _LINK), ("keys", _KEY), ("lists of numbers", _NUMBERS))
_TRUTH = ("true", "false")
_LONGEST = 1_000  # characters of a cell that are looked at


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
    kinds = set[str]()
    for cell in cells:
        kind = _of_cell(cell)
        if kind is None:
            return None  # one cell of words makes a column of words
        kinds.add(kind)
    return " and ".join(sorted(kinds))


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
        if len(text) > _LONGEST:
            return "lists of numbers" if not text.strip("0123456789.,;|eE+-[]() \n\t") else None
        if finite_or_none(text) is not None or _AMOUNT.fullmatch(text):
            return "numbers"
        if text.lower() in _TRUTH:
            return "truth values"
        return next((kind for kind, pattern in _PATTERNS if pattern.fullmatch(text)), None)
    if isinstance(cell, bool):
        return "truth values"
    if isinstance(cell, int | float | decimal.Decimal):
        return "numbers"
    if isinstance(cell, datetime.date | datetime.time | datetime.timedelta):
        return "dates"
    if isinstance(cell, bytes):
        return "bytes"
    if isinstance(cell, list):
        of_parts = {_of_cell(part) for part in cell if not _is_nothing(part)}
        return f"lists of {of_parts.pop()}" if len(of_parts) == 1 and None not in of_parts else None
    return None  # an object: its keys and values are words


def _is_nothing(cell: Any) -> bool:
    if isinstance(cell, str):
        return not cell.strip() or cell.strip() in NO_WORDS
    return cell is None or cell != cell or cell == []

"""One rule for each thing, at every door: what is an id, a number, a text, and what is nothing.

An id is text: 7, "7", 7.0, "7.0" and the decimal 7.00 are the id `7`; spaces around it do not count, and `007` and `1e5` stay as they
are. Moments are in `times.py`. Nothing is written in many ways (`BLANK`), in any case. `one_id` says of one Python value what `id_array` says of a column.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.door.tables import DataError, Table

# how programs write "nothing" into tables: pandas, R, SQL dumps, Excel, Java, Python, Ruby and Go; compared in lower case
BLANK = ("", "nan", "null", "none", "<na>", "na", "n/a", "#n/a", "#na", "\\n", "nil", "nat", "undefined")
TEXT_BLANK = (
    "",
    "nan",
    "NaN",
    "null",
    "NULL",
    "None",
    "<NA>",
)  # in a column of words, where "none" may be one; compared as they are
NUMBER_BLANK = (*TEXT_BLANK, "NA", "N/A", "#N/A", "\\N", "none", "na", "nil")
WHOLE = 2**53  # up to here a float holds every whole number
CONTROL = r"[\x00-\x1f\x7f]"
_DIGITS = re.compile(r"([0-9]{1,4000})")
_ZERO_FRACTION = re.compile(r"(-?[0-9]+)\.0+")


def one_id(value: Any) -> str | None:
    """The id that a Python value is; None where it is nothing.

    Raises `ValueError` for what is no id: a truth value, a list, a number with a fraction or beyond what a float holds, bytes that
    are not UTF-8, text with control characters.
    """
    if value is None:
        return None
    if isinstance(value, bytes):
        value = value.decode()  # UnicodeDecodeError is a ValueError
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in BLANK:
            return None
        if re.search(CONTROL, text):
            raise ValueError(f"id {text[:40]!r} holds a control character")
        found = _ZERO_FRACTION.fullmatch(text)
        return found[1] if found else text
    if isinstance(value, bool | np.bool_):
        raise ValueError(f"id {value!r} is a truth value; expected text or a whole number")
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating | Decimal):
        if not math.isfinite(value):
            return None
        if int(value) != value or (not isinstance(value, Decimal) and abs(float(value)) >= WHOLE):
            raise ValueError(
                f"id {value!r} is a number, but not a whole one that can be told from its neighbours"
            )
        return str(int(value))
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    raise ValueError(f"id {value!r} is a {type(value).__name__}; expected text or a whole number")


def id_array(table: Table, column: str) -> pa.Array:
    """A column as ids [n] (strings), null where there is nothing. Raises `DataError` by place; control characters are let through."""
    values = table.array(column)
    kind = values.type
    if pa.types.is_floating(kind):
        values = pc.if_else(pc.is_finite(values), values, pa.scalar(None, kind))
        whole = pc.and_(
            pc.equal(pc.trunc(values), values), pc.less(pc.abs(values), pa.scalar(float(WHOLE), kind))
        )
        if pc.all(whole).as_py() is False:
            row = first(pc.invert(whole))
            raise table.error(
                row,
                f"{column} {values[row].as_py()!r} is a floating-point number that is no whole one below 2^53, so it may stand for "
                "several ids; write ids as text or as integers",
            )
        values = values.cast(pa.int64())
    return id_texts(_strings(table, column, values))


def ids(table: Table, column: str, ours: str) -> Any:
    """A column of ids as a pandas Series of strings; rows without one, and ids with control characters, are refused."""
    values = id_array(table, column)
    if values.null_count:
        raise table.error(first(pc.is_null(values)), missing(table, column, ours, values))
    return checked_ids(table, values, ours).to_pandas()


def checked_ids(table: Table, values: pa.Array, ours: str) -> pa.Array:
    """`values` (of `id_array`) if none holds a control character."""
    odd = pc.fill_null(pc.match_substring_regex(values, CONTROL), False)
    if pc.any(odd).as_py():
        row = first(odd)
        raise table.error(
            row, f"{ours} {values[row].as_py()[:40]!r} holds a control character; is a quote left open?"
        )
    return values


def missing(table: Table, column: str, ours: str, values: pa.Array) -> str:
    """What is wrong with the rows of which `values` (of `id_array`) are null, the first one's spelling named."""
    return blank_ids(table.raw(column)[first(pc.is_null(values))], ours, values.null_count, len(values))


def blank_ids(spelled: Any, ours: str, count: int, rows: int) -> str:
    """What is said of `count` of `rows` ids that are nothing, the first of them `spelled` so."""
    how = (
        f" (it says {str(spelled).strip()!r}, which is how programs write nothing)"
        if str(spelled or "").strip()
        else ""
    )
    return (
        f"{ours} is blank{how}; {count} of {rows} row(s) have none: fill them in or delete the rows, or set "
        "missing_ids: drop to leave them out"
    )


def text_array(table: Table, column: str, blank: Sequence[str] = TEXT_BLANK) -> pa.Array:
    """A column as trimmed strings [n]; null where there is nothing, or one of `blank` ("nan" is also a bread)."""
    values = table.array(column)
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_finite(values), values, pa.scalar(None, values.type))
        largest = pc.max(pc.abs(values)).as_py()
        if (largest or 0) < WHOLE and pc.all(pc.equal(pc.trunc(values), values)).as_py() is not False:
            values = values.cast(pa.int64())  # 42.0 is how pandas writes 42 beside a missing value
    texts = pc.utf8_trim_whitespace(_strings(table, column, values))
    return pc.if_else(
        pc.is_in(texts, value_set=pa.array(blank, pa.string())), pa.scalar(None, pa.string()), texts
    )


def _strings(table: Table, column: str, values: pa.Array) -> pa.Array:
    if pa.types.is_string(values.type):
        return values
    try:
        found = values.cast(pa.string())
        found.validate(full=True)
        return found
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(
            f"{table.path}: column '{column}' holds {values.type}; expected text or whole numbers"
        ) from None


def id_texts(texts: pa.Array) -> pa.Array:
    """Texts (of any string type) as ids: trimmed, no `.0` behind a whole number, null where nothing is written."""
    values = pc.utf8_trim_whitespace(texts)
    if pc.any(pc.match_substring_regex(values, r"^-?[0-9]+\.0+$")).as_py():
        values = pc.replace_substring_regex(values, r"^(-?[0-9]+)\.0+$", r"\1")
    nothing = pc.is_in(pc.utf8_lower(values), value_set=pa.array(BLANK, values.type))
    return pc.if_else(nothing, pa.scalar(None, values.type), values)


# -- numbers -----------------------------------------------------------------------------------------------------


def numbers(table: Table, column: str, ours: str, missing_allowed: bool) -> np.ndarray:
    """A column of finite numbers as float64 [n]; NaN where there is none, if that is allowed."""
    typed = _typed_numbers(table, column, missing_allowed)
    if typed is not None:
        return typed
    values = text_array(table, column, NUMBER_BLANK)
    found = floats(values)
    bad = ~(np.abs(found) < 1e30)  # also NaN; they are kept in 32 bits
    if missing_allowed:
        bad &= ~pc.is_null(values).to_numpy(zero_copy_only=False)
    if bad.any():
        row = int(bad.argmax())
        text = values[row].as_py()
        what = "is blank" if text is None else f"'{text[:60]}' is not a number (below 1e30)"
        raise table.error(
            row, f"{ours} {what}; expected a number such as 3.5, with a point and no thousands mark"
        )
    return found


def _typed_numbers(table: Table, column: str, missing_allowed: bool) -> np.ndarray | None:
    """A column of doubles or integers, read a piece at a time without a text in between; None of any other, and of one to be refused."""
    kind = None if isinstance(table.columns[column], list) else table.columns[column].type
    if kind is None or not (pa.types.is_float64(kind) or pa.types.is_integer(kind)):
        return None
    found = np.empty(table.n_rows, np.float64)
    for start, piece in table.pieces(column):
        values = pc.cast(piece.array(column), pa.float64(), safe=False)
        rows = np.array(values.to_numpy(zero_copy_only=False))
        rows[~np.isfinite(rows)] = np.nan
        if not (missing_allowed or np.isfinite(rows).all()) or (np.abs(rows) >= 1e30).any():
            return None
        found[start : start + len(rows)] = rows
    return found


def floats(values: pa.Array) -> np.ndarray:
    """Strings as float64, NaN where one is not a finite number."""
    numeric = pc.match_substring_regex(values, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$")
    text = pc.if_else(pc.fill_null(numeric, False), values, pa.scalar(None, pa.string()))
    text = pc.replace_substring_regex(text, r"^\+", "")
    found = np.array(text.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    return np.where(np.isfinite(found), found, np.nan)


def finite_or_none(text: str) -> float | None:
    """The finite number that `text` spells, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def first(mask: pa.Array) -> int:
    """Index of the first true value."""
    return int(np.asarray(pc.fill_null(mask, False).to_numpy(zero_copy_only=False)).argmax())


def natural_order(names: Iterable[str]) -> list[int]:
    """Places of `names` in their natural order ("i2" before "i10"): what ids are numbered by, so that no row order matters."""
    listed = list(names)
    keys = [_DIGITS.sub(_by_length, name) for name in listed]
    order = sorted(range(len(listed)), key=listed.__getitem__)  # "07" and "7" by their names
    order.sort(key=keys.__getitem__)
    return order


def _by_length(digits: re.Match[str]) -> str:
    """A number as text that sorts as numbers do, and before every character of an id: how many digits, and these."""
    number = digits[0].lstrip("0")
    return f"\x00{len(number):04}{number}"

"""One rule for each thing, at every door: what is an id, a number, a text, and what is nothing.

An id is text: 7, "7", 7.0, "7.0" and the decimal 7.00 are the id `7`; spaces and marks without a width around it do not count, letters
with accents are one whether they are written as one character or two (NFC), and `007` and `1e5` stay as they are. Moments are in
`times.py`. Nothing is written in many ways (`BLANK`), in any case. `one_id` says of one Python value what `id_array` says of a column.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.door.tables import DataError, Table

# how programs write "nothing" into tables: pandas, R, SQL dumps and clients, Excel (and its errors), Java, Python, Ruby, Go, C, ARFF and
# access logs; compared in lower case
BLANK = (
    *("", "nan", "-nan", "null", "none", "<na>", "na", "n/a", "#n/a", "#na", "#n/a n/a", "\\n", "nil", "nat", "undefined"),
    *("<null>", "(null)", "[null]", "<nil>", "<none>", "(none)", "(blank)", "#null!", "#ref!", "#value!", "#name?", "#num!", "#div/0!"),
    *("1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan", "?", ".", "-", "--"),
)  # fmt: skip
TEXT_BLANK = (
    "",
    "nan",
    "NaN",
    "null",
    "NULL",
    "None",
    "<NA>",
)  # in a column of words, where "none" may be one; compared as they are
NUMBER_BLANK = (
    *TEXT_BLANK,
    "NA",
    "N/A",
    "#N/A",
    "\\N",
    "none",
    "na",
    "nil",
    "<null>",
    "(null)",
    "[null]",
    "?",
    ".",
    "-",
)
NO_WORDS = (
    "",
    "\\N",
    "<NA>",
    "#N/A",
    "<null>",
    "(null)",
    "[null]",
)  # what is no title and no query ("None" and "nan" may be)
WHOLE = 2**53  # up to here a float of 64 bits holds every whole number
EXACT = {"halffloat": 2**11, "float": 2**24, "double": WHOLE}  # the same by Arrow's name of the type
CONTROL = r"[\x00-\x1f\x7f]"
_AROUND = " \t\n\r\x0b\x0c\x85\xa0\u200b\ufeff"  # white space, and marks without a width that copying and exports leave behind
_DIGITS = re.compile(r"([0-9]{1,4000})")
WHOLE_AS_FLOAT = r"^(-?[0-9]+)\.0+$"  # as pandas writes whole numbers beside a missing one
_ZERO_FRACTION = re.compile(WHOLE_AS_FLOAT[1:-1])


def one_id(value: Any) -> str | None:
    """The id that a Python value is; None where it is nothing.

    Raises `ValueError` for what is no id: a truth value, a list, a number with a fraction or beyond what a float holds, bytes that
    are not UTF-8, text with control characters or half a character.
    """
    if value is None:
        return None
    if isinstance(value, bytes):
        value = value.decode()  # UnicodeDecodeError is a ValueError
    if isinstance(value, str):
        text = value.strip().strip(_AROUND)
        if text.lower() in BLANK:
            return None
        if re.search(CONTROL, text):
            raise ValueError(f"id {text[:40]!r} holds a control character")
        if not text.isascii():
            if re.search("[\ud800-\udfff]", text):
                raise ValueError(f"id {text[:40]!r} holds half a character (a lone surrogate)")
            text = unicodedata.normalize("NFC", text)
        found = _ZERO_FRACTION.fullmatch(text)
        return found[1] if found else text
    if isinstance(value, bool | np.bool_):
        raise ValueError(f"id {value!r} is a truth value; expected text or a whole number")
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating | Decimal):
        if not math.isfinite(value):
            return None
        exact = 2 ** (np.finfo(type(value)).nmant + 1) if isinstance(value, np.floating) else WHOLE
        if int(value) != value or (not isinstance(value, Decimal) and abs(float(value)) >= exact):
            raise ValueError(
                f"id {value!r} is a number, but not a whole one that can be told from its neighbours"
            )
        return str(int(value))
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    raise ValueError(f"id {shortly(value)} is a {type(value).__name__}; expected text or a whole number")


def shortly(value: Any) -> str:
    """What a caller gave, for a message of one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:79]}…"


def id_array(table: Table, column: str) -> pa.Array:
    """A column as ids [n] (strings), null where there is nothing. Raises `DataError` by place; control characters are let through."""
    values = table.array(column)
    kind = values.type
    if pa.types.is_floating(kind):
        exact = EXACT[str(table.kind(column))]
        values = pc.if_else(pc.is_finite(values), values, pa.scalar(None, kind))
        whole = pc.and_(
            pc.equal(pc.trunc(values), values), pc.less(pc.abs(values), pa.scalar(float(exact), kind))
        )
        if pc.all(whole).as_py() is False:
            row = first(pc.invert(whole))
            raise table.error(
                row,
                f"{column} {values[row].as_py()!r} is a floating-point number that is no whole one below 2^{exact.bit_length() - 1}, so it "
                "may stand for several ids; write ids as text or as integers",
            )
        values = values.cast(pa.int64())
    elif pa.types.is_decimal(kind):
        texts = pc.replace_substring_regex(values.cast(pa.string()), r"\.0*$", "")
        broken = pc.fill_null(pc.match_substring(texts, "."), False)
        if pc.any(broken).as_py():
            row = first(broken)
            raise table.error(
                row, f"{column} {texts[row].as_py()} is no whole number; write ids as text or as integers"
            )
        values = texts
    elif pa.types.is_boolean(kind) or pa.types.is_temporal(kind):
        raise DataError(f"{table.path}: column '{column}' holds {kind}; expected text or whole numbers")
    return id_texts(_strings(table, column, values))


def ids(table: Table, column: str, ours: str) -> Any:
    """A column of ids as a pandas Series of strings; rows without one, and ids with control characters, are refused."""
    values = id_array(table, column)
    if values.null_count:
        raise table.error(first(pc.is_null(values)), missing(table, column, ours, values, drop=False))
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


def missing(table: Table, column: str, ours: str, values: pa.Array, drop: bool = True) -> str:
    """What is wrong with the rows of which `values` (of `id_array`) are null, the first one's spelling named.

    `drop`: can a setting leave them out?
    """
    return blank_ids(table.raw(column)[first(pc.is_null(values))], ours, values.null_count, len(values), drop)


def blank_ids(spelled: Any, ours: str, count: int, rows: int, drop: bool = True) -> str:
    """What is said of `count` of `rows` ids that are nothing, the first of them `spelled` so. `drop`: can a setting leave them out?"""
    how = (
        f" (it says {str(spelled).strip()!r}, which is how programs write nothing)"
        if str(spelled or "").strip()
        else ""
    )
    return f"{ours} is blank{how}; {count} of {rows} row(s) have none: fill them in or delete the rows" + (
        ", or set missing_ids: drop to leave them out" if drop else ""
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
    values = pc.utf8_trim(pc.utf8_trim_whitespace(texts), _AROUND)
    if not pc.all(pc.string_is_ascii(values)).as_py():
        values = pc.utf8_normalize(values, "NFC")
    if pc.any(pc.match_substring_regex(values, WHOLE_AS_FLOAT)).as_py():
        values = pc.replace_substring_regex(values, WHOLE_AS_FLOAT, r"\1")
    nothing = pc.is_in(pc.utf8_lower(values), value_set=pa.array(BLANK, values.type))
    return pc.if_else(nothing, pa.scalar(None, values.type), values)


# -- numbers -----------------------------------------------------------------------------------------------------


def numbers(table: Table, column: str, ours: str, missing_allowed: bool) -> np.ndarray:
    """A column of finite numbers as float64 [n]; NaN where there is none, if that is allowed."""
    typed = _typed_numbers(table, column, missing_allowed)
    if typed is not None:
        return typed
    values = text_array(table, column, NUMBER_BLANK)
    if pa.types.is_boolean(table.array(column).type):
        values = pc.if_else(pc.equal(values, "true"), "1", pc.if_else(pc.is_null(values), values, "0"))
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

"""Rows of requests, each checked: a piece of a file becomes a table of `SCHEMA`, and a bad row a reason beside it.

What an id, a moment and nothing are is the door's rule (`recsys.door.values`, `recsys.door.times`); how much may be asked for is
`serving.answering.limits`'.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.door.tables import is_list_type
from recsys.door.times import MILLISECONDS, one_moment
from recsys.door.values import CONTROL, EXACT, id_texts
from serving.answering import limits

TEXTS, NUMBERS, LISTS = ("request_id", "user_id", "query"), ("time", "n"), ("exclude", "allow")
IDS = pa.large_list(pa.large_string())  # large: 64-bit offsets, which no amount of text overflows
# file: number in `Source.files`; row: 1-based; reason: why the row is rejected, or null
SCHEMA = pa.schema(
    [(name, pa.large_string()) for name in TEXTS]
    + [(name, pa.int64()) for name in NUMBERS]
    + [(name, IDS) for name in LISTS]
    + [("file", pa.int32()), ("row", pa.int64()), ("reason", pa.large_string())]
)
Because = Callable[[int, str], None]  # row of the piece, and why it is rejected


def wrong_kind(column: str, kind: pa.DataType) -> str | None:
    """What a column should hold, where `kind` can mean nothing in it."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_null(kind):
        return None
    if column == "n":
        fine, expected = _is_number(kind), "whole numbers"
    elif column == "time":
        typed = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
        fine, expected = _is_number(kind) or typed or is_text(kind), "whole seconds since 1970, or dates"
    elif column in LISTS:
        inner = kind.value_type if is_list_type(kind) else kind
        inner = inner.value_type if pa.types.is_dictionary(inner) else inner
        fine = is_list_type(kind) and (pa.types.is_null(inner) or _is_id(inner))
        expected = "lists of item ids"
    elif column == "query":
        fine, expected = is_text(kind), "text"
    else:
        fine, expected = _is_id(kind), "text or whole numbers"
    return None if fine else expected


def is_text(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_string_view,
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
        )
    )


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _is_id(kind: pa.DataType) -> bool:
    return _is_number(kind) or is_text(kind) or isinstance(kind, pa.UuidType)


def checked(
    batch: pa.RecordBatch, file: int, first_row: int, default_n: int, is_clock: bool = True
) -> pa.Table:
    """A piece of a file as a table of `SCHEMA`.

    Users and items are ids by the door's rule; a request id is the caller's own, and stays as it is written.
    Blank users and queries are null. `is_clock`: 20260131 is a date, not a place in an order.
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
    ready["user_id"] = id_texts(ready["user_id"])
    _refuse_control(ready["user_id"], "user_id", None, because)
    ready["query"] = _or_null(ready["query"])
    lengths = pc.fill_null(pc.utf8_length(ready["query"]), 0).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(lengths > limits.MOST_QUERY).tolist():
        because(row, f"query has {lengths[row]:,} characters; {limits.wrong_query(int(lengths[row]))}")
    ready["time"] = _numbers(
        _moments(column("time"), is_clock, because), rows, 0, MILLISECONDS, because, _bad_time
    )
    most = limits.MOST_ITEMS + 1
    ready["n"] = _numbers(column("n"), rows, 1, most, because, _bad_n).fill_null(default_n)
    for name in LISTS:
        ready[name] = _lists(column(name), rows, name, because)
        lengths = pc.fill_null(pc.list_value_length(ready[name]), 0).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(lengths > limits.MOST_IDS).tolist():
            because(row, f"{name} has {lengths[row]:,} ids; {limits.wrong_length(int(lengths[row]))}")
    ready["file"] = pa.array(np.full(rows, file, np.int32))
    ready["row"] = pa.array(np.arange(first_row, first_row + rows))
    ready["reason"] = pa.array(reasons, pa.large_string())
    return pa.table(ready, schema=SCHEMA)


def _bad_n(value: Any) -> str:
    if value > limits.MOST_ITEMS and value == value // 1:
        return f"n is {value:.0f}; at most {limits.MOST_ITEMS}"
    return f"n is {value:g}; ask for a whole number of items, at least one"


def _bad_time(value: Any) -> str:
    if value >= MILLISECONDS and value != float("inf"):
        return f"time {value:.0f} looks like milliseconds; expected whole seconds since 1970"
    return f"time {value:g} is not a Unix time; expected whole seconds since 1970"


def _texts(values: pa.Array, name: str, because: Because, row_of: np.ndarray | None = None) -> pa.Array:
    """Text of a column of text, bytes, whole numbers, or whole numbers written as 42.0 or 42.00.

    (As pandas and databases write them.) `row_of` [n]: the row of each value, where that is not its place.
    """
    kind = values.type

    def refuse(place: int, reason: str) -> None:
        because(place if row_of is None else int(row_of[place]), reason)

    if pa.types.is_floating(kind):
        numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
        absent = ~np.isfinite(numbers) & ~np.isinf(numbers)
        whole = absent | ((np.trunc(numbers) == numbers) & (np.abs(numbers) < EXACT[str(kind)]))
        for place in np.flatnonzero(~whole).tolist():
            refuse(place, f"{name} {numbers[place]:g} is not text or a whole number")
        values = pa.array(np.where(whole & ~absent, numbers, 0).astype(np.int64), mask=absent | ~whole)
    elif pa.types.is_decimal(kind):
        texts = pc.replace_substring_regex(values.cast(pa.large_string()), r"\.0*$", "")
        broken = pc.fill_null(pc.match_substring(texts, "."), False).to_numpy(zero_copy_only=False)
        for place in np.flatnonzero(broken).tolist():
            refuse(place, f"{name} {texts[place].as_py()} is not text or a whole number")
        return texts
    elif is_text(kind) and not _is_utf8(values):
        decoded = []
        for place, raw in enumerate(values.cast(pa.large_binary()).to_pylist()):
            try:
                decoded.append(None if raw is None else raw.decode())
            except UnicodeDecodeError:
                decoded.append(None)
                refuse(place, f"{name} is not text: bytes that are not UTF-8 (half a surrogate pair is not)")
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


def _moments(values: pa.Array | None, is_clock: bool, because: Because) -> pa.Array | None:
    """A column of moments as numbers: typed ones, and dates in text or as 20260131, as whole seconds, other numbers as they are."""
    if values is None or pa.types.is_null(values.type):
        return values
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.float64())
    if pa.types.is_temporal(values.type):
        ticks = values.cast(pa.timestamp("us", getattr(values.type, "tz", None)), safe=False).cast(pa.int64())
        absent = ticks.is_null().to_numpy(zero_copy_only=False)
        seconds = ticks.fill_null(0).to_numpy(zero_copy_only=False) // 10**6
        return pa.array(seconds, mask=absent)
    if not is_text(values.type):
        numbers = values.fill_null(0).to_numpy(zero_copy_only=False).astype(np.float64)
        days = np.flatnonzero((numbers >= 19_000_101) & (numbers <= 21_001_231))
        if not (is_clock and len(days)):
            return values
        numbers[np.asarray(values.is_null().to_numpy(zero_copy_only=False))] = np.nan
        for row in days.tolist():
            try:
                numbers[row] = one_moment(float(numbers[row]))
            except ValueError as error:
                because(row, str(error))
        return pa.array(numbers, from_pandas=True)
    found: list[int | None] = []
    for row, text in enumerate(id_texts(_texts(values, "time", because)).to_pylist()):
        try:
            found.append(None if text is None else one_moment(text, is_clock=is_clock))
        except ValueError as error:
            found.append(None)
            because(row, str(error))
    return pa.array(found, pa.int64())


def _numbers(
    values: pa.Array | None, rows: int, low: int, end: int, because: Because, reason: Callable[[Any], str]
) -> pa.Array:
    """Whole numbers from `low` up to `end`, as int64; NaN is how pandas writes null."""
    if values is None or pa.types.is_null(values.type):
        return pa.nulls(rows, pa.int64())
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.float64())
    absent = values.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    numbers = values.fill_null(low).to_numpy(zero_copy_only=False)
    floats = numbers.astype(np.float64)
    fine = absent | ((np.trunc(floats) == floats) & (floats >= low) & (floats < end))
    for row in np.flatnonzero(~fine).tolist():
        because(row, reason(floats[row]))
    return pa.array(np.where(fine & ~absent, numbers, low).astype(np.int64), mask=absent | ~fine)


def _lists(values: pa.Array | None, rows: int, name: str, because: Because) -> pa.Array:
    """Lists of item ids as text. Ids that are not UTF-8 are no item's, and read with the bytes replaced."""
    if values is None or pa.types.is_null(values.type):
        return pa.nulls(rows, IDS)
    lengths = pc.list_value_length(values)
    absent = lengths.is_null().to_numpy(zero_copy_only=False)
    counts = lengths.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    inner = values.flatten()  # without what a null list may hide
    row_of = np.repeat(np.arange(rows), counts)
    if pa.types.is_dictionary(inner.type):
        inner = inner.dictionary_decode()
    if pa.types.is_null(inner.type):
        inner = inner.cast(pa.large_string())
    if is_text(inner.type) and not _is_utf8(inner):
        raw = inner.cast(pa.large_binary()).to_pylist()
        inner = pa.array([i and i.decode(errors="replace") for i in raw], pa.large_string())
    texts = id_texts(_texts(inner, name, because, row_of))
    _refuse_control(texts, name, row_of, because)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int64())
    return pa.LargeListArray.from_arrays(offsets, texts, type=IDS, mask=pa.array(absent))


def _refuse_control(ids: pa.Array, name: str, row_of: np.ndarray | None, because: Because) -> None:
    odd = pc.fill_null(pc.match_substring_regex(ids, CONTROL), False).to_numpy(zero_copy_only=False)
    for place in np.flatnonzero(odd).tolist():
        row = place if row_of is None else int(row_of[place])
        because(row, f"{name} {ids[place].as_py()[:40]!r} holds a control character")

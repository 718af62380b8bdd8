"""What a moment is: typed time stamps, ISO texts, dates, seconds and their parts, plain orders; and how each was read.

Inside Prelude a moment is a whole number of Unix seconds (or an ordinal). Finer times are cut to the second, and what is cut off still
says which of two events of one second came first. Nothing is guessed that could be two things: a column is read one way as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.door.clocks import Reading
from recsys.door.tables import DataError, Table
from recsys.door.values import finite_or_none, first, floats, shortly, text_array

OF_RUN: dict[str, Reading] = {
    "unix_seconds": "auto",
    "ordinal": "ordinal",
}  # by the time that prepare.json names
MILLISECONDS = 100_000_000_000  # as seconds this is the year 5138; as milliseconds, 1973
PER_SECOND = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
YEAR_1990 = 631_152_000
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_ISO = r"^\d{4}[-/]\d{1,2}[-/]\d{1,2}|^\d{8}T\d"
# Numbers that are dates, by how many digits they have: (pandas' format, what to call it)
DATES = {
    8: ("%Y%m%d", "dates as YYYYMMDD, at midnight UTC"),
    12: ("%Y%m%d%H%M", "dates as YYYYMMDDHHMM, UTC"),
    14: ("%Y%m%d%H%M%S", "dates as YYYYMMDDHHMMSS, UTC"),
}
GAP_S = 10 * 365 * 86_400  # no data has a hole of ten years; what lies beyond one is a default or a mistake


@dataclass(frozen=True)
class Times:
    """Moments [n]: whole seconds (int64), the rest of the second in its own unit (int64), and how the column was read."""

    seconds: np.ndarray
    rest: np.ndarray
    said: str
    is_clock: bool = True  # False: an order

    @property
    def looks_odd(self) -> str | None:
        """Why the reading may be wrong, and what to set; None: nothing is odd."""
        if not self.is_clock or not len(self.seconds) or self.seconds.max() >= YEAR_1990:
            return None
        if self.seconds.max() == self.seconds.min():
            return None  # said elsewhere: no event has a history
        return (
            f"all times lie before 1990 (from {self.seconds.min()} to {self.seconds.max()}), read as {self.said}. If they are "
            "positions and not seconds, set time: ordinal; if they are another unit, name it (seconds, milliseconds, dates …)"
        )

    def far_away(self) -> tuple[np.ndarray, int] | None:
        """Which rows [n] lie beyond a hole of ten years from most of the others, and the first of them; None: none do."""
        if not self.is_clock or len(self.seconds) < 2 or self.seconds.max() - self.seconds.min() <= GAP_S:
            return None
        order = np.sort(self.seconds)
        holes = np.flatnonzero(np.diff(order) > GAP_S)
        if not len(holes):
            return None
        parts = np.searchsorted(order[holes], self.seconds, side="left")  # between which holes each lies
        odd = parts != np.bincount(parts).argmax()
        return odd, int(odd.argmax())


def read_times(table: Table, column: str, reading: Reading = "auto") -> Times:
    """A column of moments. Raises `DataError` naming the row that is none, or that is not of one kind with the others."""
    numbers = _integers(table, column)
    if numbers is not None:
        return _of_numbers(table, lambda row: str(numbers[row]), numbers, reading)
    values = table.array(column)
    kind = values.type
    if pa.types.is_duration(kind) or pa.types.is_time(kind) or pa.types.is_boolean(kind):
        raise DataError(
            f"{table.path}: column '{column}' holds {kind}; expected moments: time stamps, dates, or Unix times"
        )
    if reading == "ordinal" and pa.types.is_temporal(kind):
        raise DataError(
            f"{table.path}: column '{column}' holds {kind}, and time: ordinal is for places in an order; leave it out"
        )
    if pa.types.is_timestamp(kind):
        return _typed(
            table, values, _UNITS[kind.unit], f"typed time stamps ({kind})" + ("" if kind.tz else ", as UTC")
        )
    if pa.types.is_date(kind):
        return _typed(
            table, values.cast(pa.date64()).cast(pa.timestamp("ms")), 1000, "dates, at midnight UTC"
        )
    texts = text_array(table, column)
    if texts.null_count:
        row = first(pc.is_null(texts))
        raise table.error(
            row, "timestamp is blank; every row needs one: a Unix time, a date, or a place in an order"
        )
    looks = pc.match_substring_regex(texts, _ISO)
    if pc.any(looks).as_py():
        if reading == "ordinal":
            row = first(looks)
            raise table.error(
                row,
                f"timestamp '{texts[row].as_py()[:60]}' is a date, and time: ordinal is for places in an order; leave it out",
            )
        if not pc.all(looks).as_py():
            dated = looks.to_numpy(zero_copy_only=False)
            row = int((dated != dated[0]).argmax())
            what = (
                ("a date", "numbers")
                if dated[row]
                else ("not a Unix time or a date like the others", "dates")
            )
            raise table.error(
                row,
                f"timestamp '{texts[row].as_py()[:60]}' is {what[0]}; the rows before are {what[1]}: write all in one form",
            )
        return _iso(table, texts)
    return _numeric(table, texts, reading)


def whole_seconds(table: Table, column: str, reading: Reading = "auto") -> np.ndarray:
    """`read_times`, as whole seconds [n] int64."""
    return read_times(table, column, reading).seconds


def one_moment(value: object, what: str = "time", is_clock: bool = True) -> int:
    """A moment that a caller names, in whole Unix seconds: a number, an ISO text, a date, a datetime or a pandas or numpy stamp.

    20260131 is a date, as in a column, unless the run has an order and no clock (`is_clock` False). Raises `ValueError` saying what
    was expected.
    """
    import datetime

    expected = "expected whole Unix seconds, or a date such as 2026-01-31T12:00:00Z"
    if type(value).__name__ == "NaTType" or (isinstance(value, np.datetime64) and np.isnat(value)):
        raise ValueError(f"{what} is NaT; {expected}")
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]").item()
    if isinstance(value, str):
        text = value.strip()
        number = finite_or_none(text)
        if number is None or re.fullmatch(r"\d{8}T\d+.*", text):
            try:
                value = datetime.datetime.fromisoformat(text)
            except ValueError:
                raise ValueError(f"{what} is {value!r}; {expected}") from None
        else:
            value = number
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    if isinstance(value, datetime.datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
        value = int(aware.timestamp() // 1)
    elif isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise ValueError(f"{what} is {shortly(value)}; expected whole Unix seconds")
    if not value == value // 1 or not 0 <= value < MILLISECONDS:
        raise ValueError(f"{what} is {value!r}; expected whole Unix seconds (not milliseconds)")
    if is_clock and date_digits(np.array([int(value)])) == 8:
        number = int(value)
        try:
            day = datetime.datetime(number // 10_000, number // 100 % 100, number % 100, tzinfo=datetime.UTC)
        except ValueError:
            raise ValueError(f"{what} is {number}, which is no date as YYYYMMDD") from None
        return int(day.timestamp())
    return int(value)


def _typed(table: Table, values: pa.Array, unit: int, said: str) -> Times:
    if values.null_count:
        raise table.error(first(pc.is_null(values)), "timestamp is blank; every row needs one")
    whole = np.asarray(values.cast(pa.int64()).to_numpy(zero_copy_only=False), dtype=np.int64)
    return _bounded(table, whole // unit, whole % unit, said)


def _iso(table: Table, texts: pa.Array) -> Times:
    import pandas as pd

    plain = pc.replace_substring_regex(texts, r"\s*(UTC|Z)$", "+00:00")
    plain = pc.replace_substring_regex(plain, r"^(\d{4})/(\d{1,2})/(\d{1,2})", r"\1-\2-\3")
    plain = pc.replace_substring_regex(plain, r"^(\d{4})-(\d)(-|$)", r"\1-0\2\3")
    plain = pc.replace_substring_regex(plain, r"^(\d{4}-\d{2})-(\d)(\D|$)", r"\1-0\2\3")
    parsed = pd.to_datetime(plain.to_pandas(), format="ISO8601", utc=True, errors="coerce").astype(
        "datetime64[us, UTC]"
    )
    if parsed.isna().any():
        row = int(parsed.isna().to_numpy().argmax())
        raise table.error(
            row,
            f"timestamp '{texts[row].as_py()[:60]}' is not a date like the others, such as 2026-01-31T12:00:00+00:00",
        )
    whole = parsed.dt.tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.int64)
    zoned = pc.all(pc.match_substring_regex(plain, r"[+-]\d{2}:?\d{2}$")).as_py()
    return _bounded(
        table, whole // 10**6, whole % 10**6, "ISO dates" + ("" if zoned else "; where no zone is named, UTC")
    )


def _integers(table: Table, column: str) -> np.ndarray | None:
    """A column of integers from 0 to 10^18 [n] as int64, read a piece at a time; None where it is anything else."""
    kind = table.columns[column].type if not isinstance(table.columns[column], list) else None
    if kind is None or not pa.types.is_integer(kind):
        return None
    found = np.empty(table.n_rows, np.int64)
    for start, piece in table.pieces(column):
        values = piece.array(column)
        least, most = pc.min_max(values).as_py().values() if len(values) else (0, 0)
        if values.null_count or not 0 <= least <= most < 10**18:
            return None
        found[start : start + len(values)] = values.to_numpy(zero_copy_only=False)
    return found


def _numeric(table: Table, texts: pa.Array, reading: Reading) -> Times:
    exact = pc.all(pc.match_substring_regex(texts, r"^\d{1,18}$")).as_py()
    numbers = texts.cast(pa.int64()).to_numpy(zero_copy_only=False) if exact else floats(texts)
    bad = ~np.isfinite(numbers) | (numbers < 0) | (numbers >= 2**62)
    if bad.any():
        row = int(bad.argmax())
        raise table.error(row, _why_not_a_time(texts[row].as_py()))
    return _of_numbers(table, lambda row: texts[row].as_py(), numbers, reading)


def _of_numbers(table: Table, spelled: Callable[[int], str], numbers: np.ndarray, reading: Reading) -> Times:
    """Times of finite numbers [n] from 0; `spelled` is how a row's is written, for messages."""
    chosen = _unit(table, spelled, numbers) if reading == "auto" else reading
    if chosen == "dates":
        return _dates(table, spelled, numbers)
    if chosen == "ordinal":
        return _bounded(table, *_split(numbers, 1), "places in an order", is_clock=False)
    unit = PER_SECOND[chosen]
    return _bounded(table, *_split(numbers, unit), f"Unix time in {chosen}")


def _unit(table: Table, spelled: Callable[[int], str], numbers: np.ndarray) -> Reading:
    """The one unit that all numbers can be; raises where they are of two."""
    if len(numbers) and _are_dates(numbers):
        return "dates"
    ranges: Sequence[tuple[Reading, float]] = (
        ("seconds", MILLISECONDS),
        ("milliseconds", MILLISECONDS * 1e3),
        ("microseconds", MILLISECONDS * 1e6),
        ("nanoseconds", 2**62),
    )
    ends = [end for _, end in ranges]
    first_of = np.searchsorted(ends, numbers[:1], side="right")
    if (
        len(numbers)
        and (np.searchsorted(ends, [numbers.min(), numbers.max()], side="right") != first_of).any()
    ):
        of = np.searchsorted(ends, numbers, side="right")
        row = int((of != of[0]).argmax())
        kinds = (ranges[of[0]][0], ranges[of[row]][0])
        if of[row] > of[0]:
            times = PER_SECOND[kinds[1]] // PER_SECOND[kinds[0]]
            why = f"is too large; expected {kinds[0]} as in the rows before: divide {kinds[1]} by {times}"
        else:
            why = f"reads as {kinds[1]}, and the rows before as {kinds[0]}"
        raise table.error(
            row,
            f"timestamp '{spelled(row)}' {why}; write all times in one unit, or name it with time: …",
        )
    return ranges[int(first_of[0])][0] if len(numbers) else "seconds"


def _are_dates(numbers: np.ndarray) -> bool:
    """Are all numbers dates of 1900 to 2100 in one of `DATES`? (As seconds or milliseconds they would lie in 1970, 1976 or 2610.)"""
    return date_digits(numbers) is not None


def date_digits(numbers: np.ndarray) -> int | None:
    """How many digits the numbers have if all are dates in one of `DATES`; None: they are not."""
    if not len(numbers):
        return None
    least, most = numbers.min(), numbers.max()
    for digits in DATES:
        unit = 10 ** (digits - 8)
        if not 19_000_101 * unit <= least <= most < 21_001_232 * unit:
            continue
        day_of, clock = np.divmod(numbers, unit)
        year, rest = np.divmod(day_of, 10_000)
        month, day = np.divmod(rest, 100)
        fits = (year >= 1900) & (year <= 2100) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
        for unit, end in ((10 ** (digits - 10), 24), (10 ** (digits - 12), 60), (1, 60))[: (digits - 8) // 2]:
            fits &= np.floor_divide(clock, unit) % 100 < end
        if bool((fits & (numbers == np.floor(numbers))).all()):
            return digits
    return None


def _dates(table: Table, spelled: Callable[[int], str], numbers: np.ndarray) -> Times:
    import pandas as pd

    form, said = DATES[date_digits(numbers) or 8]
    days = pd.to_datetime(pd.Series(numbers.astype(np.int64).astype(str)), format=form, errors="coerce")
    if days.isna().any():
        row = int(days.isna().to_numpy().argmax())
        raise table.error(row, f"timestamp '{spelled(row)}' is not a date as YYYYMMDD")
    seconds = days.to_numpy().astype("datetime64[s]").astype(np.int64)
    return _bounded(table, seconds, _zeros(len(seconds)), said)


def _split(numbers: np.ndarray, unit: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole seconds, and the rest of each: in the unit, or (of numbers with a point) in nanoseconds."""
    if numbers.dtype.kind in "iu" and unit == 1:
        return numbers, _zeros(len(numbers))
    if numbers.dtype.kind in "iu":
        return numbers // unit, numbers % unit
    seconds = np.floor(numbers / unit)
    return seconds.astype(np.int64), np.round((numbers / unit - seconds) * 1e9).astype(np.int64)


def _zeros(n: int) -> np.ndarray:
    """Zeros [n] that take no memory."""
    return np.broadcast_to(np.int64(0), n)


def _bounded(table: Table, seconds: np.ndarray, rest: np.ndarray, said: str, is_clock: bool = True) -> Times:
    if len(seconds) and not 0 <= seconds.min() <= seconds.max() < MILLISECONDS:
        bad = (seconds < 0) | (seconds >= MILLISECONDS)
        row = int(bad.argmax())
        moment = np.datetime64(int(seconds[row]), "s") if abs(int(seconds[row])) < 10**13 else seconds[row]
        raise table.error(row, f"timestamp {moment} is outside 1970 to 5138; expected a moment since 1970")
    return Times(seconds, rest, said, is_clock)


def _why_not_a_time(text: str) -> str:
    value = finite_or_none(text)
    if value is None:
        return f"timestamp '{text[:60]}' is not a Unix time; expected whole seconds, or a date such as 2026-01-31T12:00:00Z"
    if value < 0:
        return f"timestamp '{text}' is negative; expected whole seconds since 1970"
    if value >= 2**62:
        return f"timestamp '{text}' is too large; expected whole seconds since 1970"
    return f"timestamp '{text}' is not a Unix time as digits; expected whole seconds, such as 1700000000"

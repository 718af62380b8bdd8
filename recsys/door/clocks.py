"""The ways to read a column of timestamps, by the names that settings have for them; `times.py` reads."""

from __future__ import annotations

from typing import Literal

Reading = Literal["auto", "seconds", "milliseconds", "microseconds", "nanoseconds", "dates", "ordinal"]

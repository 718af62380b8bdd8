"""What was let through, left out or read in a particular way: counted, said as it happens, and kept for the data card.

A share that is too small (or too large) stops: `Notices.require` names the count, the first example, the remedy, and the setting that
says "I mean it".
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from recsys.door.tables import DataError
from recsys.terminal import escaped

log = logging.getLogger("prelude.prepare")


@dataclass(frozen=True)
class Notice:
    """Something that was let through or dropped, and how often."""

    reason: str
    count: int
    message: str


@dataclass(frozen=True)
class Coverage:
    """Of `total` things, how many were `matched`; `example` is the first that was not."""

    what: str
    matched: int
    total: int
    example: str | None = None

    @property
    def share(self) -> float:
        return self.matched / self.total if self.total else 1.0

    def sentence(self) -> str:
        left = (
            f"; the first without: {self.example}"
            if self.example is not None and self.matched < self.total
            else ""
        )
        return f"{self.what}: {self.matched:,} of {self.total:,} ({self.share:.1%}){left}"


@dataclass
class Notices:
    """The counted warnings of one preparation, each logged as it is added; and what the joins covered."""

    entries: list[Notice] = field(default_factory=list)
    coverage: list[Coverage] = field(default_factory=list)
    readings: list[str] = field(default_factory=list)  # how formats and times were understood

    def add(self, reason: str, count: int, message: str) -> None:
        if count:
            self.entries.append(Notice(reason, int(count), message))
            log.warning("warning: %s", escaped(message))

    def read(self, *sentences: str) -> None:
        """Say how something was understood, where it could have been understood otherwise."""
        for sentence in sentences:
            self.readings.append(sentence)
            log.warning("note: %s", escaped(sentence))

    def require(self, found: Coverage, least: float, setting: str, remedy: str) -> None:
        """Count what a join covered. Raises `DataError` where its share is below `least`, the value of `setting`."""
        self.coverage.append(found)
        if found.total and found.share < least:
            raise DataError(
                f"{found.sentence()}. At least {least:.0%} is expected; {remedy} If it is meant so, set {setting} to "
                f"{max(0.0, int(found.share * 100) / 100):g} or less"
            )
        if found.matched < found.total:
            log.warning("note: %s", escaped(found.sentence()))

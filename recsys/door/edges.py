"""Edges that a service brings: rows (from, to, maybe a moment): friends, tags of people, attributes of items."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.door.notices import Notices
from recsys.door.sources import read_table
from recsys.door.tables import require
from recsys.door.times import Reading, read_times
from recsys.door.values import ids


@dataclass(frozen=True)
class Edges:
    """Ids [E] (str) of both ends of every row, and the moment [E] at which it became known; None: the file has no moments."""

    start: np.ndarray
    end: np.ndarray
    times: np.ndarray | None


def read_edges(
    path: Path,
    start: str,
    end: str,
    moment: str | None = None,
    delimiter: str | None = None,
    time: Reading = "auto",
    notices: Notices | None = None,
) -> Edges:
    """Columns `start` and `end` as ids, `moment` as times; by the file's suffix, or as text that a `delimiter` divides.

    Raises `DataError` by place for missing columns, blank ids and what is no time.
    """
    table = read_table(path, delimiter, quoting=delimiter is None)
    notices = notices or Notices()
    notices.read(*table.reading)
    ends = [np.asarray(ids(table, require(table, name, name), name), object) for name in (start, end)]
    if moment is None:
        return Edges(ends[0], ends[1], None)
    read = read_times(table, require(table, moment, moment), time)
    if read.said != "Unix time in seconds":
        notices.read(f"{path}: {moment} is read as {read.said}")
    return Edges(ends[0], ends[1], read.seconds)

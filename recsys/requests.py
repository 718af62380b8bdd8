"""Requests of many events, made a block at a time when they are asked for: memory follows the block, never the role."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import overload

import numpy as np

from recsys.recommender import Request

BLOCK = 1024  # requests that are made at once
ITEMS = 1 << 18  # of their histories that are sorted at once: 2 MiB a copy

Turned = tuple[np.ndarray, np.ndarray, np.ndarray]  # users (ascending), items, times of what was turned down


class Requests(Sequence[Request]):
    """R requests by their numbers (of events, or of lists). None is kept: each look makes what it asks for anew.

    A slice is a block: a list of requests that stay the same objects. Going through all of them makes a block at
    a time; what walks them itself had better slice, as one by one costs several times as much.
    """

    def __init__(self, numbers: np.ndarray, make: Callable[[np.ndarray], list[Request]]):
        """`make` gives the requests of some `numbers`, in their order."""
        self.numbers, self._make = np.asarray(numbers, np.int64), make

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, at: int) -> Request: ...

    @overload
    def __getitem__(self, at: slice) -> list[Request]: ...

    def __getitem__(self, at: int | slice) -> Request | list[Request]:
        if isinstance(at, slice):
            return self._make(self.numbers[at])
        return self._make(self.numbers[[at]])[0]

    def __iter__(self) -> Iterator[Request]:
        for some in blocks(self, BLOCK):
            yield from some

    def only(self, places: np.ndarray) -> Requests:
        """Those at `places`, not made yet."""
        return Requests(self.numbers[places], self._make)

    def place(self, request_id: str) -> int:
        """Where the request of an id stands; the numbers must ascend. Raises `KeyError` where it is not one of these."""
        number = int(request_id[1:])
        at = int(np.searchsorted(self.numbers, number))
        if at == len(self) or self.numbers[at] != number:
            raise KeyError(request_id)
        return at

    def at(self, places: Sequence[int] | np.ndarray) -> list[Request]:
        """Those at `places`, made together."""
        return self._make(self.numbers[np.asarray(places, np.int64)])


def blocks(requests: Sequence[Request], size: int = BLOCK) -> Iterator[list[Request]]:
    """All of `requests` in order, at most `size` at a time."""
    for start in range(0, len(requests), size):
        yield list(requests[start : start + size])


def some_of(requests: Sequence[Request], places: Sequence[int] | np.ndarray) -> list[Request]:
    """The requests at `places`."""
    return requests.at(places) if isinstance(requests, Requests) else [requests[int(at)] for at in places]


def made(
    events: np.ndarray,
    users: np.ndarray,
    histories: tuple[np.ndarray, np.ndarray],
    items: np.ndarray,
    times: np.ndarray,
    n_items: int,
    exclude_seen: bool,
    turned_down: Turned | None = None,
) -> list[Request]:
    """The requests that `events` [R] of `users` [R] answer.

    Histories are `items[start:stop]` with their `times`, of `histories` = (starts [R], stops [R]): parts of these
    arrays, not copies. Left out is what `recsys.data.dataset.Dataset.not_again` says, but never the answer.
    """
    starts, stops = histories
    counts = stops - starts if exclude_seen else np.zeros(len(events), np.int64)
    requests: list[Request] = []
    for part in _parts(counts):
        begins = starts[part], counts[part]
        bounds, left_out = _left_out(
            events[part], users[part], begins, items, times[events[part]], n_items, turned_down
        )
        rows = zip(
            events[part].tolist(), users[part].tolist(), times[events[part]].tolist(), starts[part].tolist(),
            stops[part].tolist(), bounds[:-1].tolist(), bounds[1:].tolist(), strict=True,
        )  # fmt: skip
        requests += [
            Request(f"e{event}", user, time, items[a:b], times[a:b], None, left_out[c:d])
            for event, user, time, a, b, c, d in rows
        ]
    return requests


def _parts(counts: np.ndarray) -> Iterator[slice]:
    """Rows in order, each time as many as have `ITEMS` items together, and at least one."""
    ends, start = np.cumsum(counts), 0
    while start < len(counts):
        before = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, before + ITEMS, side="right")), start + 1)
        yield slice(start, stop)
        start = stop


def _left_out(
    events: np.ndarray,
    users: np.ndarray,
    seen: tuple[np.ndarray, np.ndarray],
    items: np.ndarray,
    moments: np.ndarray,
    width: int,
    turned_down: Turned | None,
) -> tuple[np.ndarray, np.ndarray]:
    """What each row may not get, ascending and once: those of row r are result[bounds[r] : bounds[r + 1]]."""
    row, place = spread(*seen)
    rows, found = [row], [items[place]]
    if turned_down is not None:
        of, what, when = turned_down
        first = np.searchsorted(of, users)
        row, place = spread(first, np.searchsorted(of, users, side="right") - first)
        before = when[place] < moments[row]
        rows.append(row[before])
        found.append(what[place[before]])
    keys = np.concatenate(rows) * width + np.concatenate(found)
    keys.sort()  # np.unique hashes integers first, which costs twice as much here
    keys = keys[np.diff(keys, prepend=-1) > 0]
    keys = keys[keys % width != items[events][keys // width]]
    return np.searchsorted(keys, np.arange(len(events) + 1) * width), (keys % width).astype(items.dtype)


def spread(starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of ranges start : start + count laid one after the other: whose each place is, and the place."""
    rows = np.repeat(np.arange(len(counts)), counts)
    return rows, np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts - starts, counts)

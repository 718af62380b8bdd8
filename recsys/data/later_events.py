"""Histories that go on: a run's data, and on top of it the events that have come since.
The data itself stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from recsys.data.dataset import Dataset
from recsys.recommender import Request

_NONE = np.zeros(0, np.int64)
TO_COME = 1 << 62  # from here on: integers of people whose first event is not stored yet
MOST_KEPT = 200_000  # histories that are kept after they were asked for


class Later(Protocol):
    """Events that are kept elsewhere, and read a person at a time."""

    def of(self, user_id: str) -> tuple[int, np.ndarray, np.ndarray] | None:
        """A person's integer, for who is not in the data, items [n] and times [n] as they came; None: there is nothing of theirs."""

    def numbers(self) -> dict[str, int]:
        """User id -> integer of everybody who is there."""


class LiveHistories:
    """Users and their events as of now. Users whom the data does not know get integers above its own.

    An event is a user, an item and a time: however often it was stored, it is one. It stands in its place in time, whenever it
    came. Roles, counts and everything else that was learned from stay those of the data: an event of one user changes nothing
    that is read of another.
    """

    def __init__(self, dataset: Dataset, later: Sequence[Later] = ()):
        self.dataset, self.later = dataset, list(later)
        self._new: dict[str, int] = {}  # user id -> integer, of those whom the data does not know
        self._ids: dict[int, str] = {}  # and back
        self._merged: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # what was added here: items and times
        self._read: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # what `later` had

    def only(self, users: Iterable[int]) -> LiveHistories:
        """The histories of some users; adding to them leaves these as they are."""
        other = LiveHistories(self.dataset)
        for user in users:
            other._merged[user] = self.events(user)
            if user in self._ids:
                other._ids[user] = self._ids[user]
                other._new[self._ids[user]] = user
        return other

    def forget(self, user_ids: Iterable[str]) -> None:
        """Read these users anew when they are asked for: there are later events of theirs."""
        for user_id in user_ids:
            known = self.dataset.user_index(user_id)
            self._read.pop(self._new.get(user_id, -1) if known is None else known, None)

    def user_index(self, user_id: str) -> int | None:
        """The integer of a user id, or None for a user without an event anywhere."""
        known = self.dataset.user_index(user_id)
        if known is None:
            known = self._new.get(user_id)
        if known is None and self.later and user_id:
            known = self._look_up(user_id)
        return known

    def user_id(self, user: int) -> str | None:
        """Whose integer it is; None: nobody's that was met here."""
        if 0 <= user < self.dataset.n_users:
            return self.dataset.user_ids[user] or None
        return self._ids.get(user)

    def numbers(self) -> dict[str, int]:
        """User id -> integer of everybody, in the data or later. Reads them all: not for one person."""
        found: dict[str, int] = {}
        for one in reversed(self.later):
            found |= one.numbers()
        for user_id in found.keys() - self._new.keys() - self.dataset.user_numbers.keys():
            self._name(user_id, found[user_id])  # so that their events are found by the integer
        return found | self._new | self.dataset.user_numbers

    def number(self, user_id: str) -> int:
        """The integer of a user id; a new user gets the next free one."""
        known = self.user_index(user_id)
        if known is None:
            known = TO_COME + len(self._new)
            self._name(user_id, known)
        return known

    def events(self, user: int) -> tuple[np.ndarray, np.ndarray]:
        """All items and times of a user, oldest first."""
        if user in self._merged:
            return self._merged[user]
        if not self.later:
            return self._of_data(user)
        if user not in self._read:
            user_id = self.user_id(user)
            found = [] if user_id is None else [one.of(user_id) for one in self.later]
            self._keep(user, [one for one in found if one is not None])
        return self._read[user]

    def before(self, user: int, time: int) -> tuple[np.ndarray, np.ndarray]:
        """Items and times of the user's events strictly earlier than `time`, oldest first."""
        items, times = self.events(user)
        end = int(np.searchsorted(times, time, side="left"))
        return items[:end], times[:end]

    def moment(self, user: int | None) -> int:
        """Now, for a user: after the end of the data and after all that they did.
        Others' events move nobody's clock.
        """
        _, times = (_NONE, _NONE) if user is None else self.events(user)
        return max(self.dataset.end, int(times[-1]) + 1 if len(times) else 0)

    def add(
        self, user_ids: Sequence[str], users: Sequence[int], items: np.ndarray, times: np.ndarray
    ) -> None:
        """Add events [n], row by row; within one second they stand in the given order."""
        owners = np.asarray(users, np.int64)
        for user_id, user in zip(user_ids, owners.tolist(), strict=True):
            if user >= self.dataset.n_users:
                self._name(user_id, user)
        for user in np.unique(owners).tolist():
            mine = owners == user
            self._merged[user] = _in_order([self.events(user), (items[mine], times[mine])])

    def request(self, request_id: str, user: int, item: int, time: int) -> Request:
        """The request that the event (user, item, time) answers; as `Dataset.request` makes it."""
        history, times = self.before(user, time)
        exclude = self.dataset.not_again(user, time, history, self.dataset.exclude_seen)
        return Request(request_id, user, time, history, times, exclude=exclude[exclude != item])

    def _name(self, user_id: str, user: int) -> None:
        self._new[user_id], self._ids[user] = user, user_id

    def _look_up(self, user_id: str) -> int | None:
        found = [part for one in self.later if (part := one.of(user_id)) is not None]
        if not found:
            return None
        user = found[0][0]
        self._name(user_id, user)
        self._keep(user, found)
        return user

    def _keep(self, user: int, found: Sequence[tuple[int, np.ndarray, np.ndarray]]) -> None:
        if len(self._read) > MOST_KEPT:
            self._read.clear()
        parts = [self._of_data(user), *(_once(items, times) for _, items, times in found)]
        for number in range(1, len(parts)):
            parts[number] = _not_in(parts[number], parts[:number])
        self._read[user] = _in_order(parts)

    def _of_data(self, user: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= user < self.dataset.n_users:
            return _NONE, _NONE
        mine = slice(self.dataset.offsets[user], self.dataset.offsets[user + 1])
        return self.dataset.items[mine], self.dataset.times[mine]


Events = tuple[np.ndarray, np.ndarray]  # items, times


def _in_order(parts: Sequence[Events]) -> Events:
    """Events by time; within one second as they come."""
    items, times = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    order = np.argsort(times, kind="stable")
    return items[order], times[order]


def _once(items: np.ndarray, times: np.ndarray) -> Events:
    """Events, each once: where it came first."""
    _, first = np.unique(np.stack([items, times], 1), axis=0, return_index=True)
    return items[np.sort(first)], times[np.sort(first)]


def _not_in(events: Events, others: Sequence[Events]) -> Events:
    held = {pair for part in others for pair in zip(part[0].tolist(), part[1].tolist(), strict=True)}
    fresh = np.array(
        [pair not in held for pair in zip(events[0].tolist(), events[1].tolist(), strict=True)], bool
    )
    return events[0][fresh], events[1][fresh]

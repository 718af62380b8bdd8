"""Histories that go on: a run's data, and on top of it the events that have come since.
The data itself stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys.data.dataset import Dataset
from recsys.recommender import Request

_NONE = np.zeros(0, np.int64)


class LiveHistories:
    """Users and their events as of now. Users whom the data does not know get the integers after its own.

    Roles, counts and everything else that was learned from stay those of the data: an event of one user
    changes nothing that is read of another.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset
        self._new: dict[str, int] = {}  # user id -> integer
        # items and times of users with later events
        self._merged: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def copy(self) -> LiveHistories:
        """The same histories; adding to one leaves the other as it is."""
        other = LiveHistories.__new__(LiveHistories)
        other.dataset = self.dataset
        other._new, other._merged = dict(self._new), dict(self._merged)
        return other

    def user_index(self, user_id: str) -> int | None:
        """The integer of a user id, or None for a user without an event anywhere."""
        known = self.dataset.user_index(user_id)
        return self._new.get(user_id) if known is None else known

    def numbers(self) -> dict[str, int]:
        """User id -> integer of everybody who has an event anywhere."""
        return self.dataset.user_numbers | self._new

    def number(self, user_id: str) -> int:
        """The integer of a user id; a new user gets the next free one."""
        known = self.user_index(user_id)
        if known is None:
            known = max(self._new.values(), default=self.dataset.n_users - 1) + 1
            self._new[user_id] = known
        return known

    def events(self, user: int) -> tuple[np.ndarray, np.ndarray]:
        """All items and times of a user, oldest first."""
        if user in self._merged:
            return self._merged[user]
        if user >= self.dataset.n_users:
            return _NONE, _NONE
        mine = slice(self.dataset.offsets[user], self.dataset.offsets[user + 1])
        return self.dataset.items[mine], self.dataset.times[mine]

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
        """Add events [n], row by row; within one second they stand in the given order.

        Events of items that a later version of the run has, and this one has not, are left out; their users are known.
        """
        owners = np.asarray(users, np.int64)
        for user_id, user in zip(user_ids, owners.tolist(), strict=True):
            if user >= self.dataset.n_users:
                self._new[user_id] = user
        here = np.asarray(items) < self.dataset.n_items
        owners, items, times = owners[here], np.asarray(items)[here], np.asarray(times)[here]
        for user in np.unique(owners).tolist():
            mine = owners == user
            old_items, old_times = self.events(user)
            times_ = np.concatenate([old_times, times[mine]])
            order = np.argsort(times_, kind="stable")
            self._merged[user] = np.concatenate([old_items, items[mine]])[order], times_[order]

    def request(self, request_id: str, user: int, item: int, time: int) -> Request:
        """The request that the event (user, item, time) answers; as `Dataset.request` makes it."""
        history, times = self.before(user, time)
        exclude = self.dataset.not_again(user, time, history, self.dataset.exclude_seen)
        return Request(request_id, user, time, history, times, exclude=exclude[exclude != item])

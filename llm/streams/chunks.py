"""Held-out events as a stream: chunks of each user's own later events, and conditions as old as stated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from recsys.data.dataset import Dataset
from recsys.embeddings.user_vectors import UserVectors
from recsys.recommender import Request

FOREVER = np.iinfo(np.int64).max


def chunks_of(
    dataset: Dataset, roles: Sequence[int], chunks: int, before: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Events of `roles`, ascending [n], and the part [n] that each belongs to: 0, or a chunk 1 … `chunks`.

    Of each user's events the first `before` (a share, rounded up) are part 0, the rest chunks of equal size
    by position. Events of one user and second stay together, in the part of the first: no chunk holds what an
    earlier one has learned at that moment.
    """
    events = np.flatnonzero(np.isin(dataset.roles, roles))
    users, times = dataset.users[events], dataset.times[events]
    counts = np.bincount(users, minlength=dataset.n_users)
    place = np.arange(len(events)) - (np.cumsum(counts) - counts)[users]
    kept = np.ceil(before * counts).astype(np.int64)
    later = np.maximum(counts - kept, 1)[users]
    part = np.where(place < kept[users], 0, 1 + (place - kept[users]) * chunks // later)
    first = np.ones(len(events), bool)
    first[1:] = (users[1:] != users[:-1]) | (times[1:] != times[:-1])
    return events, part[np.maximum.accumulate(np.where(first, np.arange(len(events)), 0))]


def starts_of(dataset: Dataset, events: np.ndarray) -> np.ndarray:
    """The time [U] of each user's first of `events` (ascending); the end of time for a user with none."""
    starts = np.full(dataset.n_users, FOREVER, np.int64)
    users, first = np.unique(dataset.users[events], return_index=True)
    starts[users] = dataset.times[events[first]]
    return starts


def last_of_each_user(dataset: Dataset, events: np.ndarray) -> np.ndarray:
    """The last of `events` (ascending) of each user who has two of them or more:
    what a training on the rest is validated on.
    """
    users = dataset.users[events]
    last = np.append(users[1:] != users[:-1], True) if len(events) else np.zeros(0, bool)
    return events[last & (np.bincount(users, minlength=dataset.n_users)[users] > 1)]


class AsOf:
    """User vectors that were last computed at `until` [U] (unix seconds):
    what came at or after it is not in them.
    """

    def __init__(self, users: UserVectors, until: np.ndarray):
        self.users, self.until = users, until
        self.dim, self.space = users.dim, users.space

    def vectors(self, requests: Sequence[Request]) -> tuple[np.ndarray, np.ndarray]:
        return self.users.vectors([self._then(request) for request in requests])

    def _then(self, request: Request) -> Request:
        if request.user is None or request.time <= self.until[request.user]:
            return request
        moment = int(self.until[request.user])
        end = int(np.searchsorted(request.history_times, moment, side="left"))
        history, times = request.history[:end], request.history_times[:end]
        return replace(request, time=moment, history=history, history_times=times)

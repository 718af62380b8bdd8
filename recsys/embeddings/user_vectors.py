"""A user's vector as a function of what came before a moment: learned aggregates, or brought embeddings.

Every function here takes only events strictly earlier than the moment asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import nn

from recsys.data.splits import is_sorted
from recsys.recommender import Request
from recsys.requests import blocks

CHUNK = 4096  # histories that are summed at once


class UserVectors(Protocol):
    """Vectors [R, d] (float32) for requests, and which of them are known [R]
    (False: no evidence, a zero row).
    """

    dim: int
    space: str  # identifies the embedding space; a prefix trained in one space refuses another

    def vectors(self, requests: Sequence[Request]) -> tuple[np.ndarray, np.ndarray]: ...


class FadingVectors(UserVectors, Protocol):
    """User vectors that read histories, which fade by a half-life (in items; None: not at all)."""

    def faded(self, half_life: float | None, space: str) -> FadingVectors: ...


def recency_weights(lengths: np.ndarray, half_life: float | None) -> np.ndarray:
    """Weights [Σ lengths] of histories laid one after the other, each oldest first:
    0.5 ** (age / half_life) with age counted in items, and Σ w² = 1 within a history.

    With `half_life=None` all are 1/sqrt(length), which is LightGCN's own normalisation of a user node.
    """
    row = np.repeat(np.arange(len(lengths)), lengths)
    age = np.cumsum(lengths)[row] - 1 - np.arange(len(row))
    weights = np.ones(len(row)) if half_life is None else np.exp2(-age / half_life)
    squares = np.bincount(row, weights=weights * weights, minlength=len(lengths))
    return (weights / np.sqrt(squares[row])).astype(np.float32)


class HistoryVectors:
    """Inductive vectors: u(t) = Σ_{i before t} w_i · message_i, scaled to unit length.

    `messages` [N, d] is LightGCN's message table; `half_life` (in items) is chosen on validation. A history
    without a single item that has a message gives a zero row and `known=False`.
    """

    def __init__(self, messages: np.ndarray, half_life: float | None, space: str):
        self.messages = np.ascontiguousarray(messages, dtype=np.float32)
        self.half_life, self.space, self.dim = half_life, space, messages.shape[1]

    def faded(self, half_life: float | None, space: str) -> HistoryVectors:
        return HistoryVectors(self.messages, half_life, space)

    def vectors(self, requests: Sequence[Request]) -> tuple[np.ndarray, np.ndarray]:
        parts = [self.of_histories([request.history for request in some]) for some in blocks(requests, CHUNK)]
        none = np.zeros((0, self.dim), np.float32), np.zeros(0, bool)
        vectors, known = zip(none, *parts, strict=True)
        return np.concatenate(vectors), np.concatenate(known)

    def of_histories(
        self, histories: Sequence[np.ndarray], chunk: int = CHUNK
    ) -> tuple[np.ndarray, np.ndarray]:
        """Item histories, oldest first -> vectors [R, d] and known [R]."""
        return unit_and_known(self.sums(histories, chunk))

    def sums(self, histories: Sequence[np.ndarray], chunk: int = CHUNK) -> np.ndarray:
        """Σ w_i · message_i [R, d] of item histories, oldest first."""
        parts = [np.zeros((0, self.dim), np.float32)]
        table = torch.from_numpy(self.messages)
        for start in range(0, len(histories), chunk):
            some = histories[start : start + chunk]
            lengths = np.fromiter(map(len, some), np.int64, len(some))
            summed = nn.functional.embedding_bag(
                torch.from_numpy(np.concatenate([*some, np.zeros(0, np.int64)]).astype(np.int64)),
                table,
                torch.from_numpy(np.cumsum(lengths) - lengths),
                mode="sum",
                per_sample_weights=torch.from_numpy(recency_weights(lengths, self.half_life)),
            ).numpy()
            parts.append(summed)
        return np.concatenate(parts)


def unit_and_known(summed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows [R, d] of unit length, and which are not zero [R]."""
    norms = np.linalg.norm(summed, axis=1, keepdims=True)
    return np.divide(summed, norms, out=np.zeros_like(summed), where=norms > 1e-12), norms[:, 0] > 1e-12


class BroughtVectors:
    """Embeddings that a service already has: rows (user, available_at, vector),
    joined backward and strictly earlier.

    The row used at moment t is the last one that became available before t; none: a zero row, `known=False`.
    """

    def __init__(self, users: np.ndarray, times: np.ndarray, vectors: np.ndarray, space: str):
        if not is_sorted(users, times):  # as saved they are, and stay on disk
            order = np.lexsort((times, users))
            users, times, vectors = users[order], times[order], vectors[order]
        self.users, self.times, self.values = users, times, vectors.astype(np.float32, copy=False)
        self.dim, self.space = vectors.shape[1], space

    def vectors(self, requests: Sequence[Request]) -> tuple[np.ndarray, np.ndarray]:
        found = np.array([self.row(request.user, request.time) for request in requests], dtype=np.int64)
        known = found >= 0
        result = np.zeros((len(found), self.dim), np.float32)
        result[known] = self.values[found[known]]
        return result, known

    def row(self, user: int | None, time: int) -> int:
        """The row of `values` that is used for a user at a moment; −1: none."""
        if user is None:
            return -1
        start, end = np.searchsorted(self.users, [user, user + 1])
        position = start + np.searchsorted(self.times[start:end], time, side="left") - 1
        return int(position) if position >= start else -1


class NeighbourVectors:
    """u(t) = Σ_{i before t} w_i · message_i + what neighbours say of the user before t, scaled to unit length.

    `said` has a row for each user and moment at which a neighbour was added (`recsys.embeddings.heterogeneous`), in the space of
    `history`. `alone`: neighbours only, as if nobody had a history.
    """

    def __init__(self, history: HistoryVectors, said: BroughtVectors, alone: bool = False):
        self.history, self.said, self.alone = history, said, alone
        self.dim, self.space = history.dim, history.space

    def vectors(self, requests: Sequence[Request]) -> tuple[np.ndarray, np.ndarray]:
        parts = [self._of(some) for some in blocks(requests, CHUNK)]
        none = np.zeros((0, self.dim), np.float32), np.zeros(0, bool)
        vectors, known = zip(none, *parts, strict=True)
        return np.concatenate(vectors), np.concatenate(known)

    def faded(self, half_life: float | None, space: str) -> NeighbourVectors:
        return NeighbourVectors(self.history.faded(half_life, space), self.said, self.alone)

    def _of(self, requests: Sequence[Request]) -> tuple[np.ndarray, np.ndarray]:
        summed = self.said.vectors(requests)[0]
        if not self.alone:
            summed = summed + self.history.sums([request.history for request in requests])
        return unit_and_known(summed)


def partners_of_other_users(users: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """For each request [R] another one, never of the same user;
    a permutation unless one user holds over half of them.

    Requests are put in a random order grouped by user and matched with the one as far back as the largest
    group is long. Where one user holds more than half of all requests, partners are drawn with repetition
    instead. Raises `ValueError` for a single user.
    """
    n = len(users)
    names, counts = np.unique(users, return_counts=True)
    if len(names) < 2:
        raise ValueError("E2P-Random needs at least two users with test instances")
    if 2 * counts.max() > n:
        return np.array([generator.choice(np.flatnonzero(users != user)) for user in users])
    rank = generator.permutation(len(names))[np.searchsorted(names, users)]
    order = np.lexsort((generator.random(n), rank))
    partner = np.empty(n, dtype=np.int64)
    partner[order] = np.roll(order, int(counts.max()))
    assert (users[partner] != users).all()
    return partner

"""A user's vector as a function of what came before a moment: learned aggregates, or brought embeddings.

Every function here takes only events strictly earlier than the moment asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from torch import nn

from recsys.data.tables import DataError
from recsys.recommender import Request


class UserVectors(Protocol):
    """Vectors [R, d] (float32) for requests, and which of them are known [R]
    (False: no evidence, a zero row).
    """

    dim: int
    space: str  # identifies the embedding space; a prefix trained in one space refuses another

    def vectors(self, requests: Sequence[Request]) -> tuple[np.ndarray, np.ndarray]: ...


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
        self._has_message = np.abs(self.messages).sum(1) > 0

    def vectors(self, requests: Sequence[Request]) -> tuple[np.ndarray, np.ndarray]:
        return self.of_histories([request.history for request in requests])

    def of_histories(
        self, histories: Sequence[np.ndarray], chunk: int = 4096
    ) -> tuple[np.ndarray, np.ndarray]:
        """Item histories, oldest first -> vectors [R, d] and known [R]."""
        parts, known = [np.zeros((0, self.dim), np.float32)], [np.zeros(0, bool)]
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
            norms = np.linalg.norm(summed, axis=1, keepdims=True)
            parts.append(np.divide(summed, norms, out=np.zeros_like(summed), where=norms > 1e-12))
            known.append(norms[:, 0] > 1e-12)
        return np.concatenate(parts), np.concatenate(known)


class BroughtVectors:
    """Embeddings that a service already has: rows (user, available_at, vector),
    joined backward and strictly earlier.

    The row used at moment t is the last one that became available before t; none: a zero row, `known=False`.
    """

    def __init__(self, users: np.ndarray, times: np.ndarray, vectors: np.ndarray, space: str):
        order = np.lexsort((times, users))
        self.users, self.times, self.values = users[order], times[order], vectors[order].astype(np.float32)
        self.dim, self.space = vectors.shape[1], space

    def vectors(self, requests: Sequence[Request]) -> tuple[np.ndarray, np.ndarray]:
        found = np.array([self._row(request.user, request.time) for request in requests], dtype=np.int64)
        known = found >= 0
        result = np.zeros((len(found), self.dim), np.float32)
        result[known] = self.values[found[known]]
        return result, known

    def _row(self, user: int | None, time: int) -> int:
        if user is None:
            return -1
        start, end = np.searchsorted(self.users, [user, user + 1])
        position = start + np.searchsorted(self.times[start:end], time, side="left") - 1
        return int(position) if position >= start else -1


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


def read_brought(path: Path, key: str, index: dict[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read `key, timestamp, vector` rows of a Parquet file ->
    (integer ids [M], unix seconds [M], vectors [M, d]).

    Rows of ids that the run does not know are dropped; ragged, empty or non-finite vectors raise `DataError`.
    `timestamp` is when the vector became *available*; item files may leave it out (then 0).
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file; give a Parquet file with columns {key}, timestamp, vector")
    try:
        frame = pd.read_parquet(path)
    except Exception as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from None
    wanted = [key, "vector"] + (["timestamp"] if key == "user_id" else [])
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise DataError(
            f"{path}: column {missing[0]!r} is missing; found {', '.join(map(str, frame.columns))}"
        )
    lengths = frame["vector"].map(lambda vector: len(vector) if vector is not None else 0).to_numpy()
    if len(frame) == 0 or (lengths != lengths[0]).any() or lengths[0] == 0:
        row = int(np.flatnonzero(lengths != (lengths[0] or 1))[0]) if len(frame) else 0
        raise DataError(f"{path}: row {row}: every vector must have one length (the first has {lengths[:1]})")
    values = np.stack(list(frame["vector"])).astype(np.float32)
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
        raise DataError(f"{path}: row {row}: the vector has a value that is not finite")
    times = (
        _whole_seconds(path, frame["timestamp"]) if "timestamp" in frame else np.zeros(len(frame), np.int64)
    )
    ids = frame[key].astype(str).map(index)
    known = ids.notna().to_numpy()
    if not known.any():
        raise DataError(f"{path}: no {key} in it is known to the run (the first is {frame[key].iloc[0]!r})")
    return ids[known].to_numpy(dtype=np.int64), times[known], values[known]


def _whole_seconds(path: Path, column: pd.Series) -> np.ndarray:
    numbers = pd.to_numeric(column, errors="coerce")
    bad = np.flatnonzero(numbers.isna() | (numbers % 1 != 0) | (numbers.abs() >= 1e11))
    if len(bad):
        raise DataError(
            f"{path}: row {bad[0]}: timestamp {column.iloc[bad[0]]!r} is not a Unix time; expected whole seconds"
        )
    return numbers.to_numpy(dtype=np.int64)

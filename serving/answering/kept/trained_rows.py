"""Rows of P_u that feedback has moved, as a method reads them: a person's when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sqlalchemy as sa
import torch

from recsys.data.later_events import LiveHistories
from recsys.run import Run
from serving.state.histories import StoredHistories
from serving.state.tables import states


def key_of(run: Run, method: str) -> str:
    """What rows are of: the method, and the training that they go on from (a deletion rewrites that one's record, and leaves when it was)."""
    record = run.record("personalize") or {"finished_unix_s": 0}
    return f"{method}@{record['finished_unix_s']:.6f}"


class TrainedRows(dict[int, torch.Tensor]):
    """User integer -> row [L·h]: of who has one; the newest of the last source that has any."""

    def __init__(self, key: str, histories: LiveHistories, sources: Sequence[StoredHistories]):
        super().__init__()
        self.key, self.histories, self.sources = key, histories, sources
        self._without: set[int] = set()  # who was looked up, and has none
        self._any: bool | None = None

    def copy(self) -> TrainedRows:
        """The same rows; what is put into one is not in the other."""
        other = TrainedRows(self.key, self.histories, self.sources)
        other.update(self)
        return other

    def forget(self) -> None:
        """Read anew what is asked for."""
        self.clear()
        self._without.clear()
        self._any = None

    def __contains__(self, user: object) -> bool:
        if dict.__contains__(self, user):
            return True
        if not isinstance(user, int) or user in self._without or not self._has_any():
            return False
        user_id = self.histories.user_id(user)
        row = None if user_id is None else self._of(user_id)
        if row is None:
            self._without.add(user)
            return False
        self[user] = row
        return True

    def __missing__(self, user: int) -> torch.Tensor:
        if user in self:
            return self[user]
        raise KeyError(user)

    def _has_any(self) -> bool:
        if self._any is None:
            self._any = False
            for source in self.sources:
                with source.state.reading() as connection:
                    query = sa.select(states.c.seq).where(states.c.method == self.key).limit(1)
                    self._any |= connection.scalar(query) is not None
        return self._any

    def _of(self, user_id: str) -> torch.Tensor | None:
        for source in reversed(self.sources):
            which = [states.c.user_id == user_id, states.c.method == self.key, states.c.upto <= source.seq]
            which += [] if source.row is None else [states.c.seq <= source.row]
            query = sa.select(states.c.state).where(*which).order_by(states.c.seq.desc()).limit(1)
            with source.state.reading() as connection:
                row = connection.scalar(query)
            if row is not None:
                return torch.from_numpy(np.frombuffer(row, "<f4").copy())
        return None

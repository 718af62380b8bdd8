"""Labelled playlists: what a user asked for, what was shown for it, and which of it they engaged with.

    query "dark comedy" of user 3 at second 1,100,000,000  →  items 17 (1), 250 (0), 4 (1)

The unit is the shown list. A list belongs to one part of the data, so that nothing that judges has seen what
it judges:

    generator, generator_validation    LM and KTO training of prefixes, and what stops and chooses them
    predictor, predictor_validation    the engagement predictor, and what chooses and calibrates it
    test                               what the table reports, once
    none                               everything that may not be used

Generator and predictor get disjoint users of the same times (PERSONALIZE events, which neither the graph of
the conditioning vectors nor Stage 1 has fitted); test lists are later than everything of the same user
(`recsys.data.splits`). Query texts that are held out (`recsys.data.phrases`) stand in test lists alone:
whoever answers them has never read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.data.dataset import Dataset
from recsys.recommender import Request
from recsys.run import Run

PARTS = ("generator", "generator_validation", "predictor", "predictor_validation", "test", "none")
GENERATOR, GENERATOR_VALIDATION, PREDICTOR, PREDICTOR_VALIDATION, TEST_LISTS, NONE = range(len(PARTS))


@dataclass(frozen=True, eq=False)
class ShownLists:
    """Q lists. List q holds items[offsets[q] : offsets[q + 1]] in the order in which they were shown."""

    users: np.ndarray  # [Q] int64
    # [Q] int64, unix seconds: the moment of asking; nothing that was shown is in the history before it
    times: np.ndarray
    queries: list[str]  # [Q]
    parts: np.ndarray  # [Q] int8: see PARTS
    held_out: np.ndarray  # [Q] bool: no training has read this query's text
    offsets: np.ndarray  # [Q + 1] int64
    items: np.ndarray  # [S] int64
    labels: np.ndarray  # [S] bool: engaged

    def __post_init__(self) -> None:
        assert (
            len(self.users) == len(self.times) == len(self.queries) == len(self.parts) == len(self.held_out)
        )
        assert len(self.offsets) == len(self.users) + 1
        assert len(self.items) == len(self.labels) == self.offsets[-1]
        assert (np.diff(self.offsets) > 0).all()

    def __len__(self) -> int:
        return len(self.users)

    def of(self, part: int) -> np.ndarray:
        """Indices of the lists of a part, ascending."""
        return np.flatnonzero(self.parts == part)

    def shown(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Items and labels of one list."""
        rows = slice(self.offsets[index], self.offsets[index + 1])
        return self.items[rows], self.labels[rows]

    def request(self, index: int, dataset: Dataset) -> Request:
        """The request of one list: its history is strictly before its time;
        what was shown is never excluded.
        """
        user, time = int(self.users[index]), int(self.times[index])
        history, times = dataset.before(user, time) if user >= 0 else (self.items[:0], self.items[:0])
        exclude = dataset.not_again(user, time, history, dataset.exclude_seen)
        return Request(
            request_id=f"q{index}",
            user=user if user >= 0 else None,
            time=time,
            history=history,
            history_times=times,
            query=self.queries[index],
            exclude=np.setdiff1d(exclude, self.shown(index)[0]),
        )

    def requests(self, indices: Sequence[int] | np.ndarray, dataset: Dataset) -> list[Request]:
        return [self.request(int(index), dataset) for index in indices]

    def save(self, folder: Path) -> None:
        """Write `lists.parquet`: a row a list, so that a person's rows can be found and forgotten
        (`recsys.artifacts.user_rows`).
        """
        columns = {
            "user": self.users,
            "time": self.times,
            "query": pa.array(self.queries, pa.string()),
            "part": self.parts,
            "held_out": self.held_out,
            "items": pa.ListArray.from_arrays(pa.array(self.offsets, pa.int32()), pa.array(self.items)),
            "engaged": pa.ListArray.from_arrays(pa.array(self.offsets, pa.int32()), pa.array(self.labels)),
        }
        pq.write_table(pa.table(columns), folder / "lists.parquet")

    @classmethod
    def none(cls) -> ShownLists:
        """No lists at all."""
        nothing, unasked = np.zeros(0, np.int64), np.zeros(0, bool)
        return cls(nothing, nothing, [], nothing, unasked, np.zeros(1, np.int64), nothing, unasked)

    @classmethod
    def load(cls, run: Run) -> ShownLists:
        """What the `engagement` stage of `run` left."""
        table = pq.ParquetFile(run.artifact("engagement", "lists.parquet")).read()
        columns = {name: np.array(table[name].to_numpy()) for name in ("user", "time", "part", "held_out")}
        items, engaged = (table[name].combine_chunks() for name in ("items", "engaged"))
        return cls(
            users=columns["user"],
            times=columns["time"],
            queries=table["query"].to_pylist(),
            parts=columns["part"],
            held_out=columns["held_out"].astype(bool),
            offsets=np.concatenate([[0], np.cumsum(pc.list_value_length(items).to_numpy())]).astype(np.int64),
            items=items.flatten().to_numpy(),
            labels=engaged.flatten().to_numpy(zero_copy_only=False),
        )

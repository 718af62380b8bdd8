"""What a peer's script gets and leaves: a split as Parquet in, ranked lists and a report of its costs out.

Scripts run in environments of their own (`python -m serving.bench.peers.NAME SPLIT OUT SETTINGS`), so nothing
here is imported but the standard library, NumPy and PyArrow. A test target is in no file of the split.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

K = 10  # items of a list
REPORT, LISTS, SAID = "report.json", "lists.parquet", "peer: "  # `SAID` begins a line that the driver shows
KEPT = "kept.pt"  # where a script that was killed goes on from, if it keeps one
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Requests:
    """R histories one after the other: `items[offsets[r]:offsets[r + 1]]` is what `users[r]` has had, oldest first."""

    users: np.ndarray  # [R] int64
    items: np.ndarray  # [sum of lengths] int64
    offsets: np.ndarray  # [R + 1] int64

    def __len__(self) -> int:
        return len(self.users)

    def history(self, row: int) -> np.ndarray:
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    @property
    def rows(self) -> np.ndarray:
        """The request of each of `items`."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def part(self, start: int, stop: int) -> Requests:
        first, last = self.offsets[start], self.offsets[min(stop, len(self))]
        return Requests(
            self.users[start:stop], self.items[first:last], self.offsets[start : stop + 1] - first
        )

    def parts(self, size: int) -> Iterator[Requests]:
        for start in range(0, len(self), size):
            yield self.part(start, start + size)

    def padded(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The last `length` items of each history, left-aligned [R, length] with −1 behind, and how many [R]."""
        lengths = np.minimum(np.diff(self.offsets), length)
        filled = np.full((len(self), length), -1, np.int64)
        at = np.arange(length)[None] < lengths[:, None]
        filled[at] = self.items[((self.offsets[1:] - lengths)[:, None] + np.arange(length)[None])[at]]
        return filled, lengths

    @classmethod
    def read(cls, path: Path) -> Requests:
        table = pq.read_table(path)
        history = table["history"].combine_chunks()
        return cls(
            table["user"].to_numpy().astype(np.int64),
            history.flatten().to_numpy().astype(np.int64),
            np.concatenate([[0], np.cumsum(history.value_lengths().to_numpy())]).astype(np.int64),
        )


@dataclass(frozen=True)
class Split:
    """What a peer learns from and is asked: training events [E], each user's in order, and requests."""

    folder: Path
    n_users: int
    n_items: int
    users: np.ndarray  # [E] int64, ascending
    items: np.ndarray  # [E] int64
    validation: Requests
    validation_targets: np.ndarray  # [V] int64
    test: Requests

    @property
    def places(self) -> np.ndarray:
        """Which of their user's events each training event is, from 0 [E]: a time without ties."""
        return np.arange(len(self.users)) - np.searchsorted(self.users, self.users)

    def vectors(self) -> np.ndarray:
        """Text vectors of the items [N, d] float32; only where the split was written with them."""
        return np.load(self.folder / "item_vectors.npy")

    @classmethod
    def read(cls, folder: Path) -> Split:
        facts = json.loads((folder / "split.json").read_text())
        train = pq.read_table(folder / "train.parquet")
        validation = folder / "validation.parquet"
        return cls(
            folder,
            facts["users"],
            facts["items"],
            train["user"].to_numpy().astype(np.int64),
            train["item"].to_numpy().astype(np.int64),
            Requests.read(validation),
            pq.read_table(validation)["target"].to_numpy().astype(np.int64),
            Requests.read(folder / "test.parquet"),
        )


class Clock:
    """Seconds on the wall and of this process's CPU, while it runs."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self._since: tuple[float, float] | None = None

    def start(self) -> None:
        """Go on; nothing if it runs."""
        self._since = self._since or (time.perf_counter(), time.process_time())

    def stop(self) -> None:
        """Stand; nothing if it stands."""
        if self._since is not None:
            self.wall += time.perf_counter() - self._since[0]
            self.cpu += time.process_time() - self._since[1]
            self._since = None

    @contextmanager
    def running(self) -> Iterator[None]:
        self.start()
        try:
            yield
        finally:
            self.stop()


Recommend = Callable[
    [Requests, bool], np.ndarray
]  # requests, are seen items set aside -> items [R, K], −1: none


@dataclass
class Task:
    """One peer's work: its split, its settings, its clock and what it has to say in the end."""

    split: Split
    out: Path
    settings: dict[str, Any]  # `seconds`, `patience`, `seed` and `threads` of the driver, and the peer's own
    clock: Clock = field(default_factory=Clock)
    curve: list[dict[str, float]] = field(default_factory=list)
    said: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_command_line(cls) -> Task:
        split, out, settings = sys.argv[1:4]
        return cls(Split.read(Path(split)), Path(out), json.loads(settings))

    def validate(
        self, epochs: float, recall: float | None = None, recommend: Recommend | None = None
    ) -> bool:
        """Add R@10 on validation, seen items set aside, to the curve; is it the best so far?

        The clock must stand meanwhile.
        """
        if recommend is not None:
            recall = recall_of(recommend(self.split.validation, True), self.split.validation_targets)
        assert recall is not None
        best = max((row["recall"] for row in self.curve), default=-1.0)
        self.curve.append(
            {"epochs": epochs, "seconds": self.clock.wall, "cpu_seconds": self.clock.cpu, "recall": recall}
        )
        say(f"{epochs:.4g} epochs, {self.clock.wall:.1f} s ({self.clock.cpu:.1f} CPU): R@10 {recall:.4f}")
        return recall > best

    @property
    def kept(self) -> Path:
        """A file that outlives a kill: the training's state and `progress`, by `whole`."""
        return self.out / KEPT

    def progress(self) -> dict[str, Any]:
        return {"curve": self.curve, "seconds": self.clock.wall, "cpu_seconds": self.clock.cpu}

    def go_on(self, progress: dict[str, Any]) -> None:
        """Take over what a killed training had spent and found. Time since its last validation is lost, and not counted."""
        self.curve = list(progress["curve"])
        self.clock.wall += progress["seconds"]
        self.clock.cpu += progress["cpu_seconds"]
        say(f"goes on after {self.clock.cpu:.0f} CPU s")

    @property
    def stop(self) -> str:
        """Why training ends here: its CPU seconds are spent, or validations have brought nothing; "" if it goes on."""
        if self.clock.cpu >= self.settings["seconds"]:
            return "time"
        recalls = [row["recall"] for row in self.curve]
        patience = self.settings["patience"]
        if recalls and patience and len(recalls) - 1 - int(np.argmax(recalls)) >= patience:
            return "patience"
        return ""

    def finish(self, recommend: Recommend, stopped: str, packages: Sequence[str]) -> None:
        """Answer the test requests, timed with seen items set aside, and write lists and report, whole or not at all."""
        asking = Clock()
        recommend(self.split.test.part(0, 64), True)  # what a first call alone pays is not timed
        with asking.running():
            aside = recommend(self.split.test, True)
        free = recommend(self.split.test, False)
        self.out.mkdir(parents=True, exist_ok=True)
        rows = {
            "user": self.split.test.users,
            "set_aside": list(as_lists(aside)),
            "all": list(as_lists(free)),
        }
        whole(self.out / LISTS, lambda path: pq.write_table(pa.table(rows), path))
        report = {
            **self.progress(),
            "stopped": stopped,
            "asked": {"users": len(self.split.test), "seconds": asking.wall, "cpu_seconds": asking.cpu},
            "peak_bytes": peak_bytes(),
            "versions": {name: version(name) for name in packages},
            **self.said,
        }
        whole(self.out / REPORT, lambda path: path.write_text(json.dumps(report, indent=1)))
        self.kept.unlink(missing_ok=True)
        say(f"{len(self.split.test)} users asked in {asking.wall:.2f} s ({asking.cpu:.2f} CPU)")


def recall_of(lists: np.ndarray, targets: np.ndarray) -> float:
    """Share of the targets [R] that are in their list [R, K]; for curves (final figures are the evaluator's)."""
    return float((lists == targets[:, None]).any(axis=1).mean())


def best_of_scores(scores: np.ndarray, requests: Requests, set_aside: bool, k: int = K) -> np.ndarray:
    """The k best items [R, k] by `scores` [R, N], which is used up; −inf is never recommended (−1)."""
    if set_aside:
        scores[requests.rows, requests.items] = -np.inf
    k = min(k, scores.shape[1])
    some = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    values = np.take_along_axis(scores, some, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    some, values = (np.take_along_axis(x, order, axis=1) for x in (some, values))
    return np.where(np.isfinite(values), some, -1)


def as_lists(items: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of [R, K] without their −1."""
    for row in items:
        yield row[row >= 0]


def peak_bytes() -> int:
    """The most memory that this process had resident; of itself, not of what it was forked from."""
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def say(text: str) -> None:
    print(f"{SAID}{text}", flush=True)


def whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file under a temporary name and rename it."""
    temporary = path.with_name(f".{path.name}.tmp")
    write(temporary)
    os.replace(temporary, path)

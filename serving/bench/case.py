"""What a benchmark case answers, and how two sides are timed: in turn, in one process, several times."""

from __future__ import annotations

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@dataclass(frozen=True)
class Result:
    """One line of the table. `ratio` is the median over repeats,
    `spread` the smallest and the largest of them.

    `ours` and `peer` are medians in `unit`. A case meets its target when ratio ≥
    target (≤ where lower is better).
    """

    name: str
    peer: str  # what ours is compared with
    ratio: float
    spread: tuple[float, float]
    target: float | None  # None: shown beside the others, with nothing to reach
    lower_is_better: bool
    ours: float
    peers: float
    unit: str  # of `ours` and `peers`
    repeats: int
    limit: str  # what limits ours, in words
    # sizes, memory, quality: whatever is beside the ratio
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        if self.target is None:
            return True
        return self.ratio <= self.target if self.lower_is_better else self.ratio >= self.target


@dataclass(frozen=True)
class Timing:
    """Seconds of each repeat, and the peak memory that each side took beyond what
    it found (bytes; None: unknown).
    """

    ours: list[float]
    peers: list[float]
    our_peak: int | None
    peer_peak: int | None

    @property
    def speedup(self) -> tuple[float, tuple[float, float]]:
        """Peer's time over ours: the median over repeats, and their range."""
        return _median_and_range([theirs / ours for ours, theirs in zip(self.ours, self.peers, strict=True)])

    @property
    def share(self) -> tuple[float, tuple[float, float]]:
        """Our time over the peer's: the median over repeats, and their range."""
        return _median_and_range([ours / theirs for ours, theirs in zip(self.ours, self.peers, strict=True)])


def in_turn(ours: Callable[[], Any], peer: Callable[[], Any], repeats: int, warm_up: bool = True) -> Timing:
    """Run ours, then the peer, `repeats` times over. Peak memory is that of each side's first run.

    Before it each once, untimed, unless `warm_up` is off.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    peaks: list[int | None] = [None, None]
    for repeat in range(-1 if warm_up else 0, repeats):
        for side, call in enumerate((ours, peer)):
            gc.collect()
            if not seconds[side] and peaks[side] is None:
                with peak_memory() as peak:
                    took = seconds_of(call)
                peaks[side] = peak[0] if peak else None
            else:
                took = seconds_of(call)
            if repeat >= 0:
                seconds[side].append(took)
    return Timing(*seconds, *peaks)


def seconds_of(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def timed(name: str, peer: str, timing: Timing, target: float | None, limit: str, **notes: Any) -> Result:
    """A `Result` whose ratio is the peer's seconds over ours."""
    ratio, spread = timing.speedup
    ours, peers = statistics.median(timing.ours), statistics.median(timing.peers)
    return Result(name, peer, ratio, spread, target, False, ours, peers, "s", len(timing.ours), limit, notes)


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """The list is left holding the growth of the peak resident memory inside the block, in bytes;
    empty off Linux.
    """
    peak: list[int] = []
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)  # what was freed earlier goes back, so that its reuse is counted
    before = _resident("VmRSS") if _reset_peak() else None
    yield peak
    if before is not None:
        peak.append(max(0, _resident("VmHWM") - before))


def _reset_peak() -> bool:
    try:
        _CLEAR.write_text("5")  # sets VmHWM back to what is resident now (Linux)
    except OSError:
        return False
    return True


def _resident(field_name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field_name))
    return int(line.split()[1]) * 1024


def _median_and_range(values: list[float]) -> tuple[float, tuple[float, float]]:
    return statistics.median(values), (min(values), max(values))

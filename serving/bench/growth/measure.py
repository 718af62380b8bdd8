"""A command in a process of its own: seconds by the clock and of the processors, and the peak of its memory.

Memory is that of the process and all below it: the sum of their peaks (`VmHWM`) at the moment, of some samples a second, at which it is
largest. Of one process that is its exact peak but for its last fraction of a second; of several it counts shared pages for each.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from recsys.artifacts.rewrite import write_text_atomically
from serving.bench.growth.stages import Size

EVERY_S = 0.05  # between two looks at the memory
LAST_LINES = 4  # of what a failed command said


@dataclass(frozen=True)
class Measured:
    """One stage at one size. `cpu_s` is user and system time of the process and of all that it waited for."""

    stage: str
    size: Size
    seconds: float
    cpu_s: float
    peak_bytes: int
    failed: str | None = None  # why, where it did


def measure(stage: str, size: Size, command: Sequence[str], log: Path, limit_s: float) -> Measured:
    """Run a command, its output into `log`; one that takes longer than `limit_s` is ended, and has failed."""
    started, peak, ended = time.monotonic(), 0, False
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        while True:
            done, status, used = os.wait4(process.pid, os.WNOHANG)
            seconds = time.monotonic() - started
            if done:
                break
            peak = max(peak, sum(_peak(pid) for pid in _family(process.pid)))
            if seconds > limit_s and not ended:
                os.killpg(process.pid, 9)
                ended = True
            time.sleep(EVERY_S)
    process.returncode = os.waitstatus_to_exitcode(status)
    failed = None
    if ended:
        failed = f"ended after {limit_s:g} s"
    elif process.returncode:
        said = log.read_text(errors="replace").strip().splitlines()[-LAST_LINES:]
        failed = f"exit status {process.returncode}: {' / '.join(said)}"
    cpu = used.ru_utime + used.ru_stime
    return Measured(
        stage, size, seconds, cpu, peak, failed
    )  # `ru_maxrss` would be this process's own, where that is larger


def _family(pid: int) -> list[int]:
    """The process and all below it."""
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                waiting += map(int, children.read_text().split())
            except OSError:  # it has ended meanwhile
                continue
    return found


def _peak(pid: int) -> int:
    """Bytes that a process has had at most; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def read(path: Path) -> list[Measured]:
    """What was measured before; nothing where the file is not there."""
    if not path.exists():
        return []
    rows = json.loads(path.read_text(encoding="utf-8"))["measured"]
    return [Measured(**row | {"size": Size(**row["size"])}) for row in rows]


def write(path: Path, measured: Sequence[Measured]) -> None:
    write_text_atomically(path, json.dumps({"measured": [asdict(one) for one in measured]}, indent=1))

"""Engines for tests: one that works in this process, and workers and waiting for the real ones."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from serving.engines.base import Work


def work(folder, **more) -> Work:
    return Work("tests.support.engines:start", {"folder": str(folder)} | more)


def done(some_engine, folder, tasks) -> list[dict]:
    """The results in the order of the tasks, each of which came back once."""
    pairs = list(some_engine.run(work(folder), tasks))
    assert sorted(task for task, _ in pairs) == sorted(tasks)
    return [dict(pairs)[task] for task in tasks]


SQUARES = [("square", number) for number in range(7)]


def alive(folder: Path) -> list[int]:
    """Workers that have started in `folder` and are still there."""
    pids = [int(path.name.split("-")[1]) for path in folder.glob("worker-*")]
    return [pid for pid in pids if _is_alive(pid)]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_until(true, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.05)


def start(folder: str, refuse: bool = False, stillborn: bool = False) -> Callable[[tuple], dict]:
    """A worker whose tasks are (what, number): `square` it, `die` the first time, `always die`, `raise`, or `sleep`."""
    if refuse:
        raise ValueError("this worker cannot start")
    (Path(folder) / f"worker-{os.getpid()}").touch()
    if stillborn:
        os.kill(os.getpid(), signal.SIGKILL)

    def do(task: tuple) -> dict:
        what, number = task
        mark = Path(folder) / f"begun-{what}-{number}"
        first = not mark.exists()
        mark.touch()
        if what == "always die" or (what == "die" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "raise":
            raise KeyError(f"no number {number}")
        if what == "sleep":
            time.sleep(number if first else 0)
        return {"square": number**2, "pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS")}

    return do


class Here:
    """An engine that works in this process; worker processes take ten seconds to start. The real ones are tested beside it."""

    name, workers = "here", 1

    def __init__(self) -> None:
        self.started: dict[str, object] = {}

    def run(self, work: Work, tasks):
        key = json.dumps(dict(work.arguments), sort_keys=True)
        if tasks and key not in self.started:
            self.started[key] = work.start()
        for task in tasks:
            yield task, self.started[key](task)

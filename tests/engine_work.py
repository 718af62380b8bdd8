"""Workers for the tests of engines: a few lines each, imported by the processes that the engines start."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path


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

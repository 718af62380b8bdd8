"""`--workers N`: processes on one port, forked from one that has imported everything, each with the run loaded.

The process that forks holds the socket and nothing else: it asks no model and no database, so that a fork copies no thread's
half-done work. A worker that dies is replaced within a second, as its imports are there; what it had acknowledged is in the state.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from types import FrameType

from prometheus_client import multiprocess

EARLY_S, MOST_EARLY = 10.0, 20  # so many in a row that did not live for so long, and it is given up
WAIT_S = 40.0  # what workers have to finish in after they were asked to end; then they are killed
BACKLOG = 2048
LOG = logging.getLogger("prelude.service")


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens, for all workers. Raises `OSError` where the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
    listening.listen(BACKLOG)
    return listening


def serve_by(count: int, listening: socket.socket, work: Callable[[socket.socket], None]) -> None:
    """Have `work(listening)` done in `count` processes until SIGTERM or SIGINT ends them all.

    Raises `RuntimeError` where workers die as soon as they start.
    """
    ending, alive, early = False, dict[int, float](), 0

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ending
        ending = True

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    gc.freeze()  # what all have stays in pages that all share
    try:
        while not ending:
            while len(alive) < count and not ending:
                alive[_fork(listening, work)] = time.monotonic()
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if not pid:
                time.sleep(0.05)
                continue
            early = early + 1 if time.monotonic() - alive.pop(pid, 0.0) < EARLY_S else 0
            multiprocess.mark_process_dead(pid)
            if early > MOST_EARLY:
                raise RuntimeError("workers end as soon as they are started; what they said is above")
            LOG.warning("a worker (%d) ended and is replaced", pid)
            time.sleep(min(0.05 * early, 1.0))
    finally:
        _end_all(alive)
        for number, handler in before.items():
            signal.signal(number, handler)
        gc.unfreeze()


def _fork(listening: socket.socket, work: Callable[[socket.socket], None]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        _end_with(parent)
        work(listening)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _end_with(parent: int) -> None:
    """Of a parent that is killed no worker is left over (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def _end_all(alive: dict[int, float]) -> None:
    """Ask all to end, and wait; who has not ended after `WAIT_S` is killed."""
    asked, until = set[int](), time.monotonic() + WAIT_S
    while alive:
        late = time.monotonic() > until
        for pid in list(alive):
            if late or pid not in asked:
                os.kill(
                    pid, signal.SIGKILL if late else signal.SIGTERM
                )  # not waited for yet, so it is still ours
                asked.add(pid)
            if os.waitpid(pid, 0 if late else os.WNOHANG)[0]:
                del alive[pid]
        time.sleep(0.02)

"""`--workers N`: processes on one port, forked from one that has imported everything, each with the run loaded.

The process that forks holds the socket and nothing else: it asks no model and no database, so that a fork copies no thread's
half-done work. A worker that dies is replaced within a second, as its imports are there; what it had acknowledged is in the state.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import mmap
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from types import FrameType

from prometheus_client import multiprocess

from serving.engines.base import EngineError

MOST_EARLY = 20  # so many in a row that ended before they served, and it is given up
MISTAKE = 2  # the exit code of a worker that was given what nobody can serve
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


def serve_by(
    count: int, listening: socket.socket, work: Callable[[socket.socket, Callable[[], None]], None]
) -> None:
    """Have `work(listening, serves)` done in `count` processes until SIGTERM or SIGINT ends them all; each calls `serves()` once it
    can answer. However often one that did is killed, it is replaced.

    Raises `EngineError` where workers die before they can, one after the other, or where the first says that it never will.
    """
    ending, any_served, early = False, 0, 0
    alive: dict[int, int] = {}  # process -> its place among `count`
    served = mmap.mmap(-1, count)  # whether whoever has the place could answer, shared with all workers

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ending
        ending = True

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    gc.freeze()  # what all have stays in pages that all share
    try:
        while not ending:
            for place in set(range(count)) - set(alive.values()):
                served[place] = 0
                alive[_fork(partial(work, listening, partial(served.__setitem__, place, 1)))] = place
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                time.sleep(0.05)
                continue
            if pid not in alive:  # in a container whoever is process 1 is given orphans
                continue
            did_serve = served[alive.pop(pid)]
            any_served, early = any_served or did_serve, 0 if did_serve else early + 1
            multiprocess.mark_process_dead(pid)
            if early > MOST_EARLY or (not any_served and os.waitstatus_to_exitcode(status) == MISTAKE):
                raise EngineError("workers end before they can answer; what they said is above")
            LOG.warning("a worker (%d) ended and is replaced", pid)
            time.sleep(min(0.05 * early, 1.0))
    finally:
        _end_all(alive)
        for number, handler in before.items():
            signal.signal(number, handler)
        gc.unfreeze()


def _fork(work: Callable[[], None]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        _end_with(parent)
        work()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except (ValueError, OSError) as error:
        print(f"prelude: {error}", file=sys.stderr)
        code = MISTAKE
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


def _end_all(alive: dict[int, int]) -> None:
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

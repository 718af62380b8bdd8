"""The engine `local`: worker processes of this machine."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import Any

from serving.engines.base import COLLECT_AFTER, ONE_THREAD, TRIES, EngineError, Task, Work, died_often


class LocalEngine:
    """A pool of processes.

    When one dies, those beside it are started anew and the unfinished tasks done again.
    """

    name = "local"

    def __init__(self, workers: int):
        self.workers = workers

    def run(self, work: Work, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        waiting, deaths = deque(tasks), Counter[Task]()
        while waiting:
            lost: list[Task] = []
            with _pool(min(self.workers, len(waiting))) as pool:
                yield from self._until_a_death(pool, work, waiting, lost)
            deaths.update(lost)
            if beyond := [task for task in lost if deaths[task] >= TRIES]:
                raise EngineError(died_often(beyond))
            waiting.extendleft(reversed(lost))

    def _until_a_death(
        self, pool: ProcessPoolExecutor, work: Work, waiting: deque[Task], lost: list[Task]
    ) -> Iterator[tuple[Task, Any]]:
        """Take from `waiting`, one task a worker at a time;
        a dying worker leaves what was under way in `lost`.
        """
        running: dict[Future, Task] = {}
        while (waiting and not lost) or running:
            while waiting and not lost and len(running) < self.workers:
                task = waiting.popleft()
                try:
                    running[pool.submit(_do, work, task)] = task
                except BrokenProcessPool:
                    lost.append(task)
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(done)
                try:
                    result = done.result()
                except BrokenProcessPool:
                    lost.append(task)
                    continue
                except Exception as error:
                    raise EngineError(f"task {task}: {type(error).__name__}: {error}") from error
                yield task, result


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes (spawn: nothing of this one's threads or memory), gone with the context,
    however it ends.
    """
    others = set(multiprocessing.active_children())
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)  # read when a library is loaded, so it has to be there from the start
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _follow_the_parent)
    try:
        yield pool
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _follow_the_parent() -> None:
    """End when the parent ends, even by kill -9: nobody would read the results.

    An interrupt is the parent's to handle.
    """
    gc.set_threshold(COLLECT_AFTER)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


_started: tuple[Work, Callable[[Task], Any]] | None = None  # of a worker process


def _do(work: Work, task: Task) -> Any:
    global _started
    if _started is None:
        _started = work, work.start()
    return _started[1](task)

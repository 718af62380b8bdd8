"""Engines: who does a list of tasks. `local` has worker processes on this machine; `ray` an actor pool on a cluster.

Both keep one promise: every task is done, its result comes back once, and a worker that dies costs a retry. What a
task computes may not depend on who computes it: a worker has one thread whatever the machine (sums of a parallel
product depend on the number of threads in their last bits), is started once by a named factory, and does one task
at a time. Tasks write what they make to files of their own under a temporary name, so a task that is done twice
leaves the same bytes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import wait as wait_for
from typing import Any, Protocol

from serving.engines.memory import available_bytes

ENGINES = ("local", "ray")
TRIES = 3  # of a task whose worker dies; an error that a task raises is not tried again
WORKER_BYTES = 3 << 29  # 1.5 GiB: a small backbone in float32, its libraries and a micro-batch
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)
Task = tuple[int | str, ...]  # names what is to be done, also in messages


class EngineError(ValueError):
    """A task that could not be done; the message names it."""


@dataclass(frozen=True)
class Work:
    """What a worker does: `factory` ("module:function") called with `arguments` gives a function of one task.

    Its result is small and made of what JSON has. Arguments are pickled to the workers.
    """

    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def start(self) -> Callable[[Task], Any]:
        """Call the factory in this process, which from then on has one thread."""
        os.environ.update(ONE_THREAD)  # read by libraries that are yet to be loaded
        module, _, name = self.factory.partition(":")
        factory = getattr(import_module(module), name)
        one_thread()
        return factory(**self.arguments)


class Engine(Protocol):
    name: str
    workers: int

    def run(self, work: Work, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        """Each task with its result, as they are finished. Raises `EngineError` naming a task that failed."""
        ...


def engine(name: str, workers: int | None = None, gpus: float = 0.0) -> Engine:
    """The engine called `name`. `workers` defaults to what the machine or cluster has; `gpus` (of each worker): ray only."""
    if workers is not None and workers < 1:
        raise ValueError(f"--workers {workers}: at least one worker is needed")
    if name == "local":
        if gpus:
            raise ValueError("--gpus is for --engine ray; local workers share the machine's first GPU")
        return LocalEngine(workers or room())
    if name == "ray":
        from serving.engines.ray_cluster import RayEngine

        return RayEngine(workers, gpus)
    raise ValueError(f"there is no engine {name!r}; expected {' or '.join(ENGINES)}")


def room() -> int:
    """How many workers this machine has cores and, at `WORKER_BYTES` each, free memory for; at least one."""
    return max(1, min(len(os.sched_getaffinity(0)), available_bytes() // WORKER_BYTES))


def one_thread() -> None:
    """Give the libraries that this process has loaded one thread each for arithmetic."""
    from threadpoolctl import threadpool_limits

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    threadpool_limits(1)  # BLAS and OpenMP
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)


def died_often(tasks: Sequence[Task]) -> str:
    return (
        f"task {' or '.join(map(str, tasks))}: the worker died {TRIES} times (out of memory?); "
        "with fewer workers or a smaller batch it may fit"
    )


class LocalEngine:
    """A pool of processes. When one dies, those beside it are started anew and the unfinished tasks done again."""

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
        """Take from `waiting`, one task a worker at a time; a dying worker leaves what was under way in `lost`."""
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
    """Fresh processes (spawn: nothing of this one's threads or memory), gone with the context, however it ends."""
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
    """End when the parent ends, even by kill -9: nobody would read the results. An interrupt is the parent's to handle."""
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

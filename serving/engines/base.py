"""Engines: who does a list of tasks. `local` has processes of this machine; `ray` an actor pool on a cluster.

Both keep one promise: every task is done, its result comes back once, and a worker that dies costs a retry.
What a task computes may not depend on who computes it: a worker has one thread whatever the machine (sums of
a parallel product depend on the number of threads in their last bits), is started once by a named factory,
and does one task at a time. Tasks write what they make to files of their own under a temporary name, so a
task that is done twice leaves the same bytes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

from recsys.elsewhere import Workers

TRIES = 3  # of a task whose worker dies; an error that a task raises is not tried again
# objects made between two searches for circles among them: Python's own 700 costs a start an eighth of its time, as imports make
# hundreds of thousands that stay
COLLECT_AFTER = 20_000
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


def workers_of(engine: Engine | None) -> Workers | None:
    """An engine as a stage that knows no engines asks it (`recsys.elsewhere`)."""
    if engine is None:
        return None

    def done(factory: str, arguments: Mapping[str, Any], tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        return engine.run(Work(factory, arguments), tasks)

    return done


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

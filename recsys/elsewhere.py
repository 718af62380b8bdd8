"""Parts of a stage's work that others may do, on this machine or another: what is handed over, and how it comes back.

A stage is given `Elsewhere` where an engine (`serving.engines`) is to work for it. Its tasks leave files in a folder that all of them
see; what comes back through the engine itself is small. What a task makes may not depend on who makes it, nor on how often it is made.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Workers(Protocol):
    """`factory` ("module:function") called with `arguments`, once a worker, gives a function of one task: each task with its result, as they are done."""

    def __call__(
        self, factory: str, arguments: Mapping[str, Any], tasks: Sequence[tuple[int | str, ...]]
    ) -> Iterator[tuple[tuple[int | str, ...], Any]]: ...


@dataclass(frozen=True)
class Elsewhere:
    """`workers`, and a `folder` that they and this process see."""

    workers: Workers
    folder: Path

    def file(self, below: str, name: str) -> Path:
        """A file in the folder `below`, which is made."""
        folder = (self.folder / below).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def done(self, factory: str, arguments: Mapping[str, Any], count: int, *, below: str) -> list[Any]:
        """The results of tasks 0 … count − 1, in order; `factory` is given `arguments` and the `folder` below."""
        given = {"folder": str(self.file(below, "").absolute()), **arguments}
        tasks = [(number,) for number in range(count)]
        found = {task[0]: result for task, result in self.workers(factory, given, tasks)}
        return [found[number] for number in range(count)]


@contextmanager
def elsewhere(workers: Workers | None, folder: Path) -> Iterator[Elsewhere | None]:
    """`workers`, where there are any, with a `folder` that is gone with the context."""
    if workers is None:
        yield None
        return
    shutil.rmtree(folder, ignore_errors=True)  # of a call that was killed
    try:
        yield Elsewhere(workers, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put(path: Path, write: Callable[[Path], object]) -> None:
    """A file that is there whole or not at all, whoever else writes the same."""
    drawn = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")
    write(drawn)
    drawn.replace(path)

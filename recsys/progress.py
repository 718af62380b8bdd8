"""Progress bars, made here alone: on a terminal a bar that moves, in a log a line a minute, and none of what was over before that."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, TextIO

from tqdm import tqdm


def _lock_of_this_process() -> None:
    """tqdm's own lock is one of all forks (a semaphore that they share): a worker that is killed while it has it would stop every other one
    at its next bar, shown or not.
    """
    tqdm.set_lock(threading.RLock())


_lock_of_this_process()
os.register_at_fork(after_in_child=_lock_of_this_process)  # the parent's may have been held by another thread

LINE_EVERY_S = 60.0  # of a log: a job of an hour leaves sixty lines, whatever it counts


class Progress(tqdm):
    """tqdm, with its arguments. Where `file` (default: stderr) is no terminal nothing is overwritten: whole lines, one every
    `LINE_EVERY_S` seconds, and a last one if there was a first.
    """

    def __init__(self, *args: Any, file: TextIO | None = None, **settings: Any):
        out = sys.stderr if file is None else file
        self.in_log = not out.isatty()
        self.began = self.told = monotonic()
        if self.in_log:
            settings["delay"] = float("inf")  # tqdm itself shows nothing
        init: Any = super().__init__  # tqdm's stubs have an overload for every number of arguments
        init(*args, file=out, **settings)

    def __iter__(self) -> Iterator[Any]:
        if not self.in_log:
            yield from super().__iter__()
            return
        for one in self.iterable:
            yield one
            self.update(1)
        self.close()

    def update(self, n: float | None = 1) -> bool | None:
        shown = super().update(n)
        if self.in_log and not self.disable and monotonic() - self.told >= LINE_EVERY_S:
            self._line()
        return shown

    def display(self, *args: Any, **settings: Any) -> Any:
        return True if self.in_log else super().display(*args, **settings)

    def close(self) -> None:
        if self.in_log and not self.disable and self.told > self.began:
            self._line()
        super().close()

    def _line(self) -> None:
        self.told = monotonic()
        seconds, facts = self.told - self.began, self.format_dict
        done, total, before = facts["n"], facts["total"], facts["initial"] or 0
        words = f"{(facts['prefix'] or 'progress').removesuffix(': ')}: {done:,}"
        if total:
            words += f" of {total:,} {facts['unit']} ({done / total:.0%})"
        else:
            words += f" {facts['unit']}"
        words += f", {self.format_interval(seconds)} so far"
        if total and before < done < total:
            words += f", about {self.format_interval(seconds * (total - done) / (done - before))} to go"
        if facts["postfix"]:
            words += f"; {facts['postfix']}"
        self.fp.write(words + "\n")
        self.fp.flush()


@contextmanager
def no_loading_bars() -> Iterator[None]:
    """Without transformers' own bars, which count the weights of a model that is there in a moment."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()

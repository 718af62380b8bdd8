"""What is killed where a test wants it: trainings between two steps, anything before its n-th change of the file system, and forks."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from recsys.training import loop


def save_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every training write a checkpoint behind each step."""
    often = (loop.fit.__kwdefaults__ or {}) | {"log_every": 1, "checkpoint_every_s": 0.0}
    monkeypatch.setattr(loop.fit, "__kwdefaults__", often)


@contextmanager
def killed_at_save(monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[None]:
    """What is trained inside dies when its checkpoint of this number is written; a test fails where it does not come to that."""
    saves, save = [], loop._save

    def dying(*args):
        save(*args)
        saves.append(1)
        if len(saves) == number:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_save", dying)
        with pytest.raises(KeyboardInterrupt):
            yield


class Killed(BaseException):
    pass


class Killer:
    """An audit hook that stops the process before its n-th change of the file system."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.is_full = (
            False  # the disk is full from the n-th change on, in place of a kill: nothing new can be made
        )
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple) -> None:
        if self.left is None:
            return
        writes = event == "open" and bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if self.is_full:
            makes = (writes or event == "os.mkdir") and not os.path.lexists(arguments[0])
            self.left -= makes
            if makes and self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
        elif writes or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise Killed(event)


KILLER = Killer()


def child(work: Callable[[], None]) -> int:
    """`work` in a process of its own (a fork: it has the run loaded); its id."""
    torch.optim.AdamW(
        [torch.nn.Parameter(torch.zeros(1))]
    )  # imports much at the first time; not in every child
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

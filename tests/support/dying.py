"""Trainings that are killed between two steps, as a test wants them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

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

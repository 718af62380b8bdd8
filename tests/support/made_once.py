"""What a test session makes once, in whichever of its processes comes first, and what none of its tests may change."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

SETTLED = "run"  # below a made folder: what is compared with its hashes when a process is done with it


@contextmanager
def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Iterator[Path]:
    """The folder that `make(folder)` filled, for this process or for the one beside it that came first.

    Its `run` must be afterwards what it was before: a test that changes a run takes a copy.
    """
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made_once" / name
    folder.parent.mkdir(exist_ok=True)
    made = folder.with_suffix(".json")
    with FileLock(folder.with_suffix(".lock")):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            made.write_text(json.dumps(hashes_of(folder / SETTLED)))
    yield folder
    before, after = json.loads(made.read_text()), hashes_of(folder / SETTLED)
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    assert not changed, f"a test has changed the {name} that all share: {changed}"


def hashes_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder`, by its path there."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }

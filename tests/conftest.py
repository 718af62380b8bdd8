"""For all tests: offline, two threads a process unless the environment says otherwise, and how two processes share them."""

from __future__ import annotations

import gc
import os
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "2")  # before anything imports torch
os.environ.setdefault("PRELUDE_TEXT_CACHE", "off")  # nothing of a test outlives it, or comes from before it

gc.set_threshold(
    20_000
)  # as the command line has it: imports make hundreds of thousands of objects, and all of them stay

# fixtures that are whole runs, or a cluster; what stands on one is for `make test` alone
WHOLE_RUNS = {"small_run", "music_run", "world_run", "cluster"}
# what several processes begin with, longest first, so that they end together; the rest is by file, as it comes
FIRST = (
    "tests/serving/music/test_table.py",
    "tests/whole/test_end_to_end.py",
    "tests/whole/test_distributed.py",
    "tests/serving/playlists/test_workers.py",
    "cluster",
    "tests/serving/",
    "tests/whole/",
)


def pytest_collection_finish() -> None:
    """What was imported is not looked through for circles again and again."""
    gc.freeze()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what stands on a whole run."""
    if WHOLE_RUNS & set(getattr(item, "fixturenames", ())):
        item.add_marker("whole_run")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Several processes begin with what takes longest."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: _turn(scope_of(item.nodeid)))


def _turn(scope: str) -> int:
    return next((turn for turn, name in enumerate(FIRST) if scope.startswith(name)), len(FIRST))


def scope_of(nodeid: str) -> str:
    """What one of several processes gets as a whole: a file, a folder whose files share what is made for them, the cluster."""
    file, _, test = nodeid.partition("::")
    folder = file.rpartition("/")[0]
    if file == "tests/serving/engines/test_ray.py" or "ray_on_" in test or "_on_ray_" in test:
        return "cluster"
    return folder if folder in ("tests/serving/export", "tests/whole/align", "tests/whole/leaks") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByScope(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

    config.option.loadscopereorder = False  # by number of tests
    return ByScope(config, log)

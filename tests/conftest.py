"""For all tests: offline, two threads a process unless the environment says otherwise, and how two processes share them."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "2")  # before anything imports torch

# fixtures that are whole runs, or a cluster; what stands on one is for `make test` alone
WHOLE_RUNS = {"small_run", "music_run", "world_run", "cluster"}
# folders whose files share what one process makes for them
TOGETHER = ("tests/serving/export/", "tests/whole/align/", "tests/whole/leaks/")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what stands on a whole run; of several processes one gets a file, a folder of `TOGETHER`, or the cluster."""
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        if names & WHOLE_RUNS:
            item.add_marker("whole_run")
        file = item.nodeid.split("::")[0]
        group = next((folder for folder in TOGETHER if file.startswith(folder)), file)
        item.add_marker(pytest.mark.xdist_group("cluster" if "cluster" in names else group))

"""One undisturbed playlist run of the small run's users, in shards and parts of a few dozen requests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from serving.playlists import shards as playlist_shards
from serving.playlists.job import playlists
from tests.support.engines import Here
from tests.support.playlist_files import SETTINGS, asked, written


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As workers have, and as they were afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def small_cuts(monkeypatch):
    """Several shards and parts of a few dozen requests."""
    monkeypatch.setattr(playlist_shards, "SHARD_ROWS", 30)
    monkeypatch.setattr(playlist_shards, "PART_REQUESTS", 8)
    monkeypatch.setattr(playlist_shards, "DEALT_BYTES", 2000)


@pytest.fixture(scope="session")
def here():
    return Here()


@pytest.fixture(scope="session")
def run(small_run) -> Path:
    return small_run[1].path


@pytest.fixture(scope="session")
def whole(run, here, tmp_path_factory):
    """The requests, and a run of them that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    source = written(asked(), folder / "requests.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(playlist_shards, "SHARD_ROWS", 30)
        patch.setattr(playlist_shards, "PART_REQUESTS", 8)
        manifest = playlists(run, source, folder / "out", here, SETTINGS, quiet=True)
    return source, folder / "out", manifest

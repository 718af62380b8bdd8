"""A whole run of the music task."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from recsys.run import Run
from serving.config.run import RunConfig
from tests.support.music import music_config
from tests.support.worlds import run_of, shared_run


@pytest.fixture(scope="session")
def music_run(tmp_path_factory) -> Iterator[tuple[RunConfig, Run]]:
    with shared_run(
        tmp_path_factory, "music_run", lambda folder: run_of(music_config(folder), folder)
    ) as found:
        yield found

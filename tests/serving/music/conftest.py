"""A whole run of the music task."""

from __future__ import annotations

import pytest
from rich.console import Console

from recsys.run import Run
from serving.config.run import RunConfig
from serving.pipeline import run_all
from tests.support.music import music_config


@pytest.fixture(scope="module")
def music_run(tmp_path_factory) -> tuple[RunConfig, Run]:
    folder = tmp_path_factory.mktemp("music")
    config, run = music_config(folder), Run.create(folder / "run")
    with open(folder / "printed.txt", "w") as printed:
        run_all(config, run, console=Console(file=printed, width=200))
    return config, run

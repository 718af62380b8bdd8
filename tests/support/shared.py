"""Fixtures that the rooms which may run everything share: the tiny model, the small run, and its data files alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llm.backbone.sid_model import SidModel
from recsys.run import Run
from serving.config.run import RunConfig
from tests.support.models import tiny_model
from tests.support.worlds import alone_with_data_files, the_small_run


@pytest.fixture(scope="session")
def tiny() -> SidModel:
    """The tiny random backbone with a small trie."""
    return tiny_model()


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> Iterator[tuple[RunConfig, Run]]:
    """A finished run of every stage on the world of two tastes."""
    with the_small_run(tmp_path_factory) as found:
        yield found


@pytest.fixture
def data_files(small_run) -> Iterator[None]:
    with alone_with_data_files(small_run[0]):
        yield

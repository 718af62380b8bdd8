"""A copy of the quick run, and a night's files."""

from __future__ import annotations

import pytest

from tests.support.nights import Night, night_of


@pytest.fixture
def night(world_run, tmp_path) -> Night:
    """A run before its first night."""
    return night_of(world_run[1], tmp_path)


@pytest.fixture(scope="session")
def refreshed(world_run, tmp_path_factory) -> Night:
    """A run after its first night; no test may change it."""
    from serving.refresh.refresh import refresh

    made = night_of(world_run[1], tmp_path_factory.mktemp("refreshed"))
    found = refresh(made.run.path, **made.files)
    assert found.published, found
    return made

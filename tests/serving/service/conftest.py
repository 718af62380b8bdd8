"""A service that the tests of a file share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serving.service.client import Client
from tests.support.serving_http import served


@pytest.fixture(scope="module")
def client(world_run, tmp_path_factory) -> Iterator[Client]:
    """A client of a service on the quick run."""
    with served(world_run[1].path, tmp_path_factory.mktemp("service")) as found:
        yield found

"""One evaluation of the small recommenders, for all tests of the table."""

from __future__ import annotations

import pytest

from tests.support.small_tables import run


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    return run(tmp_path_factory.mktemp("job"))

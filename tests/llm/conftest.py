"""The model that the tests of this room share."""

from __future__ import annotations

import pytest

from llm.backbone.sid_model import SidModel
from tests.support.models import tiny_model


@pytest.fixture(scope="session")
def tiny() -> SidModel:
    """The tiny random backbone with a small trie."""
    return tiny_model()

"""Targets are tested on every form of an item."""

from __future__ import annotations

import pytest

from llm.backbone.sid_model import SidModel
from tests.support.models import FORMS, tiny_model


@pytest.fixture(scope="session", params=FORMS)
def tiny(request) -> SidModel:
    """The tiny random backbone with a small trie."""
    return tiny_model(request.param)

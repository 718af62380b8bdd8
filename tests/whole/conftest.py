"""The model and the run that tests of all rooms together share."""

from __future__ import annotations

import pytest

from tests.support.shared import data_files, small_run, tiny

__all__ = ["data_files", "small_run", "tiny"]


@pytest.fixture
def unpublished(monkeypatch) -> None:
    """Stages measure and write what they found; the report with its pictures, which takes seconds, is not drawn again."""
    monkeypatch.setattr("serving.report.publish.publish", lambda *_, **__: None)

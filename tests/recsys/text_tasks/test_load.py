"""Loading a task: its hash, and the published sets where they are present."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recsys.text_tasks.load import TaskDataConfig, data_hash, load_task
from tests.support.text_files import write_movielens


def test_the_hash_follows_the_bytes(tmp_path):
    config = TaskDataConfig(task="movielens-rating", path=str(write_movielens(tmp_path / "ml")))
    before = data_hash(config)
    (tmp_path / "ml" / "ratings.csv").write_text(
        (tmp_path / "ml" / "ratings.csv").read_text() + "1,2,3.0,9\n"
    )
    assert data_hash(config) != before


@pytest.mark.skipif("PRELUDE_DATA" not in os.environ, reason="needs the data sets")
def test_the_real_sets_load():
    data = Path(os.environ["PRELUDE_DATA"])
    for task, folder in (
        ("lastfm-tagging", "hetrec2011-lastfm-2k"),
        ("synthetic-persona-chat", "synthetic-persona-chat"),
    ):
        found = load_task(TaskDataConfig(task=task, path=str(data / folder), test_instances=50))
        assert len({item.user for item in found.test}) >= 20

"""A run that is crowded with rows of a person."""

from __future__ import annotations

import shutil

import pytest
import yaml

from recsys.data.dataset import Dataset
from recsys.run import Run
from tests.support.persons import PERSON, add_rows_of_users, copy


@pytest.fixture
def crowded(small_run, tmp_path) -> Run:
    """A copy of the small run with per-user rows, the person as the example, and what killed stages left."""
    config, run = small_run
    run = copy(run, tmp_path / "crowded")
    add_rows_of_users(run, Dataset.load(run).n_users)
    values = config.model_dump(mode="json")
    values["example"]["user"] = PERSON
    run.write_config(values)
    for name in (".partial-adapt/checkpoint", ".old-embed"):
        (run.path / name).mkdir(parents=True)
        shutil.copy(run.path / "rows" / "sparse.safetensors", run.path / name / "checkpoint.safetensors")
    (run.path / ".config.yaml.tmp").write_text(yaml.safe_dump(values))
    return run


@pytest.fixture
def drawn(monkeypatch) -> list[dict]:
    """What the report's pictures were given of users' vectors; none is drawn, which takes seconds."""
    given: list[dict] = []

    def pictures(results, curves, counts, tsne, more) -> list:
        given.extend([tsne] if tsne else [])
        return []

    monkeypatch.setattr("evaluation.report.report._pictures", pictures)
    return given

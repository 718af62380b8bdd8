"""A stage that was made from other artifacts than its run has now: shown by `status`, refused by name, and made again by `run`."""

from __future__ import annotations

import json
import shutil

import pytest

from recsys.artifacts.manifest import sha256_of
from recsys.artifacts.paths import RunError
from recsys.run import Run
from serving import Recommender
from serving.config.truth import config_of, out_of_date
from serving.playlists.plan import Settings, refuse_impossible
from tests.support.command_line import prelude


@pytest.fixture
def run(world_run, tmp_path) -> Run:
    """`tokenize` made again with another result, and nothing after it."""
    run = Run.open(shutil.copytree(world_run[1].path, tmp_path / "run"))
    folder = run.path / "tokenize"
    report = json.loads((folder / "quality.json").read_text())
    (folder / "quality.json").write_text(json.dumps(report | {"again": True}))
    record = run.record("tokenize")
    record["artifacts"]["quality.json"] = sha256_of(folder / "quality.json")
    (folder / "stage.json").write_text(json.dumps(record))
    return run


def test_a_stage_of_other_artifacts_is_refused_by_name_and_shown(run, monkeypatch, capsys):
    line = "stage 'adapt' was made from other artifacts of stage 'tokenize' than there are now"
    assert ("adapt", "tokenize") in out_of_date(run)
    for opening in (Recommender.load, lambda path: config_of(Run.open(path)), lambda path: refuse_impossible(Run.open(path), Settings())):  # fmt: skip
        with pytest.raises(RunError, match=line) as caught:
            opening(run.path)
        assert f"prelude adapt {run.path}" in str(caught.value)
    code, _, error = prelude(monkeypatch, capsys, "personalize", run.path)
    assert (code, line in error) == (2, True)
    monkeypatch.setenv("COLUMNS", "300")
    code, out, _ = prelude(monkeypatch, capsys, "status", run.path)
    assert (code, line in out) == (0, True)


def test_what_was_trained_on_goes_on_with_what_was_made_from_it(run):
    """As `online-full` leaves a run: its record says so."""
    record = run.record("tokenize")
    (run.path / "tokenize" / "stage.json").write_text(json.dumps(record | {"continued": [{"steps": 1}]}))
    assert out_of_date(run) == []


def test_a_run_as_it_was_made_is_not_out_of_date(world_run):
    assert out_of_date(world_run[1]) == []

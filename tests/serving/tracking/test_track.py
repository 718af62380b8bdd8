"""Trackers: what they are told of a run, by the real libraries where they are installed, and one line where one is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recsys.config import StageConfig
from recsys.run import Run
from serving.config.light import LightConfig
from serving.config.track import TrackConfig
from serving.tracking import trackers
from serving.tracking.track import curves_of, figures_of, settings_of, track_stage

CURVES = {"E2P, seed 0": {"losses": [[10, 2.5], [20, 2.0]], "validation": [[20, -6.5]]}}
ROW = {
    "name": "E2P × experts",
    "expected_hit_rate@30": 0.12,
    "top30": 0.25,
    "recall@10": None,
    "n_users": 3,
    "reads": "history",
}
RESULTS = {"rows": [ROW], "matched": {"rows": [{"name": "E2P × experts", "nats": -6.25}]}}


@pytest.fixture
def run(tmp_path) -> Run:
    """A run with a stage that left curves, and figures."""
    made = Run.create(tmp_path / "run")
    made.write_config({"seed": 3, "adapt": {"steps": 5}, "example": {"user": "42"}, "track": "mlflow"})
    for stage, name, content in (
        ("personalize", "curves.json", CURVES),
        ("evaluate", "results.json", RESULTS),
    ):
        with made.stage(stage, StageConfig(), needs=()).writing() as folder:
            (folder / name).write_text(json.dumps(content))
    (made.path / "report.html").write_text("report")
    return made


def test_one_line_of_configuration_is_enough():
    assert LightConfig.model_validate({"track": "wandb"}).track == TrackConfig(to="wandb")
    assert LightConfig().track is None
    with pytest.raises(ValueError, match="'tensorboard', 'mlflow' or 'wandb'"):
        LightConfig.model_validate({"track": "neptune"})


def test_a_missing_package_is_one_line_that_names_the_extra(monkeypatch, run):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    for name in ("tensorboard", "mlflow", "wandb"):
        with pytest.raises(
            ValueError, match=rf"^track: {name} needs the package {name}, .*pip install '\.\[{name}\]'"
        ) as raised:
            track_stage(TrackConfig(to=name), run, "evaluate")
        assert "\n" not in str(raised.value)
    track_stage(TrackConfig(to="mlflow"), run, "prepare")  # of which there is nothing to tell
    assert not (run.path / "tracking").exists()


def test_what_is_told(run):
    assert list(curves_of(run, "personalize")) == [
        ("personalize/E2P, seed 0/loss", [(10, 2.5), (20, 2.0)]),
        ("personalize/E2P, seed 0/validation", [(20, -6.5)]),
    ]
    assert list(curves_of(run, "evaluate")) == []
    assert dict(figures_of(RESULTS)) == {
        "evaluate/E2P × experts/expected_hit_rate_at_30": 0.12,
        "evaluate/E2P × experts/top30": 0.25,
        "evaluate/E2P × experts/nats": -6.25,
    }
    assert dict(settings_of(run.read_config())) == {"seed": 3, "adapt.steps": 5}  # nobody's id


def told(run: Run, name: str) -> Path:
    for stage in ("personalize", "evaluate"):
        track_stage(TrackConfig(to=name), run, stage)
    return run.path / "tracking" / name


def test_tensorboard_reads_it(run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(told(run, "tensorboard"))).Reload()
    loss = found.Scalars("personalize/E2P_ seed 0/loss")
    assert [(one.step, one.value) for one in loss] == [(10, 2.5), (20, 2.0)]
    assert found.Scalars("evaluate/E2P x experts/nats")[0].value == -6.25
    assert any("report.html" in str(found.Tensors(tag)[0]) for tag in found.Tags()["tensors"])


def test_mlflow_reads_it(run, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = told(run, "mlflow")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name == "prelude"]
    (found,) = client.search_runs([experiment.experiment_id])  # both stages are of one run
    assert found.data.params == {"seed": "3", "adapt.steps": "5"}
    assert found.data.metrics["evaluate/E2P x experts/top30"] == 0.25
    history = client.get_metric_history(found.info.run_id, "personalize/E2P_ seed 0/loss")
    assert sorted((one.step, one.value) for one in history) == [(10, 2.5), (20, 2.0)]
    assert found.data.tags["artifact.report.html"] == (run.path / "report.html").absolute().as_uri()
    assert found.info.status == "FINISHED"


def test_wandb_writes_it_and_sends_nothing(run, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    folder = told(run, "wandb")
    offline = sorted((folder / "wandb").glob("offline-run-*"))
    assert len(offline) == 2  # a folder a stage, of one run
    assert len({path.name.rpartition("-")[2] for path in offline}) == 1
    assert all(list(path.glob("*.wandb")) for path in offline)

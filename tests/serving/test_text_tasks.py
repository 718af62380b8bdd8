"""Text tasks end to end on the tiny backbone and made-up files: tables, resuming, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import root_mean_squared_error
from typer.testing import CliRunner

import serving.text_tasks.tasks
from recsys.run import Run
from recsys.training import loop
from serving.cli import app
from serving.config.values import read_values, validated
from serving.text_tasks.tasks import TaskRun, TextTaskConfig, run_task
from tests.support.paths import ROOT
from tests.support.text_files import write_lastfm, write_movielens, write_persona_csv

CONFIGS = sorted((ROOT / "configs" / "tasks").glob("*.yaml"))


ALL = ["popular", "no_context", "prompt", "static_prefix", "e2p_random", "e2p"]


def small(task: str, path: Path, **changes) -> TextTaskConfig:
    values = {
        "data": {
            "task": task,
            "path": str(path),
            "train_instances": 12,
            "validation_instances": 4,
            "test_instances": 6,
        },
        "backbone": {"name": "tiny-random", "device": "cpu"},
        "methods": ALL if task != "synthetic-persona-chat" else ALL[1:],
        "context": {"records": 2, "longest_prompt": 200, "longest_answer": 24},
        "vectors": {"records": 2, "longest": 24},
        "prefix": {"steps": 4, "batch": 4, "learning_rates": [1e-3, 1e-2], "pilot_steps": 2, "bottleneck": 8},
        "measure": {"batch": 4, "bootstrap_samples": 100, "generated_instances": 3, "longest_answer": 6},
    }
    return TextTaskConfig.model_validate(values | changes)


def answers_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "task-evaluate" / "answers.jsonl").read_text().splitlines()]


def world(task: str, folder: Path) -> Path:
    write = {"movielens-rating": write_movielens, "lastfm-tagging": write_lastfm}.get(task, write_persona_csv)
    return write(folder / "data")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of every method on each of the three made tasks, made when first asked for."""
    made: dict[str, tuple] = {}

    def run_of(task: str):
        if task not in made:
            folder = tmp_path_factory.mktemp("task")
            config, run = small(task, world(task, folder)), Run.create(folder / "run")
            made[task] = config, run, run_task(config, run)
        return made[task]

    return run_of


@pytest.mark.parametrize(
    ("task", "figures"),
    [
        ("movielens-rating", ["mae_expected", "mae_argmax", "rmse_expected", "rmse_argmax", "nll"]),
        ("lastfm-tagging", ["accuracy", "nll", "f1"]),
        ("synthetic-persona-chat", ["perplexity", "rouge1", "rouge2", "rougeL"]),
    ],
)
def test_a_task_end_to_end(finished, task, figures):
    config, run, results = finished(task)
    assert [row["name"] for row in results["rows"]] == list(config.methods)
    for row in results["rows"]:
        assert list(row["figures"]) == figures
        for figure in row["figures"].values():
            assert figure["ci95"][0] <= figure["value"] <= figure["ci95"][1]
            against = set(figure["against"])
            assert against == {"no_context", "static_prefix"} - {row["name"]}
    by_name = {row["name"]: row for row in results["rows"]}
    assert by_name["prompt"]["tokens_added"] > 1
    assert by_name["e2p"]["tokens_added"] == 1
    assert by_name["no_context"]["parameters"] == 0 < by_name["e2p"]["parameters"]
    assert "| e2p |" in (run.path / "task-evaluate" / "report.md").read_text()
    answers = answers_of(run.path)
    assert sum(line["method"] == "e2p_random" for line in answers) == 5
    assert len({json.dumps(line.get("log_probs", line.get("nll"))) for line in answers}) > 5


def test_figures_are_those_of_the_answers(finished):
    """MAE, RMSE and expected ratings of one row, worked out again from answers.jsonl."""
    config, run, results = finished("movielens-rating")
    test = TaskRun(config, run).task.test
    assert len({item.user for item in test}) == len(test)  # so a mean over users is a plain mean
    lines = answers_of(run.path)
    probs = np.exp(next(line for line in lines if line["method"] == "e2p")["log_probs"])
    stars, truth = np.arange(1, 11) / 2, np.array([float(item.target) for item in test])
    row = next(row for row in results["rows"] if row["name"] == "e2p")["figures"]
    assert row["mae_expected"]["value"] == pytest.approx(np.abs(probs @ stars - truth).mean())
    assert row["rmse_argmax"]["value"] == pytest.approx(
        root_mean_squared_error(truth, stars[probs.argmax(1)])
    )
    counted = next(line for line in lines if line["method"] == "popular")["log_probs"]
    assert np.exp(counted).sum(1) == pytest.approx(np.ones(len(test)))


def test_a_killed_run_resumes_to_the_same_results(tmp_path, monkeypatch):
    data = world("lastfm-tagging", tmp_path)
    methods = ["no_context", "static_prefix", "e2p"]
    config = small("lastfm-tagging", data, adapt={"steps": 3, "batch": 4}, methods=methods)
    whole = run_task(config, Run.create(tmp_path / "whole"))
    fit, calls = loop.fit, []

    def killed(label, *arguments, **settings):
        if label.startswith("e2p at"):
            raise KeyboardInterrupt
        calls.append(label)
        return fit(label, *arguments, **settings)

    monkeypatch.setattr(loop, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        run_task(config, Run.create(tmp_path / "broken"))
    steps = []

    def counted(label, n, state, optimizer, step, *arguments, **settings):
        def and_count(index):
            steps.append(label)
            return step(index)

        return fit(label, n, state, optimizer, and_count, *arguments, **settings)

    monkeypatch.setattr(loop, "fit", counted)
    resumed = run_task(config, Run.create(tmp_path / "broken"))
    assert resumed == whole
    assert not any("static" in label or "Stage 1" in label for label in steps)  # nothing is trained twice
    saved = [tmp_path / name / "task-prefixes" / "e2p.safetensors" for name in ("whole", "broken")]
    assert saved[0].read_bytes() == saved[1].read_bytes()
    steps.clear()
    monkeypatch.setattr(
        serving.text_tasks.tasks, "load_text_model", None
    )  # a finished run does not even load the model
    assert run_task(config, Run.create(tmp_path / "broken")) == whole
    assert not steps


def test_stage_1_and_stage_2_train_on_different_users(tmp_path):
    config = small("movielens-rating", world("movielens-rating", tmp_path), adapt={"steps": 2, "batch": 2})
    run = TaskRun(config, Run.create(tmp_path / "run"))
    first, everybody = run.stage_one_users, {item.user for item in run.task.train}
    assert first
    assert first < everybody
    run.vectors()
    run.adapt()
    run.prefixes()
    assert run.run.read_json("task-adapt", "adapt.json")["instances"] == sum(
        i.user in first for i in run.task.train
    )


def test_prompts_show_and_hide_the_person(tmp_path):
    config = small("synthetic-persona-chat", world("synthetic-persona-chat", tmp_path))
    run = TaskRun(config, Run.create(tmp_path / "run"))
    item = run.task.test[0]
    assert run.prompt_text(item, False) == item.input
    assert " ".join(item.persona.split()) in run.prompt_text(item, True)


def test_vectors_are_standardised_by_the_training_ones(tmp_path):
    config = small("movielens-rating", world("movielens-rating", tmp_path))
    run = TaskRun(config, Run.create(tmp_path / "run"))
    run.vectors()
    vectors = run.load_vectors()
    assert [len(vectors[role]) for role in ("train", "validation", "test")] == [12, 4, 6]
    people, shared = vectors["train"][:, :-1], vectors["train"][:, -1]
    torch.testing.assert_close(people.mean(0), torch.zeros(64), atol=1e-4, rtol=0)
    torch.testing.assert_close(people.std(0, correction=0), torch.ones(64), atol=1e-3, rtol=0)
    assert shared.tolist() == pytest.approx([8.0] * 12)  # √64: as long as a person's own part is on average


def test_configs_refuse_nonsense(tmp_path):
    path = world("synthetic-persona-chat", tmp_path)
    with pytest.raises(ValueError, match="add e2p to methods"):
        small("synthetic-persona-chat", path, methods=["e2p_random"])
    with pytest.raises(ValueError, match="cuts the layers"):
        small("synthetic-persona-chat", path, backbone={"name": "smollm2", "layers": 6})
    with pytest.raises(ValueError, match="name each once"):
        small("synthetic-persona-chat", path, methods=["e2p", "e2p"])
    with pytest.raises(ValueError, match="popular counts labels"):
        run_task(small("synthetic-persona-chat", path, methods=ALL), Run.create(tmp_path / "run"))
    with pytest.raises(ValueError, match="greater than or equal to 5"):
        small("synthetic-persona-chat", path, measure={"random_permutations": 2})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_valid(path):
    config = validated(TextTaskConfig, *read_values(path))
    assert config.data.task
    assert len(config.methods) >= 5


def test_the_command_line(tmp_path):
    config = small("movielens-rating", world("movielens-rating", tmp_path), methods=["popular", "no_context"])
    file = tmp_path / "task.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    arguments = ["task", str(file), "--run", str(tmp_path / "run"), "--set", "measure.batch=2"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "no_context" in result.output
    assert Run(tmp_path / "run").read_config()["measure"]["batch"] == 2
    again = CliRunner().invoke(app, ["task", "--run", str(tmp_path / "run")])  # the run's own config
    assert again.exit_code == 0
    wrong = CliRunner().invoke(app, ["task", str(file), "--set", "measure.batches=2"])
    assert isinstance(wrong.exception, ValueError)
    assert "measure.batches" in str(wrong.exception)

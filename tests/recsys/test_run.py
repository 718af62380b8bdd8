"""The run directory: skip, commit, kill, tamper."""

from __future__ import annotations

import json

import pytest
import torch

from recsys.artifacts.paths import RunError
from recsys.config import StageConfig
from recsys.run import Run
from recsys.seeds import derive, rng, torch_generator


class Config(StageConfig):
    x: int = 1


def write(run: Run, name: str, text: str, needs=(), x: int = 1) -> bool:
    stage = run.stage(name, Config(x=x), needs=needs)
    if stage.is_done():
        return False
    with stage.writing() as folder:
        (folder / "a.txt").write_text(text)
    return True


def test_a_stage_runs_once_until_something_it_reads_changes(tmp_path):
    run = Run.create(tmp_path / "r")
    assert write(run, "one", "hello")
    assert write(run, "two", "x", needs=["one"])
    assert not write(run, "one", "hello")
    assert not write(run, "two", "x", needs=["one"])
    assert write(run, "one", "hello", x=2)  # another setting, the same bytes: what follows stays
    assert not write(run, "two", "x", needs=["one"])
    assert write(run, "one", "other", x=3)
    assert write(run, "two", "x", needs=["one"])
    manifest = json.loads((run.path / "manifest.json").read_text())
    assert list(manifest["stages"]) == ["one", "two"]


def test_a_missing_input_and_an_unknown_run_are_named(tmp_path):
    run = Run.create(tmp_path / "r")
    with pytest.raises(RunError, match="needs stage 'one'"):
        run.stage("two", Config(), needs=["one"])
    with pytest.raises(RunError, match="there is no run at"):
        Run.open(tmp_path / "nowhere")
    with pytest.raises(RunError, match="not a run"):
        Run.open(run.path)


def test_an_edited_artifact_is_refused_by_name_and_made_again(tmp_path):
    run = Run.create(tmp_path / "r")
    write(run, "one", "hello")
    assert Run.open(run.path).artifact("one", "a.txt").read_text() == "hello"
    (run.path / "one" / "a.txt").write_text("tampered")
    with pytest.raises(RunError, match=r"a\.txt does not match its hash"):
        Run.open(run.path).artifact("one", "a.txt")
    assert write(run, "one", "hello")
    (run.path / "one" / "a.txt").unlink()
    with pytest.raises(RunError, match="is missing"):
        Run.open(run.path).artifact("one", "a.txt")


def test_a_failure_leaves_the_old_artifact_and_keeps_only_the_checkpoint(tmp_path):
    run = Run.create(tmp_path / "r")
    write(run, "one", "old")

    def fail(x: int) -> None:
        stage = run.stage("one", Config(x=x))
        with stage.writing() as folder:
            (folder / "a.txt").write_text("half")
            (stage.checkpoint / "c").write_text("at step 5")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        fail(2)
    assert (run.path / "one" / "a.txt").read_text() == "old"
    stage = run.stage("one", Config(x=2))
    with stage.writing() as folder:
        assert not (folder / "a.txt").exists()
        assert (stage.checkpoint / "c").read_text() == "at step 5"
        (folder / "a.txt").write_text("new")
    assert (run.path / "one" / "a.txt").read_text() == "new"
    assert not (run.path / "one" / "checkpoint").exists()
    with pytest.raises(RuntimeError):
        fail(3)
    with run.stage(
        "one", Config(x=4)
    ).writing() as folder:  # another fingerprint: that checkpoint is not ours
        assert not (folder / "checkpoint").exists()
        (folder / "a.txt").write_text("newer")


def test_a_kill_between_the_record_and_the_rename_loses_nothing(tmp_path, monkeypatch):
    run = Run.create(tmp_path / "r")
    with monkeypatch.context() as patch:
        patch.setattr("recsys.run.StageRun._swap_in", lambda self: None)
        write(run, "one", "whole")
    assert not (run.path / "one").exists()
    assert not write(run, "one", "whole")
    assert (run.path / "one" / "a.txt").read_text() == "whole"


def test_two_writers_are_refused(tmp_path):
    run = Run.create(tmp_path / "r")
    with run.lock(), pytest.raises(RunError, match="another prelude process"), Run.create(run.path).lock():
        pass


# -- seeds ------------------------------------------------------------------------------------------------------


def test_generators_depend_on_every_key_and_on_nothing_else():
    assert rng(1, "a", 2).integers(1 << 30) == rng(1, "a", 2).integers(1 << 30)
    different = [
        derive(1, "a", 2),
        derive(1, "a", 3),
        derive(2, "a", 2),
        derive(1, "a", "2"),
        derive(1, 2, "a"),
    ]
    assert len(set(different)) == len(different)
    a, b = (torch.rand(3, generator=torch_generator(0, "x")) for _ in range(2))
    assert torch.equal(a, b)

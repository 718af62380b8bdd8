"""The run directory: skip, commit, kill, tamper; and the resumable loop that ends in the same bytes."""

from __future__ import annotations

import json

import pytest
import torch

from recsys.config import StageConfig
from recsys.run import Run, RunError
from recsys.seeds import derive, rng, torch_generator
from recsys.training import loop


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


# -- the loop ---------------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


def train(folder, kill_at: int | None = None, steps: int = 57, patience: int = 0):
    """Noisy linear regression; the data of step i depends on i alone."""
    weight = torch.nn.Parameter(torch.zeros(4))
    truth = torch.tensor([1.0, -2.0, 3.0, 0.5])

    def step(index: int) -> torch.Tensor:
        if index == kill_at:
            raise Killed
        generator = torch_generator(7, index)
        x = torch.randn(8, 4, generator=generator)
        return ((x @ weight - x @ truth - torch.randn(8, generator=generator)) ** 2).mean()

    curves = loop.fit(
        "t", steps, {"w": weight}, torch.optim.AdamW([weight], lr=0.1), step, folder,
        schedule=lambda index: loop.cosine(index, steps, 5), log_every=10, clip_norm=1.0, quiet=True,
        validate=lambda: -float((weight - truth).abs().sum()), validate_every=8, patience=patience,
        checkpoint_every_s=0.0,
    )  # fmt: skip
    return weight.detach().clone(), curves


@pytest.mark.parametrize("kill_at", [3, 10, 33, 56])
def test_a_killed_training_ends_in_the_same_bytes(tmp_path, kill_at):
    whole, curves = train(tmp_path / "a")
    with pytest.raises(Killed):
        train(tmp_path / "b", kill_at)
    resumed, resumed_curves = train(tmp_path / "b")
    assert torch.equal(whole, resumed)
    assert curves == resumed_curves


def test_a_finished_training_is_not_trained_again(tmp_path):
    whole, curves = train(tmp_path / "a")
    again, again_curves = train(tmp_path / "a", kill_at=0)
    assert torch.equal(whole, again)
    assert curves == again_curves


def test_two_steps_equal_plain_adamw(tmp_path):
    """Fails if gradients are not zeroed, clipped twice, or the schedule is off by one."""
    ours, _ = train(tmp_path / "a", steps=2)
    weight = torch.zeros(4, requires_grad=True)
    truth = torch.tensor([1.0, -2.0, 3.0, 0.5])
    moment, square = torch.zeros(4), torch.zeros(4)
    candidates = []
    for index in range(2):
        generator = torch_generator(7, index)
        x = torch.randn(8, 4, generator=generator)
        loss = ((x @ weight - x @ truth - torch.randn(8, generator=generator)) ** 2).mean()
        (gradient,) = torch.autograd.grad(loss, weight)
        gradient = gradient / max(1.0, float(gradient.norm()) + 1e-6)
        moment, square = 0.9 * moment + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        rate = 0.1 * loop.cosine(index, 2, 5)
        corrected = moment / (1 - 0.9 ** (index + 1)) / ((square / (1 - 0.999 ** (index + 1))).sqrt() + 1e-8)
        weight = (weight.detach() * (1 - rate * 0.01) - rate * corrected).requires_grad_()
        candidates.append(weight.detach())
    torch.testing.assert_close(ours, candidates[-1], rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_not_finite_stops_with_its_step(tmp_path):
    weight = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(FloatingPointError, match="step 0"):
        loop.fit("t", 3, {"w": weight}, torch.optim.SGD([weight], lr=1.0), lambda i: weight.sum() * float("nan"),
                     tmp_path, quiet=True)  # fmt: skip

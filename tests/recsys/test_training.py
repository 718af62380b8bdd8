"""The resumable training loop that ends in the same bytes."""

from __future__ import annotations

import pytest
import torch

from recsys.config import StageConfig
from recsys.seeds import torch_generator
from recsys.training import loop


class Config(StageConfig):
    x: int = 1


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


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([1.0, 3.0, 2.0, 2.5], "stopped early at step 40 of 60; its best is step 20"),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "still improving at its last step, 60: more steps would be better"),
        ([1.0, 2.0, 3.0, 4.0, 6.0, 5.0], None),
    ],
)
def test_it_is_said_how_a_training_ended(tmp_path, capsys, values, told):
    weight = torch.nn.Parameter(torch.ones(1))
    left = iter(values)
    curves = loop.fit(
        "a course",
        60,
        {"weight": weight},
        torch.optim.SGD([weight], lr=0.0),
        lambda index: weight.sum(),
        tmp_path,
        validate=lambda: next(left),
        validate_every=10,
        patience=2,
    )
    assert curves.how_it_ended(curves.validation[-1][0], 60) == told
    assert capsys.readouterr().out == ("" if told is None else f"a course: {told}\n")

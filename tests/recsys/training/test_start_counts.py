"""A training whose start is a candidate: a state that no step improves is kept as it was."""

from __future__ import annotations

import pytest
import torch

from recsys.training import loop


@pytest.mark.parametrize("start_counts", [True, False])
def test_the_start_is_kept_where_no_step_improves_it(tmp_path, start_counts):
    """The loss pulls to 5, and validation wants 0, which is where it begins."""
    weight = torch.nn.Parameter(torch.zeros(1))
    curves = loop.fit(
        "away", 6, {"weight": weight}, torch.optim.SGD([weight], lr=0.1), lambda step: ((weight - 5) ** 2).sum(),
        tmp_path, validate=lambda: -float(weight.detach().abs()), validate_every=2, quiet=True, start_counts=start_counts,
    )  # fmt: skip
    steps = [step for step, _ in curves.validation]
    assert steps == ([0, 2, 4, 6] if start_counts else [2, 4, 6])
    assert curves.best_step == (0 if start_counts else 2)
    assert (weight.item() == 0) == start_counts


def test_a_killed_training_validates_its_start_once(tmp_path):
    def fit(steps):
        weight = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        return loop.fit(
            "on", steps, {"weight": weight}, optimizer, lambda step: ((weight - 5) ** 2).sum(), tmp_path,
            validate=lambda: float(weight.detach()), validate_every=1, quiet=True, start_counts=True,
        )  # fmt: skip

    assert [step for step, _ in fit(2).validation] == [0, 1, 2]
    assert [step for step, _ in fit(4).validation] == [0, 1, 2, 3, 4]

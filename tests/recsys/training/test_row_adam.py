"""Adam of rows against AdamW of each row over the gradients that it had; clipping; kills."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from recsys.seeds import torch_generator
from recsys.training import loop
from recsys.training.row_adam import RowAdam

SETTINGS = {"lr": 0.1, "weight_decay": 0.05, "fused": True}


def test_a_row_is_where_adamw_over_its_own_gradients_would_have_put_it():
    start = torch.randn(5, 3, generator=torch_generator(0))
    table, bias = torch.nn.Parameter(start.clone()), torch.nn.Parameter(torch.ones(3))
    alone = [torch.nn.Parameter(row.clone()[None]) for row in start]
    dense = torch.nn.Parameter(torch.ones(3))
    ours = RowAdam([table, bias], **SETTINGS)
    theirs = [torch.optim.AdamW([one], **SETTINGS) for one in [*alone, dense]]
    for step, items in enumerate([[0, 2], [2, 2, 3], [0, 1, 2], [3]]):
        rows, pull = torch.tensor(items), torch.randn(len(items), 3, generator=torch_generator(1, step))
        (functional.embedding(rows, table, sparse=True) * pull + bias**2).sum().backward()
        ours.step()
        ours.zero_grad()
        picked = torch.cat([alone[item] for item in items])
        (picked * pull + dense**2).sum().backward()
        for item, one in enumerate(theirs):
            if item == len(alone) or item in items:
                one.step()
            one.zero_grad()
    torch.testing.assert_close(table.detach(), torch.cat(alone).detach(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(bias, dense)
    assert torch.equal(table[4], start[4])  # nobody touched it


def test_without_sparse_gradients_it_is_adamw_to_the_bit():
    sides = []
    for kind in (RowAdam, torch.optim.AdamW):
        weight = torch.nn.Parameter(torch.randn(4, 3, generator=torch_generator(0)))
        optimizer = kind([weight], **SETTINGS)
        for step in range(5):
            optimizer.zero_grad()
            (weight * torch.randn(4, 3, generator=torch_generator(1, step))).sum().backward()
            optimizer.step()
        sides.append(weight.detach())
    assert torch.equal(*sides)


class Killed(Exception):
    pass


def train(folder, sparse: bool, clip_norm: float, kill_at: int | None = None) -> dict[str, torch.Tensor]:
    """Rows of a table pulled towards one: all rows in every step, so that sparse and dense must agree."""
    table = torch.nn.Parameter(torch.randn(6, 3, generator=torch_generator(0)))
    scale = torch.nn.Parameter(torch.ones(3))

    def step(index: int) -> torch.Tensor:
        if index == kill_at:
            raise Killed
        rows = torch.randperm(6, generator=torch_generator(2, index)).repeat(2)
        return ((functional.embedding(rows, table, sparse=sparse) * scale - 1) ** 2).sum()

    state = {"table": table, "scale": scale}
    optimizer = RowAdam([table, scale], lr=0.05)
    loop.fit(
        "t",
        20,
        state,
        optimizer,
        step,
        folder,
        clip_norm=clip_norm,
        log_every=4,
        checkpoint_every_s=0.0,
        quiet=True,
    )
    return {name: tensor.detach() for name, tensor in state.items()}


def test_the_gradient_is_clipped_as_a_dense_one_would_be(tmp_path):
    ours, dense = (train(tmp_path / str(sparse), sparse, 0.5) for sparse in (True, False))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, dense[name], rtol=0, atol=1e-4)
    free = train(tmp_path / "free", True, 0.0)
    assert (free["table"] - ours["table"]).abs().max() > 1e-3


@pytest.mark.parametrize("kill_at", [4, 13])
def test_killed_with_sparse_gradients_it_ends_in_the_same_bytes(tmp_path, kill_at):
    whole = train(tmp_path / "whole", True, 0.5)
    with pytest.raises(Killed):
        train(tmp_path / "killed", True, 0.5, kill_at)
    resumed = train(tmp_path / "killed", True, 0.5)
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name])

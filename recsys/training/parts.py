"""A loss over many rows of a table, a part of them at a time: caches and memory hold a part, whatever a step reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class _Known(torch.autograd.Function):
    """A number whose gradient by `table` is known."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.gradient.mul_(gradients[0]), None, None


def loss_in_parts(table: Tensor, parts: Sequence[Tensor], loss: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Σ_k loss(k, table[parts[k]]), whose gradient by `table` [n, d] is made part by part beside it; backward once.

    `parts[k]` are rows of the table; `loss(k, rows)` reads nothing else that is to get a gradient.
    """
    values, gradient, held = table.new_zeros(()), torch.zeros_like(table), table.detach()
    for number, places in enumerate(parts):
        rows = held.index_select(0, places).requires_grad_()
        with torch.enable_grad():
            value = loss(number, rows)
        (of_rows,) = torch.autograd.grad(value, rows)
        gradient.index_add_(0, places, of_rows)
        values = values + value.detach()
    return _Known.apply(table, values, gradient)

"""AdamW whose tables move in the rows that a step touched alone, so that a step costs what it reads, not what exists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class RowAdam(torch.optim.AdamW):
    """Fused AdamW for dense gradients; for a sparse one (`embedding(…, sparse=True)`), AdamW of each row for itself.

    A row's moments, its bias correction and its decay count the steps that touched it: a row seen in k steps is where AdamW
    over those k gradients alone would have put it (torch's `SparseAdam` corrects by the number of all steps, and so moves
    a row that comes late three times as far). State: two moments [n, d] and a count [n].
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        sparse = [
            (group, parameter, parameter.grad)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None and parameter.grad.is_sparse
        ]
        for _, parameter, _ in sparse:
            parameter.grad = None
        super().step()
        for group, parameter, gradient in sparse:
            self._move_rows(group, parameter, gradient.coalesce())
            parameter.grad = gradient

    def _move_rows(self, group: dict[str, Any], table: torch.Tensor, gradient: torch.Tensor) -> None:
        rows, values = gradient.indices()[0], gradient.values()
        state = self.state[table]
        if not state:
            state["step"] = table.new_zeros(len(table))
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
        rate, (first, second) = group["lr"], group["betas"]
        count = state["step"].index_select(0, rows) + 1
        mean = state["exp_avg"].index_select(0, rows).lerp_(values, 1 - first)
        square = (
            state["exp_avg_sq"].index_select(0, rows).mul_(second).addcmul_(values, values, value=1 - second)
        )
        for name, value in (("step", count), ("exp_avg", mean), ("exp_avg_sq", square)):
            state[name].index_copy_(0, rows, value)
        # 1 − β^k in double: in single 1 − .999 has lost five of its digits
        of_mean, of_square = ((1 - beta ** count.double()).to(mean)[:, None] for beta in (first, second))
        divisor = square.div_(of_square).sqrt_().add_(group["eps"])
        moved = table.index_select(0, rows).mul_(1 - rate * group["weight_decay"])
        moved.sub_(mean.div_(of_mean).div_(divisor), alpha=rate)
        table.index_copy_(0, rows, moved)

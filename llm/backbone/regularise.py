"""What keeps a decoder that is trained from scratch from learning its training sequences by heart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from recsys.seeds import torch_draws
from recsys.training import distributed


class BranchDropout:
    """Dropout of what every attention and MLP block adds to the residual stream, and of what enters the first
    (Srivastava et al. 2014).

    It is there only inside `on(step)`, and what it drops depends on (seed, step) alone, so that a killed
    training ends in the same bytes. (Of several processes each drops by numbers of its own: their step is
    then not that of one process.)
    """

    def __init__(self, layers: Sequence[Any], rate: float, seed: int, branches: Sequence[nn.Module] = ()):
        """`branches` are modules besides, whose outputs are added to something."""
        self.rate, self.seed, self._on = rate, seed, False
        if rate:
            layers[0].register_forward_pre_hook(self._entering, with_kwargs=True)
            for layer in layers:
                layer.self_attn.register_forward_hook(self._leaving)
                layer.mlp.register_forward_hook(self._leaving)
            for branch in branches:
                branch.register_forward_hook(self._leaving)

    @contextmanager
    def on(self, step: int, device: torch.device) -> Iterator[None]:
        if not self.rate:
            yield
            return
        with torch_draws(device, self.seed, "dropout", step, distributed.number()):
            self._on = True
            try:
                yield
            finally:
                self._on = False

    def _drop(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, self.rate) if self._on else x

    def _entering(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if args:
            return (self._drop(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": self._drop(kwargs["hidden_states"])}

    def _leaving(self, module: nn.Module, args: tuple, output: Any) -> Any:
        return (self._drop(output[0]), *output[1:]) if isinstance(output, tuple) else self._drop(output)

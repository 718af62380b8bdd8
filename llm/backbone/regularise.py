"""What keeps a decoder that is trained from scratch from learning its training sequences by heart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recsys.seeds import derive, torch_draws
from recsys.training import distributed


class BranchDropout:
    """Dropout of what every attention and MLP block adds to the residual stream, and of what enters the first
    (Srivastava et al. 2014).

    It is there only inside `on(step)`, and what it drops depends on (seed, step) alone, so that a killed
    training ends in the same bytes. (Of several processes each drops by numbers of its own: their step is
    then not that of one process.)
    """

    def __init__(
        self,
        layers: Sequence[Any],
        rate: float,
        seed: int,
        branches: Sequence[nn.Module] = (),
        quick: bool = False,
    ):
        """`branches` are modules besides, whose outputs are added to something. `quick`: masks on CPUs are made of 16
        bits a number by NumPy's SFC64, which is twenty times as fast as torch's generator (other masks, the rate to 1e-5).
        """
        self.rate, self.seed, self._on = rate, seed, False
        self._quick, self._draws = quick, np.random.Generator(np.random.SFC64(0))
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
        keys = "dropout", step, distributed.number()
        if self._quick:
            self._draws = np.random.Generator(np.random.SFC64(derive(self.seed, *keys)))
        with torch_draws(device, self.seed, *keys):
            self._on = True
            try:
                yield
            finally:
                self._on = False

    def _drop(self, x: Tensor) -> Tensor:
        if not self._on:
            return x
        if not self._quick or x.device.type != "cpu":
            return nn.functional.dropout(x, self.rate)
        drawn = self._draws.integers(0, 2**16, x.numel(), np.uint16)
        kept = torch.from_numpy(drawn >= round(self.rate * 2**16)).view(x.shape)
        return x * (kept.to(x.dtype) / (1 - self.rate))

    def _entering(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if args:
            return (self._drop(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": self._drop(kwargs["hidden_states"])}

    def _leaving(self, module: nn.Module, args: tuple, output: Any) -> Any:
        return (self._drop(output[0]), *output[1:]) if isinstance(output, tuple) else self._drop(output)

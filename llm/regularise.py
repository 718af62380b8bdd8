"""What keeps a decoder that is trained from scratch from learning its training sequences by heart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from llm.vocabulary import SidRows
from recsys import distributed
from recsys.seeds import derive, torch_generator


class BranchDropout:
    """Dropout of what every attention and MLP block adds to the residual stream, and of what enters the first (Srivastava et al. 2014).

    It is there only inside `on(step)`, and what it drops depends on (seed, step) alone, so that a killed training ends in the
    same bytes. (Of several processes each drops by numbers of its own: their step is then not that of one process.)
    """

    def __init__(self, layers: Sequence[Any], rate: float, seed: int):
        self.rate, self.seed, self._on = rate, seed, False
        if rate:
            layers[0].register_forward_pre_hook(self._entering, with_kwargs=True)
            for layer in layers:
                layer.self_attn.register_forward_hook(self._leaving)
                layer.mlp.register_forward_hook(self._leaving)

    @contextmanager
    def on(self, step: int, device: torch.device) -> Iterator[None]:
        if not self.rate:
            yield
            return
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(derive(self.seed, "dropout", step, distributed.number()))
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


class Projected(nn.Module):
    """Rows [Σ sizes, h] = their own part + codebook vectors [Σ sizes, d] · P, with one learned P [d, h] for all levels.

    So a gradient that one code gets moves the rows of all codes whose vectors are like its own.
    """

    def __init__(self, codebooks: Tensor, hidden: int, seed: int, name: str):
        super().__init__()
        self.register_buffer("codebooks", codebooks, persistent=False)
        start = torch.zeros(codebooks.shape[1], hidden)
        start.normal_(0, 0.02, generator=torch_generator(seed, "projection", name))
        self.projection = nn.Parameter(start)

    def forward(self, own: Tensor) -> Tensor:
        return own + self.codebooks @ self.projection


def tie_to_codebooks(rows: SidRows, codebooks: Sequence[Tensor | None], seed: int) -> None:
    """Have `rows.input` and `rows.output` go through `Projected` while they are trained (`untie` makes them plain again)."""
    device = rows.input.device
    dim = max(codebook.shape[1] for codebook in codebooks if codebook is not None)
    parts = []
    for level, size in enumerate(rows.sizes):
        codebook = codebooks[level] if level < len(codebooks) else None
        centred = torch.zeros(size, dim) if codebook is None else codebook.detach().float().cpu()
        centred = centred - centred.mean(0)
        parts.append(centred / centred.norm(dim=1).mean().clamp(min=1e-6))
    whole = torch.cat(parts)
    for name in ("input", "output"):
        tied = Projected(whole, rows.input.shape[1], seed, name).to(device)
        parametrize.register_parametrization(rows, name, tied)


def untie(rows: SidRows) -> None:
    """Leave the rows as they are, as parameters of their own."""
    for name in ("input", "output"):
        if parametrize.is_parametrized(rows, name):
            parametrize.remove_parametrizations(rows, name, leave_parametrized=True)

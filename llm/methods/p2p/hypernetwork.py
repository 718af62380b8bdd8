"""The hypernetwork of P2P: profiles to a LoRA for every target layer of every request, in one pass.

    φ^{m,l} = [e ‖ E_mod[m] ‖ E_dep[l]],    (A^{m,l}, B^{m,l}) = Unflatten(f_θ(φ^{m,l}))    (P2P, section 3.1)

The paper leaves open, and here: f_θ is one trunk for all layers, then one linear head for each *shape* of a
layer (q_proj and v_proj differ in size); the scale is alpha / r; e is centred and scaled by what the training
profiles have, since profiles say nearly the same words and what differs between users is what is left. It
starts as PEFT starts a LoRA: A is uniform within ±1/√in (the head's bias; a small part varies with the
request), B is exactly zero (weights and bias), so the first adapters change nothing and B's head has a
gradient at once.

Size at `hidden` 64, 384-d profiles and r = 8 on q and v: 0.16M parameters on a decoder of width 128 (4 heads,
all of them with keys of their own), 1.0M on SmolLM2-135M (q 576 → 576, v 576 → 192), of any depth: heads are
shared between layers.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from llm.backbone.conditions import LowRank
from llm.prompts.prefixes import seeded_linear
from recsys.seeds import torch_generator

Shape = tuple[int, int]  # in, out


class LoraGenerator(nn.Module):
    """Profile vectors [R, d] -> for each layer a `LowRank` of a pair a request:
    a [R, r, in], b [R, out, r].
    """

    centre: Tensor
    spread: Tensor
    _kind: Tensor
    _depth: Tensor

    def __init__(
        self,
        layers: dict[str, Shape],
        dim: int,
        rank: int,
        alpha: float,
        hidden: int,
        position: int,
        seed: int,
    ):
        """`layers` as `Updates.layers` gives them; E_mod and E_dep have `position` numbers each."""
        super().__init__()
        self.rank, self.scale = rank, alpha / rank
        names = list(layers)
        kinds = sorted({kind_of(name) for name in names})
        depths = sorted({depth_of(name) for name in names})
        self.register_buffer(
            "_kind", torch.tensor([kinds.index(kind_of(name)) for name in names]), persistent=False
        )
        self.register_buffer(
            "_depth", torch.tensor([depths.index(depth_of(name)) for name in names]), persistent=False
        )
        self.shapes: list[Shape] = sorted(set(layers.values()))
        self._of_shape = [[name for name in names if layers[name] == shape] for shape in self.shapes]
        self._rows = [torch.tensor([names.index(name) for name in some]) for some in self._of_shape]
        self.row_bytes = 4 * rank * sum(n_in + n_out for n_in, n_out in layers.values())
        generator = torch_generator(seed, "hypernetwork")
        self.register_buffer("centre", torch.zeros(dim))
        self.register_buffer("spread", torch.ones(()))
        self.module = nn.Parameter(torch.randn(len(kinds), position, generator=generator))
        self.depth = nn.Parameter(torch.randn(len(depths), position, generator=generator))
        self.of_profile = seeded_linear(dim, hidden, generator)
        self.of_position = nn.Parameter(
            torch.randn(hidden, 2 * position, generator=generator) * (2 * position) ** -0.5
        )
        self.inner = seeded_linear(hidden, hidden, generator)
        self.heads = nn.ModuleList(self._head(shape, hidden, generator) for shape in self.shapes)

    def _head(self, shape: Shape, hidden: int, generator: torch.Generator) -> nn.Linear:
        (n_in, n_out), rank = shape, self.rank
        head = nn.Linear(hidden, rank * (n_in + n_out))
        bound = n_in**-0.5  # PEFT's kaiming_uniform(a = √5)
        with torch.no_grad():
            head.weight.zero_()
            head.bias.zero_()
            of_a = head.weight[: rank * n_in], head.bias[: rank * n_in]
            of_a[0].uniform_(-bound * hidden**-0.5, bound * hidden**-0.5, generator=generator)
            of_a[1].uniform_(-bound, bound, generator=generator)
        return head

    def standardise(self, centre: Tensor, spread: Tensor) -> None:
        """Take the mean [d] and the spread of the training profiles."""
        self.centre.copy_(centre)
        self.spread.copy_(spread)

    def forward(self, e: Tensor, known: Tensor) -> dict[str, tuple[LowRank]]:
        """e [R, d], known [R] -> the updates by layer name;
        B is zero, and so is the update, where `known` is false.

        The first layer in parts: W [e ‖ E_mod ‖ E_dep] = W₁ e + W₂ [E_mod ‖ E_dep], the first once a request,
        the second once a layer.
        """
        device = self.centre.device
        of_kind = nn.functional.embedding(self._kind, self.module)
        position = torch.cat([of_kind, nn.functional.embedding(self._depth, self.depth)], 1)
        of_layers = nn.functional.linear(position, self.of_position)
        first = self.of_profile((e - self.centre) / self.spread)[:, None] + of_layers
        trunk = nn.functional.gelu(self.inner(nn.functional.gelu(first)))  # [R, layers, hidden]
        counted = known.to(device=device, dtype=trunk.dtype)[:, None, None, None] * self.scale
        made: dict[str, tuple[LowRank]] = {}
        for (n_in, n_out), head, names, rows in zip(
            self.shapes, self.heads, self._of_shape, self._rows, strict=True
        ):
            flat = head(trunk.index_select(1, rows.to(device)))
            a, b = flat.split([self.rank * n_in, self.rank * n_out], dim=2)
            a, b = a.unflatten(2, (self.rank, n_in)), b.unflatten(2, (n_out, self.rank)) * counted
            pairs = zip(a.unbind(1), b.unbind(1), strict=True)
            made |= {name: (LowRank(*pair),) for name, pair in zip(names, pairs, strict=True)}
        return made


def kind_of(name: str) -> str:
    """`layers.3.self_attn.q_proj` -> `q_proj`."""
    return name.rsplit(".", 1)[-1]


def depth_of(name: str) -> int:
    """`layers.3.self_attn.q_proj` -> 3; 0 for a layer that stands in no numbered one."""
    found = re.search(r"(?:^|\.)(\d+)\.", name)
    return int(found.group(1)) if found else 0

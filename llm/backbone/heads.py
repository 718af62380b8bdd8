"""Heads: from the backbone's last states to logits over an item's codes, and readers: an item as input.

Two forms of each. An item is read as the tokens of its codes, or as one vector at one position; its codes are
written by the backbone, token after token, or by a small network over the levels:

    codes in    L positions, x_l = row of code l                  vector in   1 position, x = Σ_l row of code l (+ P v_i)
    tokens out  z_l = W_l h_l,  h_l after the prompt and l codes  depth out   z_l = W_l f_l(h, c_<l),  h after the prompt

With the second form of both, a request is one pass over its prompt: the nodes of the trie cost head work
alone. Everything else (the trie's normaliser, drawing, scoring) is the same for both.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from llm.backbone.leaves import LeafItems
from llm.backbone.vocabulary import SidRows
from recsys.seeds import torch_generator


class Head(Protocol):
    """`states`: how many last states of the backbone an item's codes are predicted from: one before the item,
    and one behind each code that is read. `reads_nodes`: whether the backbone has to read a node of the trie
    to say what follows. `node_bytes`: what a node takes while it is computed, besides its logits.
    """

    states: int
    reads_nodes: bool
    node_bytes: int

    def logits(self, level: int, states: Tensor, codes: Tensor, nodes: Tensor) -> Tensor:
        """Logits [P, sizes[level]] (float32) over the codes of `level`, from the backbone's `states`
        [P, `states`, h], the codes of the levels before [P, ≥ level] and the `nodes` [P] of the trie that they lead to.
        """
        ...


class TokenHead:
    """The backbone is its own head: code l is predicted from its state behind the codes before it."""

    reads_nodes, node_bytes = True, 0

    def __init__(self, rows: SidRows):
        self.rows, self.states = rows, len(rows.sizes)

    def logits(self, level: int, states: Tensor, codes: Tensor, nodes: Tensor) -> Tensor:
        return self.rows.logits(states[:, level], level)


class DepthHead(nn.Module):
    """log p(c_l | h, c_<l) from the state h before the item alone: an autoregressive head over the levels.

        f_0 = h,    f_l = B_l(norm(h) + Σ_{j<l} E_j[c_j]),    z_l = W_l f_l

    with B_l `layers` residual blocks x + V (silu(G n) ⊙ U n), n = norm(x), of a level's own (SwiGLU, arXiv
    2002.05202); W are the output rows of the semantic-ID tokens, E [Σ sizes before the last, h] rows of the
    codes so far. Given `items`, the last level also asks those below its node what they are, of which a code
    says nothing that two nodes do not share:

        z_{L−1}[c] += (Q norm(f_{L−1})) · v_i,    i the item that c leads to

    Lee et al. 2022 (RQ-Transformer, arXiv 2203.01941) have a transformer over depth in this place; with two to
    four levels an MLP sees all that one could.
    """

    states, reads_nodes = 1, False

    def __init__(self, rows: SidRows, width: int, layers: int, items: LeafItems | None = None):
        super().__init__()
        hidden, levels = rows.input.shape[1], len(rows.sizes)
        self._rows = (rows,)  # in a tuple: not a part of this module
        self.norm = nn.Parameter(torch.ones(hidden))
        self.asks = None if items is None else ItemQuery(hidden, items)
        self.codes = nn.Parameter(torch.zeros(int(rows.offsets[levels - 1]), hidden))
        self.blocks = nn.ModuleList(
            nn.ModuleList(GatedBlock(hidden, width) for _ in range(layers)) for _ in range(levels - 1)
        )
        self.node_bytes = 4 * (4 * hidden + 3 * width)

    @property
    def branches(self) -> list[nn.Module]:
        """What blocks add to their input: what dropout is for."""
        return [block.down for level in range(len(self.blocks)) for block in self._blocks(level)]

    def _blocks(self, level: int) -> list[GatedBlock]:
        """Those behind the codes of levels up to `level`."""
        return list(self.blocks[level])  # type: ignore[call-overload]

    @torch.no_grad()
    def start(self, seed: int) -> None:
        """Rows of the codes so far start as the input rows do, half as long as a normed state;
        blocks start as nothing.
        """
        rows, hidden = self._rows[0].input[: len(self.codes)].float(), self.codes.shape[1]
        self.codes.copy_(0.5 * hidden**0.5 * nn.functional.normalize(rows, dim=1))
        if self.asks is not None:
            self.asks.query.weight.zero_()
        for level in range(len(self.blocks)):
            for number, block in enumerate(self._blocks(level)):
                block.start(torch_generator(seed, "depth head", level, number))

    def logits(self, level: int, states: Tensor, codes: Tensor, nodes: Tensor) -> Tensor:
        rows, state = self._rows[0], states[:, 0].float()
        if level:
            offsets = torch.from_numpy(rows.offsets[:level]).to(codes.device)
            so_far = nn.functional.embedding(codes[:, :level] + offsets, self.codes).sum(1)
            state = normed(state, self.norm) + so_far
            for block in self._blocks(level - 1):
                state = block(state)
        found = rows.logits(state, level)
        last = level == len(rows.sizes) - 1
        return found + self.asks(state, nodes) if last and self.asks is not None else found


class ItemQuery(nn.Module):
    """(Q norm(x)) · v of the items below each node: [P, h] -> [P, sizes[−1]]. It starts as nothing."""

    def __init__(self, hidden: int, items: LeafItems):
        super().__init__()
        self.items, self.norm = items, nn.Parameter(torch.ones(hidden))
        self.query = nn.Linear(hidden, items.vectors.shape[1], bias=False)

    def forward(self, x: Tensor, nodes: Tensor) -> Tensor:
        return self.items.scores(self.query(normed(x, self.norm)), nodes)


class GatedBlock(nn.Module):
    """x + V (silu(G n) ⊙ U n), n = norm(x): [P, h] -> [P, h]."""

    def __init__(self, hidden: int, width: int):
        super().__init__()
        self.norm = nn.Parameter(torch.ones(hidden))
        self.gate = nn.Linear(hidden, width, bias=False)
        self.up = nn.Linear(hidden, width, bias=False)
        self.down = nn.Linear(width, hidden, bias=False)

    def start(self, generator: torch.Generator) -> None:
        for layer in (self.gate, self.up):
            layer.weight.normal_(std=layer.in_features**-0.5, generator=generator)
        self.down.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        n = normed(x, self.norm)
        return x + self.down(nn.functional.silu(self.gate(n)) * self.up(n))


def normed(x: Tensor, weight: Tensor) -> Tensor:
    """RMS norm (arXiv 1910.07467) over the last dimension."""
    return nn.functional.rms_norm(x, (x.shape[-1],), weight, 1e-6)


class Reader(Protocol):
    """`numbers` [N, W]: what stands for each item in a prompt, numbered from 0 behind the text tokens."""

    numbers: np.ndarray

    def __call__(self, numbers: Tensor) -> Tensor:
        """Input embeddings [S, h] of such numbers [S]; differentiable."""
        ...


class CodeReader:
    """An item is read as its L codes, one position each."""

    def __init__(self, rows: SidRows, codes: np.ndarray):
        """`codes` [N, L] of the items."""
        self.rows, self.numbers = rows, rows.offsets[:-1] + codes

    def __call__(self, numbers: Tensor) -> Tensor:
        # not by indexing: the gradient of an index with repeats is summed in an order that varies from run to
        # run
        return nn.functional.embedding(numbers, self.rows.input)


class VectorReader(nn.Module):
    """An item is one vector at one position: the sum of its codes' input rows, and, given frozen `vectors`
    [N, d] of the items, a learned projection of its own (RPG, arXiv 2506.05781, and BARGE read items so).
    """

    codes: Tensor
    vectors: Tensor | None

    def __init__(self, rows: SidRows, codes: np.ndarray, vectors: Tensor | None = None):
        super().__init__()
        self._rows = (rows,)
        self.numbers = np.arange(len(codes))[:, None]
        self.register_buffer("codes", torch.from_numpy(rows.offsets[:-1] + codes), persistent=False)
        self.register_buffer("vectors", vectors, persistent=False)
        self.projection = (
            None if vectors is None else nn.Linear(vectors.shape[1], rows.input.shape[1], bias=False)
        )

    @torch.no_grad()
    def start(self, norm: float, seed: int) -> None:
        """The projection starts random, such that projected vectors have about `norm`."""
        if self.projection is not None and self.vectors is not None:
            weight = self.projection.weight
            own = float(self.vectors.norm(dim=1).mean().clamp(min=1e-6))
            weight.normal_(
                std=norm / own * len(weight) ** -0.5, generator=torch_generator(seed, "item vectors")
            )

    def forward(self, numbers: Tensor) -> Tensor:
        read = nn.functional.embedding(self.codes[numbers], self._rows[0].input).sum(1)
        if self.projection is None or self.vectors is None:
            return read
        return read + self.projection(self.vectors[numbers])

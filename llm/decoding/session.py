"""Prompts read once, and the trie's nodes under them: what drawing, listing and scoring share.

What a node costs is the head's matter (`llm.decoding.nodes`): a backbone that writes codes token by token has
to read the node; a head of its own says what follows from the prompt's last state and the node's codes.

A prompt may grow: `extend` reads an item behind it, as if it stood in the history.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llm.backbone.batching import KEPT_LEVELS
from llm.backbone.conditions import Condition
from llm.backbone.ragged import Layout, Memory
from llm.backbone.sid_model import SidModel
from llm.decoding.left import Left, Touched
from llm.decoding.nodes import HeadNodes, Nodes, ReadNodes
from semantic_ids.constraints import Constraints


class PromptSession:
    """B prompts read once, ready to be drawn from any number of times, at any temperature.

    What was forwarded stays known: a node that i.i.d. draws, draws without replacement, a beam and a scored
    item have in common is forwarded once.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: SidModel,
        prompts: Sequence[Sequence[int]],
        condition: Condition,
        constraints: Constraints,
    ):
        self.model, self.trie, self.constraints = model, model.trie, constraints
        self.condition = condition  # its updates hold for the nodes as for the prompts
        packed = model.pack(prompts)
        layout = packed.layout
        self.n_rows, self.width, self.lengths = layout.n_rows, layout.width, layout.lengths
        self.memory = Memory()
        # [B, h]: the state behind each prompt
        self.states = model.hidden(packed, condition, layout.ends - 1, self.memory)
        columns = torch.arange(self.width, device=model.device)
        self.real = columns < self.lengths[:, None]  # [B, width] where a prompt has a token
        self._as_read = self.width, self.lengths, self.real, self.states, constraints
        self.constrain(constraints)
        self.planned = 0, 0  # nodes a level, and columns behind the prompt, that memory was planned for
        self.nodes = ReadNodes(self) if model.head.reads_nodes else HeadNodes(self)
        self.forget()

    def has_room(self, nodes: int, growth: int) -> bool:
        """Was memory planned for so many nodes a level, and columns behind the prompt?"""
        return nodes <= self.planned[0] and growth <= self.planned[1]

    def constrain(self, constraints: Constraints) -> None:
        """What each request may get from now on."""
        self.constraints, self.alive = constraints, ~constraints.excludes_everything()
        self._touched: tuple[Touched, list[tuple[Nodes, torch.Tensor]]] | None = None
        self._left: dict[float, Left] = {}

    def left(self, temperature: float) -> Left:
        """The distribution at `temperature`, conditioned as a whole on what is available; worked out once."""
        if self._touched is None:
            touched = Touched(self.constraints)
            self._touched = touched, touched.read(self)
        if temperature not in self._left:
            self._left[temperature] = Left(*self._touched, temperature)
        return self._left[temperature]

    def restart(self) -> None:
        """Take the prompts and what is available back to what they were at first."""
        self.width, self.lengths, self.real, self.states, constraints = self._as_read
        self.constrain(constraints)
        self.forget()

    @torch.no_grad()
    def extend(self, items: torch.Tensor) -> None:
        """Read an item behind each prompt: `items` [B], −1 where a prompt stays as it is.
        Nodes are forgotten.
        """
        rows = torch.nonzero(items >= 0)[:, 0]
        if not len(rows):
            return
        tokens = torch.from_numpy(self.model.item_tokens[items[rows].cpu().numpy()]).to(rows.device)
        kept = self.nodes.take_over(rows, self.trie.path(items[rows]))
        # what was not read as a node is: the end of each item's tokens, the last always
        item, place = torch.nonzero(
            torch.arange(tokens.shape[1], device=rows.device) >= kept[:, None], as_tuple=True
        )
        row = rows[item]
        layout = Layout(torch.bincount(row, minlength=self.n_rows), self.model.device)
        past, own = self.memory.used, torch.arange(layout.width, device=row.device)
        sees = torch.zeros(
            self.n_rows, layout.width, past + layout.width, dtype=torch.bool, device=row.device
        )
        sees[:, :, :past] = self.real[:, None]
        sees[:, :, past:] = own[:, None] >= own
        hidden = self.model.node_hidden(
            tokens[item, place], self.lengths[row] + place, layout, self.memory, sees, self.condition
        )
        self.states = self.states.index_copy(0, rows, hidden[layout.ends[rows] - 1])
        self.real = torch.cat([self.real, own < layout.lengths[:, None]], 1)
        self.lengths = self.lengths.index_add(0, rows, torch.full_like(rows, tokens.shape[1]))
        self.width = self.memory.used
        self.forget()

    def forget(self) -> None:
        """Drop every node; the prompts, and what was read behind them, stay."""
        self.memory.rewind(self.width)
        self.nodes.forget()

    def make_room(self, nodes: int) -> None:
        """Drop the nodes known so far where they take more than `KEPT_LEVELS` times what `nodes` a level
        will, and more than was planned.
        """
        if self.memory.used - self.width > max(KEPT_LEVELS * nodes, self.planned[1]):
            self.forget()

    def root(self, wanted: torch.Tensor | None = None) -> Nodes:
        """The root of every request that has an item left, or of those of them that are `wanted`
        (bool [B]).
        """
        rows = torch.nonzero(self.alive if wanted is None else self.alive & wanted)[:, 0]
        return Nodes(rows, torch.zeros_like(rows), rows.new_zeros(len(rows), 0))

    @torch.no_grad()
    def logits(self, depth: int, nodes: Nodes) -> torch.Tensor:
        """Logits [P, sizes[depth]] at distinct nodes; forwards those that need it, and fills their slots."""
        return self.nodes.logits(depth, nodes)

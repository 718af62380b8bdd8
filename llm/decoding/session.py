"""Prompts read once, and the trie's nodes under them: what drawing, listing and scoring share.

Level by level only those nodes are forwarded that somebody asks for and that no earlier call has forwarded,
all requests at once, with a tree attention mask over the shared key-value cache (a node sees its prompt, its
ancestors and itself); a node with a single leaf below it forwards nothing.

A prompt may grow: `extend` reads an item behind it, as if it stood in the history. The keys and values of
those of its codes that were forwarded as nodes are taken over, so an item costs the nodes met on the way and
the rest of its path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from llm.backbone.batching import KEPT_LEVELS
from llm.backbone.conditions import Condition
from llm.backbone.ragged import Layout, Memory
from llm.backbone.sid_model import SidModel
from semantic_ids.constraints import Constraints


@dataclass
class Nodes:
    """P distinct nodes of one depth, ordered by request:
    their request `row`, trie `node`, and cache slots so far.
    """

    row: torch.Tensor  # [P]
    node: torch.Tensor  # [P]
    slots: torch.Tensor  # [P, depth] cache columns of the ancestors and (once forwarded) of the node itself


@dataclass
class Known:
    """Nodes of one depth that were forwarded already:
    sorted keys [K] (row · nodes + node), cache columns, logits.
    """

    keys: torch.Tensor
    slots: torch.Tensor
    logits: torch.Tensor  # [K, size]

    def find(self, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each of `keys` is, and whether it is there."""
        at = torch.searchsorted(self.keys, keys).clamp(max=max(len(self.keys) - 1, 0))
        there = self.keys[at] == keys if len(self.keys) else torch.zeros_like(keys, dtype=torch.bool)
        return at, there

    def with_more(self, keys: torch.Tensor, slots: torch.Tensor, logits: torch.Tensor) -> Known:
        keys = torch.cat([self.keys, keys])
        order = torch.argsort(keys)
        return Known(
            keys[order], torch.cat([self.slots, slots])[order], torch.cat([self.logits, logits])[order]
        )


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
        self.root_logits = model.rows.logits(model.hidden(packed, condition, layout.ends - 1, self.memory), 0)
        columns = torch.arange(self.width, device=model.device)
        self.real = columns < self.lengths[:, None]  # [B, width] where a prompt has a token
        self._as_read = self.width, self.lengths, self.real, self.root_logits, constraints
        self.constrain(constraints)
        self.planned = 0, 0  # nodes a level, and columns behind the prompt, that memory was planned for
        self.forget()

    def has_room(self, nodes: int, growth: int) -> bool:
        """Was memory planned for so many nodes a level, and columns behind the prompt?"""
        return nodes <= self.planned[0] and growth <= self.planned[1]

    def constrain(self, constraints: Constraints) -> None:
        """What each request may get from now on."""
        self.constraints, self.alive = constraints, ~constraints.excludes_everything()

    def restart(self) -> None:
        """Take the prompts and what is available back to what they were at first."""
        self.width, self.lengths, self.real, self.root_logits, constraints = self._as_read
        self.constrain(constraints)
        self.forget()

    @torch.no_grad()
    def extend(self, items: torch.Tensor) -> None:
        """Read an item behind each prompt: `items` [B], −1 where a prompt stays as it is.
        Nodes are forgotten.
        """
        trie, rows = self.trie, torch.nonzero(items >= 0)[:, 0]
        if not len(rows):
            return
        path = trie.path(items[rows])
        kept = self._take_over(rows, path)
        # what was not forwarded as a node is: the end of each path, the leaf always
        item, level = torch.nonzero(
            torch.arange(trie.n_levels, device=rows.device) >= kept[:, None], as_tuple=True
        )
        row = rows[item]
        layout = Layout(torch.bincount(row, minlength=self.n_rows), self.model.device)
        past, own = self.memory.used, torch.arange(layout.width, device=row.device)
        sees = torch.zeros(
            self.n_rows, layout.width, past + layout.width, dtype=torch.bool, device=row.device
        )
        sees[:, :, :past] = self.real[:, None]
        sees[:, :, past:] = own[:, None] >= own
        codes = torch.from_numpy(self.model.item_tokens[items[rows].cpu().numpy()]).to(row.device)
        positions = self.lengths[row] + level
        hidden = self.model.node_hidden(
            codes[item, level], positions, layout, self.memory, sees, self.condition
        )
        logits = self.model.rows.logits(hidden[layout.ends[rows] - 1], 0)
        self.root_logits = self.root_logits.index_copy(0, rows, logits)
        self.real = torch.cat([self.real, own < layout.lengths[:, None]], 1)
        self.lengths = self.lengths.index_add(0, rows, torch.full_like(rows, trie.n_levels))
        self.width = self.memory.used
        self.forget()

    def _take_over(self, rows: torch.Tensor, path: torch.Tensor) -> torch.Tensor:
        """Keep the columns of the nodes of `path` [A, L + 1] that were forwarded, and drop all others.

        Returns how many codes of each path [A] that were: its first ones, as a node is forwarded after its
        ancestors.
        """
        trie = self.trie
        slots = path.new_full((len(rows), trie.n_levels - 1), -1)
        for depth in range(1, trie.n_levels):
            at, there = self.known[depth].find(rows * trie.n_nodes[depth] + path[:, depth])
            slots[there, depth - 1] = self.known[depth].slots[at[there]]
        slots = slots[:, (slots >= 0).any(0)]
        columns = slots.new_zeros(self.n_rows, slots.shape[1])
        columns[rows] = slots.clamp(min=0)
        self.memory.keep(columns, self.width)
        read = torch.zeros_like(columns, dtype=torch.bool)
        read[rows] = slots >= 0
        self.real = torch.cat([self.real, read], 1)
        return (slots >= 0).sum(1)

    def forget(self) -> None:
        """Drop every node; the prompts, and what was read behind them, stay."""
        self.memory.rewind(self.width)
        self.known = [self._nothing_known(size) for size in self.trie.sizes]

    def drop(self, depth: int, width: int) -> None:
        """Forget what is known of the nodes of `depth`, which took the last `width` columns."""
        self.memory.rewind(self.memory.used - width)
        self.known[depth] = self._nothing_known(self.trie.sizes[depth])

    def _nothing_known(self, size: int) -> Known:
        empty = torch.zeros(0, dtype=torch.long, device=self.model.device)
        return Known(empty, empty, self.root_logits.new_zeros(0, size))

    def make_room(self, nodes: int) -> None:
        """Drop the nodes known so far where they take more than `KEPT_LEVELS` times what `nodes` a level
        will.
        """
        if self.memory.used - self.width > KEPT_LEVELS * nodes:
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
        if depth == 0:
            return self.root_logits[nodes.row]
        leaves = self.trie.leaf_start[depth]
        branching = leaves[nodes.node + 1] - leaves[nodes.node] > 1
        keys = nodes.row * self.trie.n_nodes[depth] + nodes.node
        new = torch.nonzero(branching & ~self.known[depth].find(keys)[1])[:, 0]
        if len(new):
            hidden, slots = self._forward(depth, nodes, new)
            logits = self.model.rows.logits(hidden, depth)
            self.known[depth] = self.known[depth].with_more(keys[new], slots, logits)
        known, there = self.known[depth], branching
        # the others have one item below them: whatever their logits, they lead there
        result = self.root_logits.new_zeros(len(keys), self.trie.sizes[depth])
        slot = torch.full_like(keys, -1)
        if there.any():
            at = known.find(keys[there])[0]
            result[there], slot[there] = known.logits[at], known.slots[at]
        nodes.slots = torch.cat([nodes.slots, slot[:, None]], 1)
        return result

    def _forward(self, depth: int, nodes: Nodes, which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Forward nodes[which] in one call: their hidden states [Q, h] and the columns they took [Q]."""
        device = self.model.device
        row, node, ancestors = nodes.row[which], nodes.node[which], nodes.slots[which]
        layout = Layout(torch.bincount(row, minlength=self.n_rows), device)
        past = self.memory.used
        sees = torch.zeros(self.n_rows, layout.width, past + layout.width, dtype=torch.bool, device=device)
        sees[:, :, : self.width] = self.real[:, None]
        sees[row[:, None], layout.place[:, None], ancestors] = True
        own = torch.arange(layout.width, device=device)
        sees[:, own, past + own] = True
        code = self.trie.code[depth - 1][node]
        tokens = self.model.text_size + int(self.model.rows.offsets[depth - 1]) + code
        positions = self.lengths[row] + depth - 1
        hidden = self.model.node_hidden(tokens, positions, layout, self.memory, sees, self.condition)
        return hidden, past + layout.place

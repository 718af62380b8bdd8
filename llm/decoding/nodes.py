"""What is known of the trie's nodes under prompts that were read, by a head of each form.

*Nodes that the backbone reads* (`ReadNodes`): level by level only those are forwarded that somebody asks for
and that no earlier call has forwarded, all requests at once, with a tree attention mask over the shared
key-value cache (a node sees its prompt, its ancestors and itself). An item that is read behind a prompt takes
over the keys and values of those of its codes that were forwarded as nodes.

*Nodes that a head knows of itself* (`HeadNodes`): their logits come from the prompt's last state and their
codes; there is nothing to keep.

In both, a node with a single leaf below it computes nothing.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from llm.backbone.conditions import Condition
from llm.backbone.heads import Head
from llm.backbone.ragged import Layout, Memory
from semantic_ids.trie import Trie


class Prompts(Protocol):
    """What nodes must know of the prompts that they are under (`llm.decoding.session.PromptSession`)."""

    model: Any
    trie: Trie
    memory: Memory
    condition: Condition
    n_rows: int
    width: int  # columns of the prompts
    lengths: torch.Tensor  # [B]
    real: torch.Tensor  # [B, width] where a prompt has a token
    states: torch.Tensor  # [B, h] after each prompt


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


def _not_held(session: Prompts) -> Prompts:
    """A session has its nodes: held by them it would stay, keys and values and all, until Python looks for circles, which it does
    by how many objects there are and not by their bytes.
    """
    return weakref.proxy(session)


class HeadNodes:
    """Nodes of a head that says of itself what follows them."""

    def __init__(self, session: Prompts):
        self.session: Prompts = _not_held(session)

    def take_over(self, rows: torch.Tensor, path: torch.Tensor) -> torch.Tensor:
        """No item has been read on the way to it: zeros [A]."""
        return torch.zeros_like(rows)

    def forget(self) -> None:
        """Nothing is kept but what the root's logits are made of."""
        self._root: torch.Tensor | None = None

    def drop(self, depth: int, width: int) -> None:
        """Nothing is kept."""

    def logits(self, depth: int, nodes: Nodes) -> torch.Tensor:
        """Logits [P, sizes[depth]] at distinct nodes."""
        session, trie = self.session, self.session.trie
        head, states = session.model.head, session.states
        if depth == 0:
            if self._root is None:
                self._root = at_root(head, states)
            return self._root[nodes.row]
        asked = torch.nonzero(branching(trie, depth, nodes.node))[:, 0]
        row, node = nodes.row[asked], nodes.node[asked]
        found = head.logits(depth, states[row][:, None], trie.codes_above(depth, node), node)
        if len(asked) == len(nodes.node):
            return found
        # the others have one item below them: whatever their logits, they lead there
        return found.new_zeros(len(nodes.node), found.shape[1]).index_copy(0, asked, found)


class ReadNodes:
    """Nodes that the backbone reads."""

    def __init__(self, session: Prompts):
        self.session: Prompts = _not_held(session)

    def forget(self) -> None:
        """Drop all that is known; the session's memory is taken back to its prompts by who calls this."""
        session = self.session
        self.root_logits = at_root(session.model.head, session.states)
        self.known = [self._nothing_known(size) for size in session.trie.sizes]

    def drop(self, depth: int, width: int) -> None:
        """Forget what is known of the nodes of `depth`, which took the last `width` columns."""
        self.session.memory.rewind(self.session.memory.used - width)
        self.known[depth] = self._nothing_known(self.session.trie.sizes[depth])

    def _nothing_known(self, size: int) -> Known:
        empty = torch.zeros(0, dtype=torch.long, device=self.session.model.device)
        return Known(empty, empty, self.root_logits.new_zeros(0, size))

    def take_over(self, rows: torch.Tensor, path: torch.Tensor) -> torch.Tensor:
        """Keep the columns of the nodes of `path` [A, L + 1] that were forwarded, and drop all others.

        Returns how many codes of each path [A] that were: its first ones, as a node is forwarded after its
        ancestors.
        """
        session, trie = self.session, self.session.trie
        slots = path.new_full((len(rows), trie.n_levels - 1), -1)
        for depth in range(1, trie.n_levels):
            at, there = self.known[depth].find(rows * trie.n_nodes[depth] + path[:, depth])
            slots[there, depth - 1] = self.known[depth].slots[at[there]]
        slots = slots[:, (slots >= 0).any(0)]
        columns = slots.new_zeros(session.n_rows, slots.shape[1])
        columns[rows] = slots.clamp(min=0)
        session.memory.keep(columns, session.width)
        read = torch.zeros_like(columns, dtype=torch.bool)
        read[rows] = slots >= 0
        session.real = torch.cat([session.real, read], 1)
        return (slots >= 0).sum(1)

    def logits(self, depth: int, nodes: Nodes) -> torch.Tensor:
        """Logits [P, sizes[depth]] at distinct nodes; forwards those that need it, and fills their slots."""
        if depth == 0:
            return self.root_logits[nodes.row]
        trie = self.session.trie
        there = branching(trie, depth, nodes.node)
        keys = nodes.row * trie.n_nodes[depth] + nodes.node
        new = torch.nonzero(there & ~self.known[depth].find(keys)[1])[:, 0]
        if len(new):
            hidden, slots = self._forward(depth, nodes, new)
            logits = self.session.model.rows.logits(hidden, depth)
            self.known[depth] = self.known[depth].with_more(keys[new], slots, logits)
        known = self.known[depth]
        # the others have one item below them: whatever their logits, they lead there
        result = self.root_logits.new_zeros(len(keys), trie.sizes[depth])
        slot = torch.full_like(keys, -1)
        if there.any():
            at = known.find(keys[there])[0]
            result[there], slot[there] = known.logits[at], known.slots[at]
        nodes.slots = torch.cat([nodes.slots, slot[:, None]], 1)
        return result

    def _forward(self, depth: int, nodes: Nodes, which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Forward nodes[which] in one call: their hidden states [Q, h] and the columns they took [Q]."""
        session = self.session
        model, memory, device = session.model, session.memory, session.model.device
        row, node, ancestors = nodes.row[which], nodes.node[which], nodes.slots[which]
        layout = Layout(torch.bincount(row, minlength=session.n_rows), device)
        past = memory.used
        sees = torch.zeros(session.n_rows, layout.width, past + layout.width, dtype=torch.bool, device=device)
        sees[:, :, : session.width] = session.real[:, None]
        sees[row[:, None], layout.place[:, None], ancestors] = True
        own = torch.arange(layout.width, device=device)
        sees[:, own, past + own] = True
        code = session.trie.code[depth - 1][node]
        tokens = model.text_size + int(model.rows.offsets[depth - 1]) + code
        positions = session.lengths[row] + depth - 1
        hidden = model.node_hidden(tokens, positions, layout, memory, sees, session.condition)
        return hidden, past + layout.place


def at_root(head: Head, states: torch.Tensor) -> torch.Tensor:
    """Logits [B, sizes[0]] at the root, after each prompt."""
    root = torch.zeros(len(states), dtype=torch.long, device=states.device)
    return head.logits(0, states[:, None], root[:, None][:, :0], root)


def branching(trie: Trie, depth: int, nodes: torch.Tensor) -> torch.Tensor:
    """Bool [P]: has the node more than one leaf below it?"""
    leaves = trie.leaf_start[depth]
    return leaves[nodes + 1] - leaves[nodes] > 1

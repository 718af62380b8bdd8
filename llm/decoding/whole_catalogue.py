"""The log-probability of every item at once, by one pass over the trie.

For catalogues whose inner nodes can all be forwarded:

    log p(item) = log p(node) + log p(item | node),     over all nodes, depth after depth

A prompt is read once and every node with more than one leaf below it is forwarded once, so a request costs as
many tokens as the trie has such nodes: 256 for two levels of 256 codes, thousands for three levels. Nothing
is excluded here: who combines these with other scores conditions the distribution as a whole
(`evaluation.softmax.SoftmaxOver`).

For larger ones `likely_log_probs` forwards the likeliest nodes of each depth alone. What it has met is exact, and what
it has not keeps its node's probability, spread evenly over the leaves: all of it still sums to one.
"""

from __future__ import annotations

import torch

from llm.backbone.heads import DepthHead
from llm.decoding import by_node
from llm.decoding.draws import best_of_each_row
from llm.decoding.session import Nodes, PromptSession
from semantic_ids.trie import Trie

ROWS_BY_NODE = 16  # prompts from which on a node is asked for all of them, rather than a prompt for all nodes
NODES_AT_ONCE = 512  # of the last inner depth, whose keys and values nobody needs again


def inner_nodes(trie: Trie) -> int:
    """How many nodes a request forwards for the whole catalogue:
    those below the root with more than one leaf below them.
    """
    starts = [trie.leaf_start[depth][:] for depth in range(1, trie.n_levels)]
    return sum(int((some[1:] - some[:-1] > 1).sum()) for some in starts)


def nodes_at_once(trie: Trie) -> int:
    """How many nodes a request keeps at most on one depth: what memory must be planned for."""
    return max(min(trie.n_nodes[-2], NODES_AT_ONCE), *trie.n_nodes[:-2], 1)


@torch.no_grad()
def all_log_probs(session: PromptSession, temperature: float = 1.0) -> torch.Tensor:
    """log p [B, N] (float32) of every item after each of the session's prompts at `temperature`, with nothing excluded."""
    trie, device, head = session.trie, session.model.device, session.model.head
    session.forget()
    if (
        temperature == 1
        and isinstance(head, DepthHead)
        and session.n_rows >= ROWS_BY_NODE
        and device.type == "cpu"
    ):
        return by_node.all_log_probs(head, session.states, trie)
    log_p = torch.zeros(session.n_rows, 1, device=device)
    # [B, nodes, depth]: of the ancestors
    slots = torch.zeros(session.n_rows, 1, 0, dtype=torch.long, device=device)
    for depth in range(trie.n_levels):
        last, count = depth == trie.n_levels - 1, trie.n_nodes[depth]
        size, values, places = NODES_AT_ONCE if last else count, [], []
        for start in range(0, count, size):
            before = session.memory.used
            some = torch.arange(start, min(start + size, count), device=device)
            value, place = _children(session, depth, some, slots[:, some], temperature)
            values.append(value + log_p[:, some].repeat_interleave(_widths(trie, depth, some), 1))
            places.append(place)
            if last:
                session.nodes.drop(depth, session.memory.used - before)
        log_p = torch.cat(values, 1)
        if not last:
            slots = torch.cat(places, 1)[:, trie.parent[depth][:]]
    session.forget()
    return log_p[:, trie.item_leaf[:]]


@torch.no_grad()
def likely_log_probs(session: PromptSession, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """log p [B, N] (float32) of every item, of which the `width` likeliest nodes of each depth are forwarded.

    And what of it is exact [B, N] (int32): −1, or else the number of the node, shared by all items below it, that was not
    forwarded. Its probability is exact, and an item below it has an even share. As `all_log_probs` nothing is excluded.
    """
    trie, device, rows = session.trie, session.model.device, session.n_rows
    session.forget()
    log_p = torch.zeros(rows * trie.n_items, device=device)
    below = torch.full((rows * trie.n_items,), -1, dtype=torch.int32, device=device)
    row = torch.arange(rows, device=device)
    node, value, slots = torch.zeros_like(row), log_p.new_zeros(rows), row.new_zeros(rows, 0)
    for depth in range(trie.n_levels):
        last, found = depth == trie.n_levels - 1, []
        place = torch.arange(len(row), device=device) - torch.searchsorted(row, row)
        for start in range(0, max(int(place.max()) + 1 if len(row) else 0, 1), NODES_AT_ONCE):
            some = torch.nonzero((place >= start) & (place < start + NODES_AT_ONCE))[:, 0]
            before = session.memory.used
            asked = Nodes(row[some], node[some], slots[some])
            logits = session.logits(depth, asked)
            each, _ = trie.child_log_probs(depth, asked.node, logits)
            widths = _widths(trie, depth, asked.node)
            parent, child = _ranges(trie.child_start[depth][asked.node], widths)
            given = (each + value[some, None])[parent, child - trie.child_start[depth][asked.node][parent]]
            if last:
                session.nodes.drop(depth, session.memory.used - before)
            first = trie.leaf_start[depth + 1][child]
            count = trie.leaf_start[depth + 1][child + 1] - first
            owner, leaf = _ranges(asked.row[parent] * trie.n_items + first, count)
            log_p[leaf] = (given - count.log())[owner]
            below[leaf] = torch.where(count > 1, first, -1).int()[owner]
            more = torch.nonzero(count > 1)[:, 0]  # what has one leaf is exact
            found.append((asked.row[parent[more]], child[more], given[more], asked.slots[parent[more]]))
        if not last:
            row, node, value, slots = (torch.cat(parts) for parts in zip(*found, strict=True))
            best, _ = best_of_each_row(row, value, rows, width)
            best = best[torch.argsort(row[best] * trie.n_nodes[depth + 1] + node[best])]
            row, node, value, slots = row[best], node[best], value[best], slots[best]
    session.forget()
    return tuple(x.view(rows, -1)[:, trie.item_leaf[:]] for x in (log_p, below))  # type: ignore[return-value]


def _ranges(starts: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of ranges start : start + count laid one after the other: whose each place is, and the place."""
    owner = torch.repeat_interleave(counts)
    inner = torch.arange(len(owner), device=owner.device) - (counts.cumsum(0) - counts)[owner]
    return owner, starts[owner] + inner


def _widths(trie: Trie, depth: int, nodes: torch.Tensor) -> torch.Tensor:
    """How many children each of `nodes` [n] of a depth has."""
    return trie.child_start[depth][nodes + 1] - trie.child_start[depth][nodes]


def _children(
    session: PromptSession,
    depth: int,
    nodes: torch.Tensor,
    slots: torch.Tensor,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """log p(child | node) of all children of `nodes` [n] for every row, in the order of their numbers [B, Σ
    children]; and the cache columns of the nodes and their ancestors [B, n, …]. `slots` [B, n, …] are those
    of the ancestors.
    """
    rows, n = session.n_rows, len(nodes)
    row = torch.arange(rows, device=nodes.device).repeat_interleave(n)
    asked = Nodes(row, nodes.repeat(rows), slots.reshape(rows * n, slots.shape[2]))
    logits = session.logits(depth, asked)
    log_probs, _ = session.trie.child_log_probs(depth, asked.node, logits, temperature)
    widths = _widths(session.trie, depth, nodes)
    real = (torch.arange(log_probs.shape[1], device=nodes.device) < widths[:, None]).reshape(-1)
    flat = log_probs.view(rows, -1).index_select(1, torch.nonzero(real)[:, 0])
    return flat, asked.slots.view(rows, n, asked.slots.shape[1])

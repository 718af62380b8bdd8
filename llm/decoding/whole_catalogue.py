"""The log-probability of every item at once, by one pass over the trie.

For catalogues whose inner nodes can all be forwarded:

    log p(item) = log p(node) + log p(item | node),     over all nodes, depth after depth

A prompt is read once and every node with more than one leaf below it is forwarded once, so a request costs as
many tokens as the trie has such nodes: 256 for two levels of 256 codes, thousands for three levels. Nothing
is excluded here: who combines these with other scores conditions the distribution as a whole
(`evaluation.softmax.SoftmaxOver`).
"""

from __future__ import annotations

import torch

from llm.decoding.session import Nodes, PromptSession
from semantic_ids.trie import Trie

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
def all_log_probs(session: PromptSession) -> torch.Tensor:
    """log p [B, N] (float32) of every item after each of the session's prompts,
    at temperature 1 and with nothing excluded.
    """
    trie, device = session.trie, session.model.device
    session.forget()
    log_p = torch.zeros(session.n_rows, 1, device=device)
    # [B, nodes, depth]: of the ancestors
    slots = torch.zeros(session.n_rows, 1, 0, dtype=torch.long, device=device)
    for depth in range(trie.n_levels):
        last, count = depth == trie.n_levels - 1, trie.n_nodes[depth]
        size, values, places = NODES_AT_ONCE if last else count, [], []
        for start in range(0, count, size):
            before = session.memory.used
            some = torch.arange(start, min(start + size, count), device=device)
            value, place = _children(session, depth, some, slots[:, some])
            values.append(value + log_p[:, some].repeat_interleave(_widths(trie, depth, some), 1))
            places.append(place)
            if last:
                session.nodes.drop(depth, session.memory.used - before)
        log_p = torch.cat(values, 1)
        if not last:
            slots = torch.cat(places, 1)[:, trie.parent[depth][:]]
    session.forget()
    return log_p[:, trie.item_leaf[:]]


def _widths(trie: Trie, depth: int, nodes: torch.Tensor) -> torch.Tensor:
    """How many children each of `nodes` [n] of a depth has."""
    return trie.child_start[depth][nodes + 1] - trie.child_start[depth][nodes]


def _children(
    session: PromptSession, depth: int, nodes: torch.Tensor, slots: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """log p(child | node) of all children of `nodes` [n] for every row, in the order of their numbers [B, Σ
    children]; and the cache columns of the nodes and their ancestors [B, n, …]. `slots` [B, n, …] are those
    of the ancestors.
    """
    rows, n = session.n_rows, len(nodes)
    row = torch.arange(rows, device=nodes.device).repeat_interleave(n)
    asked = Nodes(row, nodes.repeat(rows), slots.reshape(rows * n, slots.shape[2]))
    logits = session.logits(depth, asked)
    log_probs, _ = session.trie.child_log_probs(depth, asked.node, logits)
    widths = _widths(session.trie, depth, nodes)
    real = (torch.arange(log_probs.shape[1], device=nodes.device) < widths[:, None]).reshape(-1)
    flat = log_probs.view(rows, -1).index_select(1, torch.nonzero(real)[:, 0])
    return flat, asked.slots.view(rows, n, asked.slots.shape[1])

"""What exclusions and allow-lists leave of a distribution: p(item) / (probability of all that is available), exactly.

Of every node with an available and an unavailable leaf below it we need the share of its mass that is left,

    left(node) = Σ_child p(child | node) · left(child),     1 for a child that lost nothing, 0 for one that lost all,

from the leaves up: sums of positive terms, so nothing cancels. Then p(child | node) · left(child) / left(node), node after node,
is the distribution over items conditioned as a whole, and left(root) is its normaliser: an exclusion takes an item out and
changes the order of no others. Node by node alone (`Constraints.mask`), what an item loses goes to its siblings.

The nodes on the way to the excluded items are read for it, or those on the way to the allowed ones where they are fewer. Where
both are more than `MOST_NODES` (an allow-list of a large part of a large catalogue), that is not affordable: such a request is
drawn and scored node by node, and `Left.by_node` says so. Lists need no normaliser (`llm.decoding.draws.search`), and are of
the distribution as a whole whatever is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from llm.decoding.nodes import Nodes, branching
from recsys.recommender import Request
from semantic_ids.constraints import Constraints, cells, contains
from semantic_ids.trie import Trie

MOST_NODES = 4096  # of a request: reading them takes as long as a prompt of so many tokens
MOST_LEAVES = (
    1 << 16
)  # excluded or allowed, whichever are fewer: paths that are looked at to count those nodes
COUNTED_AT_ONCE = 256  # requests


class Prompts(Protocol):
    """What is asked of the prompts (`llm.decoding.session.PromptSession`)."""

    trie: Trie
    constraints: Constraints
    n_rows: int

    def logits(self, depth: int, nodes: Nodes) -> Tensor: ...


class Touched:
    """The nodes of each depth that are left in part, as sorted keys (request · nodes of the depth + node), without those
    that have one leaf. `by_node` [R]: requests that have too many of them, whose nodes are not in the keys.
    """

    def __init__(self, constraints: Constraints):
        self.constraints, trie = constraints, constraints.trie
        self.by_node = torch.zeros(constraints.n_rows, dtype=torch.bool, device=trie.device)
        leaves, too_many = _fewer(constraints)
        self.by_node[too_many] = True
        rows, nodes = leaves // trie.n_items, leaves % trie.n_items
        self.keys: list[Tensor] = []
        for depth in range(trie.n_levels - 1, -1, -1):
            keys = torch.unique(rows * trie.n_nodes[depth] + trie.parent[depth][nodes])
            rows, nodes = keys // trie.n_nodes[depth], keys % trie.n_nodes[depth]
            some = branching(trie, depth, nodes) & constraints.allowed(depth, nodes, rows)
            self.keys.insert(0, keys[some])
        counts = self.counts(trie)
        self.by_node |= counts > MOST_NODES
        if bool(self.by_node.any()):
            n = trie.n_nodes
            self.keys = [keys[~self.by_node[keys // n[depth]]] for depth, keys in enumerate(self.keys)]

    def counts(self, trie: Trie) -> Tensor:
        """Nodes [R] of each request."""
        counts = torch.zeros_like(self.by_node, dtype=torch.int64)
        for depth, keys in enumerate(self.keys):
            counts += torch.bincount(keys // trie.n_nodes[depth], minlength=len(counts))
        return counts

    def read(self, session: Prompts) -> list[tuple[Nodes, Tensor]]:
        """The nodes of each depth, and their logits."""
        trie, found = session.trie, list[tuple[Nodes, Tensor]]()
        for depth, keys in enumerate(self.keys):
            row, node = keys // trie.n_nodes[depth], keys % trie.n_nodes[depth]
            slots = node.new_zeros(len(node), 0)
            if depth:
                above = found[-1][0]
                parents = row * trie.n_nodes[depth - 1] + trie.parent[depth - 1][node]
                slots = above.slots[torch.searchsorted(self.keys[depth - 1], parents)]
            nodes = Nodes(row, node, slots)
            found.append((nodes, session.logits(depth, nodes)))
        return found


class Left:
    """A mask for the walkers of the trie (`semantic_ids.trie_arrays.Mask`) that makes their node-by-node probabilities those of
    the distribution as a whole, at one temperature. `log_total` [R] (float64): log of what is left of all of it; −inf where nothing is,
    NaN where it is not known (`by_node` [R]).
    """

    def __init__(self, touched: Touched, read: Sequence[tuple[Nodes, Tensor]], temperature: float = 1.0):
        constraints = touched.constraints
        self.constraints, self.temperature, trie = constraints, temperature, constraints.trie
        self.keys, self.by_node = touched.keys, touched.by_node
        self.log_left: list[Tensor] = []
        for depth in range(trie.n_levels - 1, -1, -1):
            nodes, logits = read[depth]
            log_p, children = trie.child_log_probs(depth, nodes.node, logits, temperature)
            rows = nodes.row[:, None].expand_as(children)
            lost = ~constraints.allowed(depth + 1, children, rows)
            log_left = log_p.double().masked_fill(lost, -torch.inf)
            if depth + 1 < trie.n_levels and len(self.keys[depth + 1]):
                known, keys = self.keys[depth + 1], rows * trie.n_nodes[depth + 1] + children
                at = torch.searchsorted(known, keys).clamp(max=len(known) - 1)
                log_left += torch.where(known[at] == keys, self.log_left[0][at], 0.0)
            self.log_left.insert(0, log_left.logsumexp(1))
        self.log_total = torch.zeros(constraints.n_rows, dtype=torch.float64, device=trie.device)
        self.log_total[constraints.excludes_everything()] = -torch.inf
        self.log_total[self.keys[0]] = self.log_left[0]  # the root of request r has the key r
        self.log_total[self.by_node] = torch.nan

    def mask(
        self, scores: Tensor, depth: int, first: Tensor, count: Tensor, rows: Tensor, by_code: bool = False
    ) -> Tensor:
        """`Constraints.mask`, and each child's score plus what is left of it."""
        trie, width = self.constraints.trie, scores.shape[1]
        scores = self.constraints.mask(scores, depth, first, count, rows, by_code)
        if depth + 1 == trie.n_levels or not len(self.keys[depth + 1]):
            return scores
        code = trie.code[depth] if by_code else None
        base = rows * trie.n_nodes[depth + 1]
        places, which = cells(self.keys[depth + 1], base, first, count, width, code)
        bias = (self.temperature * self.log_left[depth + 1][which]).to(scores.dtype)
        return scores.reshape(-1).index_add(0, places, bias).view(scores.shape)


def nodes_of(trie: Trie, requests: Sequence[Request]) -> np.ndarray:
    """How many nodes [R] each request's exclusions and allow-list have read, for who plans memory."""
    counts = np.zeros(len(requests), np.int64)
    some = [at for at, one in enumerate(requests) if len(one.exclude) or one.allow is not None]
    for start in range(0, len(some), COUNTED_AT_ONCE):
        part = some[start : start + COUNTED_AT_ONCE]
        asked = [requests[at] for at in part]
        touched = Touched(Constraints(trie, [r.exclude for r in asked], [r.allow for r in asked]))
        counts[part] = touched.counts(trie).cpu().numpy()
    return counts


def _fewer(constraints: Constraints) -> tuple[Tensor, list[int]]:
    """Keys (request · items + leaf) of the leaves that are available to each request, or of those that are not where these
    are fewer; and the requests for which both are more than `MOST_LEAVES`.
    """
    n, dead = constraints.trie.n_items, constraints.dead[-1]
    edges = torch.arange(constraints.n_rows + 1, device=dead.device) * n
    begins = torch.searchsorted(dead, edges).tolist()
    lists = [-1] * constraints.n_rows if constraints.list_of is None else constraints.list_of.tolist()
    found, too_many = [dead[:0]], list[int]()
    for row, which in enumerate(lists):
        gone = dead[begins[row] : begins[row + 1]] - row * n
        if which < 0:
            fewer = gone
        else:
            live = constraints.live[-1]
            low, high = torch.searchsorted(live, edges.new_tensor([which * n, (which + 1) * n])).tolist()
            available = high - low - len(gone)
            if min(available, n - available) > MOST_LEAVES:
                fewer = None
            else:
                listed = live[low:high] - which * n
                fewer = listed[~contains(gone, listed)]
                if 2 * available > n:  # the list itself is about as long as the catalogue
                    others = torch.ones(n, dtype=torch.bool, device=dead.device)
                    others[fewer] = False
                    fewer = torch.nonzero(others)[:, 0]
        if fewer is None or len(fewer) > MOST_LEAVES:
            too_many.append(row)
        else:
            found.append(fewer + row * n)
    return torch.cat(found), too_many

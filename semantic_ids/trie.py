"""The trie of semantic IDs as flat arrays: no Python object per node, every step vectorised over a batch.

Items are sorted lexicographically by their codes, so the leaves under a node are one contiguous range and its
children are consecutive nodes of the next depth. A node is a number within its depth; a compressed-sparse-row
offset array (`child_start`) says where its children begin. The idea of a trie as flat arrays is that of
STATIC (arXiv 2602.22647).

A constraint here never fails open: an unknown prefix raises, and the mask is applied before temperature and
softmax, so the probabilities of a node's live children sum to one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class UnknownPrefix(KeyError):
    """A code prefix that no item has."""


class Trie:
    """Item → codes, walked from the root (depth 0) to the leaves (depth L, one per item).

    `codes` [N, L] holds one distinct row per item, `codes[i, l]` in `[0, sizes[l])`. Nodes of a depth are
    numbered in lexicographic order of their code prefix. Raises `ValueError` for codes out of range and,
    naming the items, for codes that are shared.

    Attributes (int64 tensors on one device):
        n_nodes:        nodes at depth 0..L; `n_nodes[0] == 1`, `n_nodes[L] == N`
        child_start[l]: [n_nodes[l] + 1]; the children of node v of depth l are the nodes
                        `child_start[l][v] .. child_start[l][v + 1] - 1` of depth l + 1
        code[l]:        [n_nodes[l + 1]]; the code by which a node of depth l + 1 is reached
        leaf_start[l]:  [n_nodes[l] + 1], l in 0..L; the leaves under each node
        leaf_item:      [N] item of a leaf;  item_leaf: [N] leaf of an item
        max_children:   per depth 0..L-1, the widest branching
    """

    def __init__(self, codes: Tensor | np.ndarray, sizes: Sequence[int]):
        rows = _checked(codes, sizes)
        self.n_items, self.n_levels = rows.shape
        self.sizes: tuple[int, ...] = tuple(int(size) for size in sizes)
        order = _lexicographic_order(rows, self.sizes)
        rows = rows[order]
        starts = _prefix_starts(rows, order)
        self.n_nodes: tuple[int, ...] = tuple(len(start) for start in starts)
        ends = [np.append(start, self.n_items) for start in starts]
        self.leaf_start: list[Tensor] = [torch.from_numpy(end) for end in ends]
        levels = range(self.n_levels)
        self.child_start: list[Tensor] = [
            torch.from_numpy(np.searchsorted(starts[level + 1], ends[level])) for level in levels
        ]
        self.code: list[Tensor] = [torch.from_numpy(rows[starts[level + 1], level]) for level in levels]
        self.max_children: tuple[int, ...] = tuple(int(start.diff().max()) for start in self.child_start)
        self.leaf_item: Tensor = torch.from_numpy(order)
        self.item_leaf: Tensor = torch.empty_like(self.leaf_item)
        self.item_leaf[self.leaf_item] = torch.arange(self.n_items)

    @property
    def device(self) -> torch.device:
        return self.leaf_item.device

    def to(self, device: torch.device | str) -> Trie:
        """This trie with its tensors on `device`; the original is left as it is."""
        moved = copy.copy(self)
        for name in ("leaf_start", "child_start", "code"):
            setattr(moved, name, [tensor.to(device) for tensor in getattr(self, name)])
        moved.leaf_item, moved.item_leaf = self.leaf_item.to(device), self.item_leaf.to(device)
        return moved

    def path(self, items: Tensor) -> Tensor:
        """Node numbers [n, L + 1] from the root to the leaf of each of `items` [n]."""
        self._check_items(items)
        leaves = self.item_leaf[items.to(self.device)]
        nodes = [torch.searchsorted(start, leaves, right=True) - 1 for start in self.leaf_start[:-1]]
        return torch.stack([*nodes, leaves], dim=1)

    def find(self, prefix: Sequence[int]) -> int:
        """Node number at depth `len(prefix)`; raises `UnknownPrefix` (a `KeyError`) where no item has it."""
        prefix = [int(code) for code in prefix]
        if len(prefix) > self.n_levels:
            raise UnknownPrefix(
                f"prefix {tuple(prefix)} is longer than the {self.n_levels} levels of the trie"
            )
        node = 0
        for level, code in enumerate(prefix):
            first, last = self.child_start[level][node : node + 2].tolist()
            siblings = self.code[level][first:last]
            offset = int(torch.searchsorted(siblings, code))
            if offset == last - first or int(siblings[offset]) != code:
                raise UnknownPrefix(f"no item has the code prefix {tuple(prefix[: level + 1])}")
            node = first + offset
        return node

    def exclusions(self, excluded: Sequence[np.ndarray]) -> Exclusions:
        """One array of items a request (any order, duplicates allowed, may be empty), as an `Exclusions`."""
        lengths = np.array([len(items) for items in excluded], dtype=np.int64)
        flat = (
            np.concatenate([np.asarray(items).reshape(-1) for items in excluded])
            if len(excluded)
            else lengths
        )
        items = torch.from_numpy(flat.astype(np.int64))
        self._check_items(items)
        rows = torch.from_numpy(np.repeat(np.arange(len(excluded)), lengths)).to(self.device)
        keys = rows * self.n_items + self.item_leaf[items.to(self.device)]
        return Exclusions(self, torch.unique(keys), len(excluded))

    def children(self, depth: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Children of `nodes` [P] of `depth`: node numbers [P, W] at depth + 1, and which are real [P, W].

        W is the widest branching among these nodes; padding repeats the node's last child, so it is safe to
        index by.
        """
        first, end = self.child_start[depth][nodes], self.child_start[depth][nodes + 1]
        width = int((end - first).max()) if len(nodes) else 0
        child = first[:, None] + torch.arange(width, device=self.device)
        real = child < end[:, None]
        return torch.minimum(child, end[:, None] - 1), real

    def child_log_probs(
        self,
        depth: int,
        nodes: Tensor,
        logits: Tensor,
        temperature: float = 1.0,
        exclusions: Exclusions | None = None,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """log p(child | node) inside the trie, and the child nodes, both [P, W] (see `children`).

        Mask first, then temperature and log-softmax, in float32: log p = log_softmax(z[live children] / t).
        `logits` [P, sizes[depth]] are over the codes of the level. `rows` [P] says which request of
        `exclusions` each node belongs to. −inf at padding and at dead children; a node without a live child
        is a row of −inf. Differentiable in `logits`. Raises `ValueError` unless `temperature` > 0.
        """
        if not temperature > 0 or math.isinf(temperature):
            raise ValueError(f"temperature must be a finite number above 0, got {temperature}")
        if logits.shape != (len(nodes), self.sizes[depth]):
            wanted = (len(nodes), self.sizes[depth])
            raise ValueError(f"logits of depth {depth} have shape {tuple(logits.shape)}, expected {wanted}")
        child, live = self.children(depth, nodes)
        if exclusions is not None:
            if rows is None:
                raise ValueError("exclusions need `rows`: the request of each node")
            live = live & exclusions.allowed(depth + 1, child, rows[:, None].expand_as(child))
        scores = logits.float().gather(1, self.code[depth][child])
        # A dead row is computed on zeros and masked after: a softmax over −inf alone is NaN both ways.
        hopeless = ~live.any(dim=1, keepdim=True)
        scores = scores.masked_fill(~live, -torch.inf).masked_fill(hopeless, 0.0)
        if scores.shape[1]:  # the largest score first becomes 0, so that a small temperature cannot overflow
            scores = (scores - scores.detach().amax(dim=1, keepdim=True)) / temperature
        return scores.log_softmax(dim=1).masked_fill(~live, -torch.inf), child

    def _check_items(self, items: Tensor) -> None:
        if len(items) and not (int(items.min()) >= 0 and int(items.max()) < self.n_items):
            wrong = items[(items < 0) | (items >= self.n_items)][:5].tolist()
            raise ValueError(f"items {wrong} are not in the trie, which holds items 0..{self.n_items - 1}")


class Exclusions:
    """Items that each of R requests may not get. A node is dead iff every leaf under it is excluded.

    Held as one sorted array of keys `row * N + leaf`, so the number of excluded leaves under a node is the
    difference of two binary searches: the cost grows with the logarithm of what is excluded, never with the
    catalogue.
    """

    def __init__(self, trie: Trie, keys: Tensor, n_rows: int):
        self.trie, self.keys, self.n_rows = trie, keys, n_rows

    def allowed(self, depth: int, nodes: Tensor, rows: Tensor) -> Tensor:
        """Bool, the shape of `nodes`: has the node of `depth` a leaf that its request in `rows` may get?"""
        start = self.trie.leaf_start[depth]
        first, end = start[nodes], start[nodes + 1]
        base = rows * self.trie.n_items
        excluded = torch.searchsorted(self.keys, base + end) - torch.searchsorted(self.keys, base + first)
        return excluded < end - first

    def excludes_everything(self) -> Tensor:
        """Bool [R]: requests that have no item left."""
        rows = torch.arange(self.n_rows, device=self.trie.device)
        return ~self.allowed(0, torch.zeros_like(rows), rows)


def _checked(codes: Tensor | np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    rows = codes.cpu().numpy() if isinstance(codes, Tensor) else np.asarray(codes)
    if rows.ndim != 2 or not rows.size or rows.shape[1] != len(sizes):
        raise ValueError(f"codes must be [items ≥ 1, {len(sizes)} levels], got shape {rows.shape}")
    if not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"codes must be integers, got {rows.dtype}")
    wrong = np.flatnonzero(((rows < 0) | (rows >= np.asarray(sizes))).any(axis=1))
    if len(wrong):
        raise ValueError(
            f"codes of item {wrong[0]} are {rows[wrong[0]].tolist()}, outside sizes {tuple(sizes)} "
            f"({len(wrong)} such items)"
        )
    return rows.astype(np.int64, copy=False)


def _lexicographic_order(rows: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    if math.prod(sizes) >= 2**62:  # too wide for one integer key
        return np.lexsort(rows.T[::-1])
    key = np.zeros(len(rows), dtype=np.int64)
    for level, size in enumerate(sizes):
        key *= size
        key += rows[:, level]
    return np.argsort(key, kind="stable")


def _prefix_starts(rows: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
    """For depths 0..L, the sorted positions at which a new prefix of that length begins."""
    n_items, n_levels = rows.shape
    new = np.zeros(n_items, dtype=bool)
    new[0] = True
    starts = [np.zeros(1, dtype=np.int64)]
    for level in range(n_levels):
        new[1:] |= rows[1:, level] != rows[:-1, level]
        starts.append(np.flatnonzero(new))
    if not new.all():
        second = int(np.flatnonzero(~new)[0])
        items, shared = sorted(order[second - 1 : second + 1].tolist()), rows[second].tolist()
        raise ValueError(
            f"items {items[0]} and {items[1]} share the codes {shared} ({int((~new).sum())} items have codes "
            "that another has); make them unique first (semantic_ids.table.make_unique)"
        )
    return starts

"""The trie of semantic IDs as flat arrays: no Python object per node, every step vectorised over a batch.

Items are sorted lexicographically by their codes, so the leaves under a node are one contiguous range and its
children are consecutive nodes of the next depth. A node is a number within its depth; a compressed-sparse-row
offset array (`child_start`) says where its children begin. The first depths, where nodes are few and well
filled, have a dense table beside it, node × code; and where every node has every code as a child, as at the
first depths of a large catalogue, nothing is looked up at all. The idea of a trie as flat arrays is that of
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

from semantic_ids.trie_arrays import Dense, IntArray, Mask, rows_of

DENSE_CELLS = 2**20  # nodes × codes of a depth, at most, to have a dense table (8 bytes a cell)


class UnknownPrefix(KeyError):
    """A code prefix that no item has."""


class Trie:
    """Item → codes, walked from the root (depth 0) to the leaves (depth L, one per item).

    `codes` [N, L] holds one distinct row per item, `codes[i, l]` in `[0, sizes[l])`. Nodes of a depth are
    numbered in lexicographic order of their code prefix. Raises `ValueError` for codes out of range and,
    naming the items, for codes that are shared.

    Attributes (arrays that take 2 or 4 bytes an entry and answer int64 when indexed, on one device):
        n_nodes:        nodes at depth 0..L; `n_nodes[0] == 1`, `n_nodes[L] == N`
        child_start[l]: [n_nodes[l] + 1]; the children of node v of depth l are the nodes
                        `child_start[l][v] .. child_start[l][v + 1] - 1` of depth l + 1
        code[l]:        [n_nodes[l + 1]]; the code by which a node of depth l + 1 is reached
        parent[l]:      [n_nodes[l + 1]]; the node of depth l that a node of depth l + 1 is a child of
        leaf_start[l]:  [n_nodes[l] + 1], l in 0..L; the leaves under each node
        leaf_item:      [N] item of a leaf;  item_leaf: [N] leaf of an item
        max_children:   per depth 0..L-1, the widest branching
        complete:       per depth 0..L-1, whether every node has every code as a child
        dense:          per depth 0..L-1, its dense table; None where it is complete, large or far from filled
    """

    def __init__(self, codes: Tensor | np.ndarray, sizes: Sequence[int]):
        rows = _checked(codes, sizes)
        self.n_items, self.n_levels = rows.shape
        self.sizes: tuple[int, ...] = tuple(int(size) for size in sizes)
        order = _lexicographic_order(rows, self.sizes)
        self.n_nodes: tuple[int, ...] = (1,)
        self.max_children: tuple[int, ...] = ()
        self.leaf_start: list[IntArray] = [IntArray(np.array([0, self.n_items]))]
        self.child_start: list[IntArray] = []
        self.code: list[IntArray] = []
        self.parent: list[IntArray] = []
        new, starts = np.zeros(self.n_items, dtype=bool), np.zeros(1, dtype=np.int64)
        new[0] = True
        for level in range(self.n_levels):  # `new` marks the sorted positions where a prefix begins
            column = rows[order, level]
            new[1:] |= column[1:] != column[:-1]
            n_begun = np.cumsum(new)
            first_child = np.append(n_begun[starts] - 1, n_begun[-1])
            starts = np.flatnonzero(new)
            self.n_nodes += (len(starts),)
            self.max_children += (int(np.diff(first_child).max()),)
            self.leaf_start.append(IntArray(np.append(starts, self.n_items)))
            self.child_start.append(IntArray(first_child))
            self.parent.append(IntArray(np.repeat(np.arange(self.n_nodes[level]), np.diff(first_child))))
            self.code.append(IntArray(column[starts], padding=self.max_children[level]))
        _refuse_shared(rows, order, new)
        self.complete = tuple(
            self.n_nodes[level + 1] == self.n_nodes[level] * size for level, size in enumerate(self.sizes)
        )
        self.dense = [self._dense(depth) for depth in range(self.n_levels)]
        leaf = np.empty_like(order)
        leaf[order] = np.arange(self.n_items)
        self.leaf_item, self.item_leaf = IntArray(order), IntArray(leaf)
        self.lists: dict[int, tuple] = {}  # allow-lists that are asked for again (`semantic_ids.constraints`)

    @property
    def device(self) -> torch.device:
        return self.leaf_item.stored.device

    @property
    def n_bytes(self) -> int:
        """Bytes that the arrays take."""
        arrays = [*self.leaf_start, *self.child_start, *self.code, *self.parent, *self.dense]
        return sum(array.n_bytes for array in [*arrays, self.leaf_item, self.item_leaf] if array is not None)

    def to(self, device: torch.device | str) -> Trie:
        """This trie with its arrays on `device`; the original is left as it is."""
        moved = copy.copy(self)
        moved.lists = {}
        for name in ("leaf_start", "child_start", "code", "parent"):
            setattr(moved, name, [array.to(device) for array in getattr(self, name)])
        moved.dense = [None if table is None else table.to(device) for table in self.dense]
        moved.leaf_item, moved.item_leaf = self.leaf_item.to(device), self.item_leaf.to(device)
        return moved

    def path(self, items: Tensor) -> Tensor:
        """Node numbers [n, L + 1] from the root to the leaf of each of `items` [n].

        Items may lie on a CPU whatever the trie's device; they are then checked without waiting for that.
        """
        least, most = torch.stack(items.aminmax()).tolist() if len(items) else (0, 0)
        if not 0 <= least <= most < self.n_items:
            wrong = items[(items < 0) | (items >= self.n_items)][:5].tolist()
            raise ValueError(f"items {wrong} are not in the trie, which holds items 0..{self.n_items - 1}")
        nodes = [self.item_leaf[items.to(self.device, non_blocking=True)]]
        for parent in reversed(self.parent):
            nodes.append(parent[nodes[-1]])
        return torch.stack(nodes[::-1], dim=1)

    def codes(self, path: Tensor) -> Tensor:
        """The codes [n, d] by which the nodes of `path` [n, d + 1], from the root on, are reached."""
        steps = [self.code[depth][path[:, depth + 1]] for depth in range(path.shape[1] - 1)]
        return torch.stack(steps, 1) if steps else path.new_zeros(len(path), 0)

    def codes_above(self, depth: int, nodes: Tensor) -> Tensor:
        """The codes [P, depth] that lead from the root to `nodes` [P] of `depth`."""
        codes = []
        for level in range(depth - 1, -1, -1):
            codes.append(self.code[level][nodes])
            nodes = self.parent[level][nodes]
        return torch.stack(codes[::-1], 1) if codes else nodes.new_zeros(len(nodes), 0)

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

    def children(self, depth: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Children of `nodes` [P] of `depth`: node numbers [P, W] at depth + 1, and which are real [P, W].

        W is at most `max_children[depth]`; padding repeats the node's last child, so it is safe to index by.
        """
        first, count, width = self._span(depth, nodes)
        return _child_numbers(first, count, width), torch.arange(width, device=self.device) < count[:, None]

    def child_scores(
        self,
        depth: int,
        nodes: Tensor,
        logits: Tensor,
        constraints: Mask | None = None,
        rows: Tensor | None = None,
        by_code: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The logits of each node's children, float32 [P, W], −inf at padding and at dead children;
        first child [P].

        Column j is child `first + j`, or, `by_code` at a depth with a dense table, the child with code j. The
        scores may be `logits` itself, so do not write to them. Arguments as in `child_log_probs`.
        """
        if logits.shape != (len(nodes), self.sizes[depth]):
            wanted = (len(nodes), self.sizes[depth])
            raise ValueError(f"logits of depth {depth} have shape {tuple(logits.shape)}, expected {wanted}")
        scores, dense = logits.float(), self.dense[depth] if by_code else None
        first, count, width = self._span(depth, nodes)
        if dense is not None:
            scores = scores + dense.absent.index_select(0, nodes)
        elif not self.complete[depth]:
            scores = scores.gather(1, self.code[depth].windows(first, width))
            ramp = scores.new_zeros(2 * width)
            ramp[width:] = -torch.inf
            scores = scores + rows_of(ramp, width - count, width)
        if constraints is not None:
            if rows is None:
                raise ValueError("constraints need `rows`: the request of each node")
            scores = constraints.mask(scores, depth, first, count, rows, dense is not None)
        return scores, first

    def child_log_probs(
        self,
        depth: int,
        nodes: Tensor,
        logits: Tensor,
        temperature: float = 1.0,
        exclusions: Mask | None = None,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """log p(child | node) inside the trie, and the child nodes, both [P, W] (see `children`).

        Mask first, then temperature and log-softmax, in float32: log p = log_softmax(z[live children] / t).
        `logits` [P, sizes[depth]] are over the codes of the level. `rows` [P] says which request of
        `exclusions` each node belongs to. −inf at padding and at dead children; a node without a live child
        is a row of −inf. Differentiable in `logits`. Raises `ValueError` unless `temperature` > 0.
        """
        scores, first = self.child_scores(depth, nodes, logits, exclusions, rows)
        # A dead row is computed on zeros and masked after: a softmax over −inf alone is NaN both ways.
        hopeless = None if exclusions is None else torch.isneginf(scores.detach().amax(1, keepdim=True))
        if hopeless is not None and self.device.type == "cpu" and not hopeless.any():
            hopeless = None  # a device is not waited for: masking nothing is sooner done there
        scores = tempered(scores if hopeless is None else scores.masked_fill(hopeless, 0.0), temperature)
        log_probs = scores.log_softmax(dim=1)
        if hopeless is not None:
            log_probs = log_probs.masked_fill(hopeless, -torch.inf)
        count = self.child_start[depth][nodes + 1] - first
        return log_probs, _child_numbers(first, count, scores.shape[1])

    def _dense(self, depth: int) -> Dense | None:
        n_nodes, size = self.n_nodes[depth], self.sizes[depth]
        # narrower than half, the children are gathered sooner than a whole row is read
        if self.complete[depth] or n_nodes * size > DENSE_CELLS or 2 * self.max_children[depth] < size:
            return None
        return Dense.of(self.parent[depth], self.code[depth], n_nodes, size)

    def _span(self, depth: int, nodes: Tensor) -> tuple[Tensor, Tensor, int]:
        """First child and number of children of each node, and the width W of a table of them."""
        first = self.child_start[depth][nodes]
        count = self.child_start[depth][nodes + 1] - first
        if self.complete[depth] or self.device.type != "cpu" or not len(nodes):
            return first, count, self.max_children[depth]  # known without waiting for the device
        return first, count, int(count.max())


def tempered(scores: Tensor, temperature: float) -> Tensor:
    """`scores` / temperature up to a constant a row, the largest of which becomes 0,
    so that it cannot overflow.
    """
    if not temperature > 0 or math.isinf(temperature):
        raise ValueError(f"temperature must be a finite number above 0, got {temperature}")
    if temperature == 1:
        return scores
    return (scores - scores.detach().amax(dim=1, keepdim=True)) / temperature


def _child_numbers(first: Tensor, count: Tensor, width: int) -> Tensor:
    """`first + min(j, count - 1)` for j < width: int64 [P, width]."""
    ramp = torch.arange(1 - width, width + 1, device=first.device).clamp(max=0)
    return rows_of(ramp, width - count, width) + (first + count - 1)[:, None]


def _checked(codes: Tensor | np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    rows = codes.cpu().numpy() if isinstance(codes, Tensor) else np.asarray(codes)
    if rows.ndim != 2 or not rows.size or rows.shape[1] != len(sizes):
        raise ValueError(f"codes must be [items ≥ 1, {len(sizes)} levels], got shape {rows.shape}")
    if not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"codes must be integers, got {rows.dtype}")
    if (rows.min(0) < 0).any() or (rows.max(0) >= np.asarray(sizes)).any():
        wrong = np.flatnonzero(((rows < 0) | (rows >= np.asarray(sizes))).any(axis=1))
        raise ValueError(
            f"codes of item {wrong[0]} are {rows[wrong[0]].tolist()}, outside sizes {tuple(sizes)} "
            f"({len(wrong)} such items)"
        )
    return rows


def _lexicographic_order(rows: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """The items [N] by their codes, and by their number where codes are shared."""
    if math.prod(sizes) >= 2**62:  # too wide for one integer key
        return np.lexsort(rows.T[::-1])
    key = np.zeros(len(rows), dtype=np.int64)
    for level, size in enumerate(sizes):
        key *= size
        key += rows[:, level].astype(np.int64, copy=False)
    bits = len(rows).bit_length()
    if math.prod(sizes) << bits >= 2**63:
        return np.argsort(key, kind="stable")
    # the item rides in the low bits: sorting values is four times as fast as sorting indices by them
    key <<= bits
    key |= np.arange(len(rows))
    key.sort()
    key &= (1 << bits) - 1
    return key


def _refuse_shared(rows: np.ndarray, order: np.ndarray, new: np.ndarray) -> None:
    if new.all():
        return
    second = int(np.flatnonzero(~new)[0])
    items, shared = sorted(order[second - 1 : second + 1].tolist()), rows[order[second]].tolist()
    raise ValueError(
        f"items {items[0]} and {items[1]} share the codes {shared} ({int((~new).sum())} items have codes "
        "that another has); make them unique first (semantic_ids.table.make_unique)"
    )

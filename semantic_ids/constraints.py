"""Which items each request may get, inside the trie.

One definition, for sampler and scorer alike: an item is available to a request iff it is in the request's
allow-list (or there is none) and not excluded; a node is live iff an available item is under it. `mask` makes
probabilities those of the trie of live nodes, node by node; `llm.decoding.left` those of the distribution as a whole.

Nothing of the catalogue's size is made. An allow-list is the sorted nodes of each depth that have a listed
item under them; exclusions are the sorted (request, node) pairs of each depth that are dead because of them,
found from the leaves up. Children of a node are consecutive, so those that are in such a list are one range
of it: two binary searches a node, however many children it has. Cost and memory grow with what is listed and
excluded, and with the logarithm of it, never with the catalogue.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from semantic_ids.trie import Trie
from semantic_ids.trie_arrays import IntArray

KEPT_FROM = 1000  # items of an allow-list that is worth keeping: to sort a shorter one costs nothing
MOST_KEPT = 16  # the newest of them


class AllowList:
    """The only items that some requests may get, sorted once and shared by any number of them.

    `items`: any order, duplicates allowed, may be empty. Raises as `Constraints`.
    `live[d]` are the nodes of depth d with a listed item under them, sorted.
    """

    def __init__(self, trie: Trie, items: np.ndarray, name: str = "the allow-list"):
        items = _whole_numbers(items, name)
        _refuse_unknown(items, trie.n_items, lambda _: f"{name} holds")
        self.trie = trie
        own = items if items.flags.writeable else items.copy()  # a tensor wants memory that can be written to
        nodes = torch.unique(trie.item_leaf[torch.from_numpy(own).to(trie.device)])
        self.live = [nodes]
        for depth in range(trie.n_levels - 1, -1, -1):
            nodes = torch.unique_consecutive(trie.parent[depth][nodes])
            self.live.insert(0, nodes)


class Constraints:
    """What each of R requests may get: an array of items that are `excluded`, and an allow-list or None
    (all items).

    Arrays may be in any order, hold duplicates, and be empty. One array given to several requests (the same
    object) is stored once; an `AllowList`, and a long array that cannot be written to, is also sorted once for all calls. Without `allowed` nobody has an
    allow-list. Raises `ValueError` naming the request and the item for an item that the trie does not hold.

    Keys number pairs: request · (nodes of the depth) + node in `dead`, list · (nodes of the depth) + node in
    `live`.
    """

    def __init__(
        self,
        trie: Trie,
        excluded: Sequence[np.ndarray],
        allowed: Sequence[np.ndarray | AllowList | None] | None = None,
    ):
        self.trie, self.n_rows = trie, len(excluded)
        lists, of_row = _distinct_lists(trie, allowed, self.n_rows)
        self.list_of: Tensor | None = of_row if lists else None  # [R] number of a request's list, −1: none
        self.live: list[Tensor] = [  # a single list is not copied
            torch.cat([some.live[depth] + i * n for i, some in enumerate(lists)])
            if len(lists) > 1
            else lists[0].live[depth]
            for depth, n in enumerate(trie.n_nodes if lists else ())
        ]
        nothing = torch.zeros(0, dtype=torch.int64, device=trie.device)
        self.dead = self._dead([nothing] * (trie.n_levels + 1), *_flat(trie, excluded))

    def without(self, rows: Tensor, items: Tensor) -> Constraints:
        """These constraints, with `items` [K] excluded from the requests `rows` [K] besides;
        lists are shared.

        Only what is above these items is looked at.
        """
        more = copy.copy(self)
        more.dead = self._dead(self.dead, rows, self.trie.item_leaf[items])
        return more

    def allowed(self, depth: int, nodes: Tensor, rows: Tensor) -> Tensor:
        """Bool, the shape of `nodes`: has the node of `depth` a leaf that its request in `rows` may get?"""
        n = self.trie.n_nodes[depth]
        live = ~contains(self.dead[depth], rows * n + nodes)
        if self.list_of is None:
            return live
        which = self.list_of[rows]
        return live & ((which < 0) | contains(self.live[depth], which * n + nodes))

    def excludes_everything(self) -> Tensor:
        """Bool [R]: requests that have no item left."""
        rows = torch.arange(self.n_rows, device=self.trie.device)
        return ~self.allowed(0, torch.zeros_like(rows), rows)

    def mask(
        self, scores: Tensor, depth: int, first: Tensor, count: Tensor, rows: Tensor, by_code: bool = False
    ) -> Tensor:
        """`scores` [P, W] of the children `first .. first + count − 1` [P] of nodes of `depth`,
        dead ones at −inf.

        Column j is child `first + j`, or the child with code j.
        """
        n, width = self.trie.n_nodes[depth + 1], scores.shape[1]
        code = self.trie.code[depth] if by_code else None
        if self.list_of is not None:
            which = self.list_of[rows]
            # list −1 has no keys: its range lies below all of them
            live, _ = cells(self.live[depth + 1], which * n, first, count, width, code)
            bias = scores.new_zeros(scores.shape).masked_fill_(which[:, None] >= 0, -torch.inf)
            bias.view(-1).index_fill_(0, live, 0.0)
            scores = scores + bias
        dead, _ = cells(self.dead[depth + 1], rows * n, first, count, width, code)
        if len(dead):
            scores = scores.reshape(-1).index_fill(0, dead, -torch.inf).view(scores.shape)
        return scores

    def _dead(self, before: list[Tensor], rows: Tensor, leaves: Tensor) -> list[Tensor]:
        """Sorted keys, per depth, of the nodes that have listed leaves and whose listed leaves are all
        excluded.

        `before` are those without the excluded `leaves` [K] of `rows` [K].
        """
        trie = self.trie
        keys = torch.unique(rows * trie.n_items + leaves)
        keys = keys[~contains(before[-1], keys)]
        rows, nodes = keys // trie.n_items, keys % trie.n_items
        if self.list_of is not None:
            which = self.list_of[rows]
            listed = (which < 0) | contains(self.live[-1], which * trie.n_items + nodes)
            keys, rows, nodes = keys[listed], rows[listed], nodes[listed]
        dead = [_merged(before[-1], keys)]
        for depth in range(trie.n_levels - 1, -1, -1):
            if len(keys):
                parents = trie.parent[depth][nodes]
                keys, gone = torch.unique_consecutive(
                    rows * trie.n_nodes[depth] + parents, return_counts=True
                )
                rows, nodes = keys // trie.n_nodes[depth], keys % trie.n_nodes[depth]
                if len(before[depth + 1]):
                    gone += self._n_dead_children(before[depth + 1], depth, nodes, rows)
                emptied = (gone == self._n_live_children(depth, nodes, rows)).nonzero()[:, 0]
                keys, rows, nodes = (array.index_select(0, emptied) for array in (keys, rows, nodes))
            dead.insert(0, _merged(before[depth], keys))
        return dead

    def _n_dead_children(self, dead: Tensor, depth: int, nodes: Tensor, rows: Tensor) -> Tensor:
        """Children [K] of `nodes` [K] of `depth` whose keys are in `dead`."""
        first, end = self.trie.child_start[depth][nodes], self.trie.child_start[depth][nodes + 1]
        base = rows * self.trie.n_nodes[depth + 1]
        return torch.searchsorted(dead, base + end) - torch.searchsorted(dead, base + first)

    def _n_live_children(self, depth: int, nodes: Tensor, rows: Tensor) -> Tensor:
        """Children [K] of `nodes` [K] of `depth` that hold a listed item;
        all of them where there is no list.
        """
        first, end = self.trie.child_start[depth][nodes], self.trie.child_start[depth][nodes + 1]
        if self.list_of is None:
            return end - first
        which = self.list_of[rows]
        base, live = which * self.trie.n_nodes[depth + 1], self.live[depth + 1]
        listed = torch.searchsorted(live, base + end) - torch.searchsorted(live, base + first)
        return torch.where(which < 0, end - first, listed)


def contains(keys: Tensor, values: Tensor) -> Tensor:
    """Bool, the shape of `values`: is the value in the sorted `keys`?"""
    if not len(keys):
        return torch.zeros_like(values, dtype=torch.bool)
    at = torch.searchsorted(keys, values).clamp(max=len(keys) - 1)
    return keys[at] == values


def _merged(keys: Tensor, more: Tensor) -> Tensor:
    """Two sorted tensors of keys without a common one as one."""
    if not len(keys) or not len(more):
        return more if len(more) else keys
    at = torch.searchsorted(keys, more) + torch.arange(len(more), device=keys.device)
    merged = keys.new_empty(len(keys) + len(more))
    old = torch.ones(len(merged), dtype=torch.bool, device=keys.device)
    old[at] = False
    merged[at], merged[old] = more, keys
    return merged


def cells(
    keys: Tensor, base: Tensor, first: Tensor, count: Tensor, width: int, code: IntArray | None
) -> tuple[Tensor, Tensor]:
    """p · width + column for every p and every child in `first[p] .. first[p] + count[p] − 1` with base[p] +
    child in the sorted `keys`, and which of these it is. Its column is its place among the children, or its `code`.
    """
    if not len(keys):
        return first.new_zeros(0), first.new_zeros(0)
    low = base + first
    begin = torch.searchsorted(keys, low)
    found = torch.searchsorted(keys, low + count) - begin
    total = int(found.sum())

    def of_cells(values: Tensor) -> Tensor:
        # told, it does not wait for the device again
        return values.repeat_interleave(found, output_size=total)

    which = torch.arange(total, device=keys.device) + of_cells(begin + found - found.cumsum(0))
    key = keys.index_select(0, which)
    start = torch.arange(len(low), device=keys.device) * width
    if code is None:
        return key + of_cells(start - low), which
    return code[key - of_cells(base)] + of_cells(start), which


def _distinct_lists(
    trie: Trie, allowed: Sequence[np.ndarray | AllowList | None] | None, n_rows: int
) -> tuple[list[AllowList], Tensor]:
    """The distinct allow-lists, by identity, and which of them each request has [R] (−1: none)."""
    if allowed is None:
        return [], torch.full((n_rows,), -1, device=trie.device)
    if len(allowed) != n_rows:
        raise ValueError(f"{n_rows} requests have exclusions but {len(allowed)} have an allow-list or None")
    allowed = list(allowed)  # held here, so that no two of them can have one identity
    lists: list[AllowList] = []
    number: dict[int, int] = {}
    for row, some in enumerate(allowed):
        if some is None or id(some) in number:
            continue
        if not isinstance(some, AllowList):
            made = _looked_at(trie, some, f"the allow-list of request {row}")
        elif some.trie.item_leaf.stored is not trie.item_leaf.stored:
            raise ValueError(
                f"the allow-list of request {row} was made for another trie, or on another device"
            )
        else:
            made = some
        number[id(some)] = len(lists)
        lists.append(made)
    of_row = [-1 if some is None else number[id(some)] for some in allowed]
    return lists, torch.tensor(of_row, dtype=torch.int64, device=trie.device)


def _looked_at(trie: Trie, items: np.ndarray, name: str) -> AllowList:
    """The list of an array; of a long one that nobody may write to, the list of the call before, as long as that array lives."""
    if not isinstance(items, np.ndarray) or items.flags.writeable or len(items) < KEPT_FROM:
        return AllowList(trie, items, name)
    kept = trie.lists.get(id(items))
    if kept is None or kept[0]() is not items:
        kept = weakref.ref(items), AllowList(trie, items, name)
        alive = [(at, one) for at, one in trie.lists.items() if one[0]() is not None and at != id(items)]
        trie.lists = dict([*alive[-MOST_KEPT + 1 :], (id(items), kept)])
    return kept[1]


def _flat(trie: Trie, excluded: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Request and leaf of each excluded item."""
    arrays = [_whole_numbers(items, f"what request {row} excludes") for row, items in enumerate(excluded)]
    rows = np.repeat(np.arange(len(arrays)), [len(items) for items in arrays])
    items = np.concatenate(arrays) if arrays else rows
    _refuse_unknown(items, trie.n_items, lambda at: f"request {rows[at]} excludes")
    leaves = trie.item_leaf[torch.from_numpy(items).to(trie.device)]
    return torch.from_numpy(rows).to(trie.device), leaves


def _whole_numbers(items: np.ndarray, what: str) -> np.ndarray:
    array = np.asarray(items).reshape(-1)
    if len(array) and array.dtype.kind not in "iu":
        raise ValueError(f"{what} must be item numbers, got an array of {array.dtype}")
    return array.astype(np.int64, copy=False)


def _refuse_unknown(items: np.ndarray, n_items: int, who) -> None:
    if len(items) and (items.min() < 0 or items.max() >= n_items):
        at = int(np.flatnonzero((items < 0) | (items >= n_items))[0])
        raise ValueError(
            f"{who(at)} item {items[at]}, which is not in the trie: it holds items 0..{n_items - 1}"
        )

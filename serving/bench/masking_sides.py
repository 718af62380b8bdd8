"""The three sides of `serving.bench.masking`, and what they are given."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.seeds import rng, torch_generator
from semantic_ids.constraints import Constraints
from semantic_ids.drawing import draw_children
from semantic_ids.trie import Trie

REQUESTS, DRAWS, LEVELS, SIZE = 64, 30, 4, 256
EXCLUDED = 100  # items a request
SEED = 0


@dataclass(frozen=True)
class Work:
    """What all sides are given: `logits[l]` [R · n, 256], of which the p-th
    distinct node of a level takes row p.
    """

    excluded: list[np.ndarray]  # [R] arrays of items
    logits: list[Tensor]
    uniform: Tensor  # [R · n, L] float64


def random_codes(n_items: int) -> np.ndarray:
    """[N, 4] distinct random codes of 256: the finaliser of MurmurHash3,
    a bijection of 32 bits, of 0..N − 1.
    """
    key = np.arange(n_items, dtype=np.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        key ^= key >> np.uint32(shift)
        key *= np.uint32(factor)
    return key.view(np.uint8).reshape(n_items, 4).astype(np.int64)


def work_of(n_items: int) -> Work:
    generator = torch_generator(SEED, "mask and draw")
    return Work(
        [rng(SEED, "excluded", n_items, row).integers(0, n_items, EXCLUDED) for row in range(REQUESTS)],
        [torch.randn(REQUESTS * DRAWS, SIZE, generator=generator) for _ in range(LEVELS)],
        torch.rand(REQUESTS * DRAWS, LEVELS, generator=generator, dtype=torch.float64),
    )


@contextmanager
def dict_trie(codes: np.ndarray) -> Iterator[tuple[dict, float]]:
    """Nested dicts down to the item, and the seconds it took;
    set aside from the garbage collector's rounds.
    """
    start = time.perf_counter()
    gc.disable()
    root: dict = {}
    for at in range(0, len(codes), 100_000):
        for item, (*inner, last) in enumerate(codes[at : at + 100_000].tolist(), at):
            node = root
            for code in inner:
                found = node.get(code)
                if found is None:
                    found = node[code] = {}
                node = found
            node[last] = item
    gc.freeze()
    gc.enable()
    try:
        yield root, time.perf_counter() - start
    finally:
        root.clear()
        gc.unfreeze()


def ours(trie: Trie, work: Work) -> np.ndarray:
    """Items [R · n]."""
    constraints = Constraints(trie, work.excluded)
    row = torch.arange(REQUESTS)
    rows = member = row.repeat_interleave(DRAWS)
    node = torch.zeros_like(row)
    for level in range(LEVELS):
        logits = work.logits[level][: len(node)]
        child, _ = draw_children(
            trie, level, node, logits, member, work.uniform[:, level], 1.0, constraints, row
        )
        n = trie.n_nodes[level + 1]
        key, member = torch.unique(rows * n + child, return_inverse=True)
        row, node = key // n, key % n
    return trie.leaf_item[node[member]].numpy()


def by_dict(root: dict, codes: np.ndarray, work: Work) -> np.ndarray:
    dead = [_dead_prefixes(root, codes[items].tolist()) for items in work.excluded]

    def fill(mask: np.ndarray, level: int, nodes: list[tuple[int, tuple[int, ...]]]) -> None:
        for p, (row, prefix) in enumerate(nodes):
            children = root
            for code in prefix:
                children = children[code]
            gone = dead[row].get(prefix)
            mask[p, [code for code in children if code not in gone] if gone else list(children)] = 0.0

    prefixes = _walk(work, fill)
    items = []
    for prefix in prefixes:
        found: Any = root
        for code in prefix:
            found = found[code]
        items.append(found)
    return np.array(items)


def by_compare(columns: list[np.ndarray], order: np.ndarray, work: Work) -> np.ndarray:
    """`columns[l]` [N] are the codes of level l, as bytes; `order` [N] are the items by their `keys_of`."""
    available = np.ones((REQUESTS, len(columns[0])), dtype=bool)
    for row, items in enumerate(work.excluded):
        available[row, items] = False

    def fill(mask: np.ndarray, level: int, nodes: list[tuple[int, tuple[int, ...]]]) -> None:
        for p, (row, prefix) in enumerate(nodes):
            match = available[row]
            for column, code in zip(columns, prefix, strict=False):
                match = match & (column == code)
            mask[p, columns[level][match]] = 0.0

    drawn = np.array(_walk(work, fill), dtype=np.uint8)
    return order[np.searchsorted(keys_of(columns), keys_of(list(drawn.T)), sorter=order)]


def keys_of(columns: list[np.ndarray]) -> np.ndarray:
    """Four bytes an item as one uint32 [N]."""
    return np.stack(columns, axis=1).view(np.uint32)[:, 0]


def _walk(work: Work, fill: Callable) -> list[tuple[int, ...]]:
    """The codes of each draw [R · n], where `fill(mask, level, nodes)`
    sets the mask of allowed codes to 0.
    """
    nodes: list[tuple[int, tuple[int, ...]]] = [(row, ()) for row in range(REQUESTS)]
    member = torch.arange(REQUESTS).repeat_interleave(DRAWS)
    for level in range(LEVELS):
        mask = np.full((len(nodes), SIZE), -np.inf, dtype=np.float32)
        fill(mask, level, nodes)
        scores = work.logits[level][: len(nodes)] + torch.from_numpy(mask)
        cdf = scores.softmax(1).double().cumsum(1)
        code = torch.searchsorted(
            cdf[member], work.uniform[:, level : level + 1] * cdf[member, -1:], right=True
        )
        key, member = torch.unique(member * SIZE + code[:, 0], return_inverse=True)
        nodes = [
            (nodes[parent][0], (*nodes[parent][1], number))
            for parent, number in zip((key // SIZE).tolist(), (key % SIZE).tolist(), strict=True)
        ]
    return [nodes[p][1] for p in member.tolist()]


def _dead_prefixes(root: dict, excluded: list[list[int]]) -> dict[tuple[int, ...], set[int]]:
    """Of each prefix, the codes that lead to excluded items alone."""
    dead: dict[tuple[int, ...], set[int]] = {}
    gone = {tuple(codes) for codes in excluded}
    for length in range(LEVELS - 1, -1, -1):
        for prefix in gone:
            dead.setdefault(prefix[:length], set()).add(prefix[length])
        counts = Counter(prefix[:length] for prefix in gone)
        gone = {prefix for prefix, count in counts.items() if count == len(_children(root, prefix))}
    return dead


def _children(root: dict, prefix: tuple[int, ...]) -> dict:
    for code in prefix:
        root = root[code]
    return root

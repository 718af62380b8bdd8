"""The arrays that a trie is made of: integers that take the bytes they need, dense tables of children."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Mask(Protocol):
    """What takes children away from requests; see `semantic_ids.constraints.Constraints.mask`, which does."""

    def mask(
        self, scores: Tensor, depth: int, first: Tensor, count: Tensor, rows: Tensor, by_code: bool = False
    ) -> Tensor: ...


_WIDTHS = (torch.int16, torch.int32, torch.int64)


class IntArray:
    """Non-negative integers [n] held in the narrowest of int16, int32 and int64; indexing answers int64.

    `padding` is how far past its end `windows` may read (zeros).
    """

    def __init__(self, values: np.ndarray, padding: int = 0):
        largest = int(values.max(initial=0))
        dtype = next(dtype for dtype in _WIDTHS if largest <= torch.iinfo(dtype).max)
        self.stored = torch.zeros(len(values) + padding, dtype=dtype)
        self.stored[: len(values)] = torch.from_numpy(values.astype(np.int64, copy=False))
        self.n, self.padding = len(values), padding

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: Tensor | int | slice) -> Tensor:
        if isinstance(index, Tensor) and index.ndim == 1 and index.dtype == torch.int64:
            return self.stored.index_select(0, index).long()  # the same, at less than half the cost of a call
        return self.stored[: self.n][index].long()

    @property
    def n_bytes(self) -> int:
        return self.stored.numel() * self.stored.element_size()

    def to(self, device: torch.device | str) -> IntArray:
        moved = copy.copy(self)
        moved.stored = self.stored.to(device)
        return moved

    def windows(self, first: Tensor, width: int) -> Tensor:
        """The `width` consecutive entries from each of `first` [P]: int64 [P, width]; width ≤ `padding`."""
        assert width <= self.padding
        return rows_of(self.stored, first, width).long()


@dataclass(frozen=True)
class Dense:
    """The children of a depth's nodes by code:
    `absent` [n, size] float32 is 0 where there is one and −inf elsewhere.

    `child` [n · size]: its number (0 where there is none).
    """

    absent: Tensor
    child: IntArray

    @classmethod
    def of(cls, parent: IntArray, code: IntArray, n_nodes: int, size: int) -> Dense:
        cell = parent[:] * size + code[:]
        absent, child = (
            torch.full((n_nodes * size,), -torch.inf),
            torch.zeros(n_nodes * size, dtype=torch.int64),
        )
        absent[cell], child[cell] = 0.0, torch.arange(len(cell))
        return cls(absent.view(n_nodes, size), IntArray(child.numpy()))

    @property
    def n_bytes(self) -> int:
        return self.absent.nbytes + self.child.n_bytes

    def to(self, device: torch.device | str) -> Dense:
        return Dense(self.absent.to(device), self.child.to(device))


def rows_of(values: Tensor, first: Tensor, width: int) -> Tensor:
    """`values[first[p] + j]` for j < width, as [P, width]:
    a copy of whole rows, ten times an index's speed.
    """
    overlapping = values.as_strided((len(values) - width + 1, width), (1, 1))
    return overlapping.index_select(0, first)

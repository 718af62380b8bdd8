"""Integer arrays that take the bytes they need and are read as int64."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

_WIDTHS = (torch.int16, torch.int32, torch.int64)


class IntArray:
    """Non-negative integers [n] held in the narrowest of int16, int32 and int64; indexing answers int64.

    `padding` is how far past its end `windows` may read (zeros).
    """

    def __init__(self, values: np.ndarray, padding: int = 0):
        largest = int(values.max(initial=0))
        dtype = next(dtype for dtype in _WIDTHS if largest <= torch.iinfo(dtype).max)
        self.stored = torch.zeros(len(values) + padding, dtype=dtype)
        self.stored[: len(values)] = torch.from_numpy(values)
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


def rows_of(values: Tensor, first: Tensor, width: int) -> Tensor:
    """`values[first[p] + j]` for j < width, as [P, width]: a copy of whole rows, ten times an index's speed."""
    overlapping = values.as_strided((len(values) - width + 1, width), (1, 1))
    return overlapping.index_select(0, first)

"""The rows of an epoch: a permutation, or, of rows that have weights, a draw in proportion to them."""

from __future__ import annotations

import numpy as np
import torch

from recsys.seeds import Key, rng, torch_generator


def rows_of_epoch(n: int, weights: np.ndarray | None, seed: int, *keys: Key) -> np.ndarray:
    """n rows below n, shuffled: each once, or each of `weights` [n] as often as it weighs; drawn by (seed, *keys)."""
    if weights is None:
        return torch.randperm(n, generator=torch_generator(seed, *keys)).numpy()
    assert len(weights) == n
    return in_proportion(weights, rng(seed, *keys, "in proportion"))


def in_proportion(weights: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """As many rows as there are `weights` [n] (all above 0), shuffled; row i comes n · w_i / Σw times on average.

    Systematic sampling in an order that is drawn too: row i comes ⌊n · w_i / Σw⌋ or ⌈n · w_i / Σw⌉ times, never farther from its
    share, and neighbours in the table have nothing in common. Equal weights give a permutation.
    """
    n, order = len(weights), generator.permutation(len(weights))
    if not n:
        return order
    ends = np.cumsum(weights[order], dtype=np.float64)
    ticks = (np.arange(n) + generator.random()) * (ends[-1] / n)
    drawn = order[
        np.minimum(np.searchsorted(ends, ticks, side="right"), n - 1)
    ]  # a last tick may round to the end
    return generator.permutation(drawn)

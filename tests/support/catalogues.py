"""Generated catalogues of codes, and the slow references over them: plain dicts, sets and brute force."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

SIZES = (4, 5, 4)


def unique_codes(n: int, sizes=SIZES, seed: int = 0) -> np.ndarray:
    """[n, L] distinct code rows, some subtrees with one leaf and some with many."""
    chosen = np.random.default_rng(seed).choice(np.prod(sizes), n, replace=False)
    return np.stack(np.unravel_index(chosen, sizes), axis=1)


@st.composite
def catalogues(draw):
    sizes = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    codes = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    items = draw(st.lists(codes, min_size=1, max_size=25, unique=True))
    return np.array(items, dtype=np.int64).reshape(len(items), len(sizes)), sizes


def slow_log_probs(codes, prefix, logits, temperature, allowed_items) -> dict[int, float]:
    """log-softmax over the codes that lead from `prefix` to an allowed item, with plain Python."""
    depth = len(prefix)
    live = {int(codes[i, depth]) for i in allowed_items if tuple(codes[i, :depth]) == tuple(prefix)}
    weights = {code: math.exp(float(logits[code]) / temperature) for code in live}
    return {code: math.log(weight / sum(weights.values())) for code, weight in weights.items()}


@st.composite
def limits(draw, n_items: int):
    """Exclusions and allow-lists (or None) of 1 to 5 requests, some of which share one array."""
    items = st.lists(st.integers(0, n_items - 1), max_size=30).map(
        lambda some: np.array(some, dtype=np.int64)
    )
    n_rows = draw(st.integers(1, 5))
    pool = [None, *draw(st.lists(items, max_size=3))]
    excluded = draw(st.lists(items, min_size=n_rows, max_size=n_rows))
    return excluded, [pool[draw(st.integers(0, len(pool) - 1))] for _ in range(n_rows)]

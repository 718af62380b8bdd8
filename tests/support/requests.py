"""Requests over a small catalogue."""

from __future__ import annotations

import numpy as np

from recsys.recommender import Request


def make_requests(n: int, n_items: int = 30, seed: int = 1, exclude: int = 6) -> list[Request]:
    generator = np.random.default_rng(seed)
    return [
        Request(
            request_id=f"r{index}",
            user=index,
            time=100 + index,
            history=generator.integers(0, n_items, index % 5),
            history_times=np.arange(index % 5),
            exclude=generator.choice(n_items, exclude, replace=False),
        )
        for index in range(n)
    ]

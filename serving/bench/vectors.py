"""User vectors for a whole test set: one pass over all histories against a loop over users."""

from __future__ import annotations

import time
from statistics import median

import numpy as np

from recsys.embeddings.user_vectors import HistoryVectors
from recsys.seeds import rng
from serving.bench.case import Result, in_turn, timed

ITEMS, DIM, HALF_LIFE = 12_101, 120, 50.0
LONGEST = 400


def user_vectors(quick: bool) -> list[Result]:
    """20,000 requests (quick: 5,000) with 1 to 400 past items, half of them below 45;
    a half-life of 50 items.
    """
    requests = 5_000 if quick else 20_000
    draw = rng(0, "bench vectors")
    lengths = np.exp(draw.uniform(np.log(5), np.log(LONGEST), requests)).astype(np.int64)
    histories = [draw.integers(0, ITEMS, length) for length in lengths]
    messages = draw.normal(size=(ITEMS, DIM)).astype(np.float32)
    ours = HistoryVectors(messages, HALF_LIFE, "bench")
    found: dict[str, np.ndarray] = {}

    def at_once() -> None:
        found["ours"] = ours.of_histories(histories)[0]

    def loop() -> None:
        rows = np.zeros((requests, DIM), np.float32)
        for row, history in enumerate(histories):
            weights = 0.5 ** (np.arange(len(history) - 1, -1, -1) / HALF_LIFE)
            vector = (weights / np.linalg.norm(weights)).astype(np.float32) @ messages[history]
            rows[row] = vector / np.linalg.norm(vector)
        found["loop"] = rows

    timing = in_turn(at_once, loop, 5 if quick else 9)
    np.testing.assert_allclose(found["ours"], found["loop"], atol=1e-5)
    read = 4 * DIM * int(lengths.sum())
    rate, best = read / median(timing.ours), _copy_rate()
    return [
        timed(
            f"user vectors as of a moment, {requests:,} requests, {int(lengths.sum()):,} past items",
            "a NumPy loop over requests",
            timing,
            None,
            f"reading item rows: {rate / 1e9:.1f} GB/s, where a plain copy here reads {best / 1e9:.1f}",
            requests_a_second=requests / median(timing.ours),
        )
    ]


def _copy_rate() -> float:
    """Bytes/s read by a copy of 256 MiB."""
    source = np.ones(64 << 20, np.float32)
    target = np.empty_like(source)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - start)
    return source.nbytes / min(seconds)

"""Threads that share a `Recommender` get what one thread gets."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import serving

THREADS, EACH = 8, 9
KINDS = ({}, {"temperature": 1.0}, {"sequence": True, "temperature": 1.0}, {"query": "odd"}, {"method": "tap_per"})  # fmt: skip


def test_eight_threads_get_the_answers_of_one(small_run):
    """Different users and kinds of requests at once: kept prompts of one must not be read by another."""
    asked = [[(f"u{(7 * thread + at) % 40}", KINDS[(thread + at) % len(KINDS)]) for at in range(EACH)] for thread in range(THREADS)]  # fmt: skip
    alone = serving.Recommender.load(small_run[1].path)
    expected = [[alone.recommend(user, n=8, **options) for user, options in some] for some in asked]
    shared, together = serving.Recommender.load(small_run[1].path), Barrier(THREADS)

    def ask(some):
        together.wait()
        return [shared.recommend(user, n=8, **options) for user, options in some]

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(ask, asked))
    wrong = [
        (thread, at)
        for thread in range(THREADS)
        for at in range(EACH)
        if [i.item_id for i in found[thread][at]] != [i.item_id for i in expected[thread][at]]
    ]
    assert wrong == []

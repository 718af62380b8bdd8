"""Instances with a query: (user, what they ask for) → the next item, which fits it.

Data that has no queries of its own is asked in the words of the target: one of the phrases by which people call that item
(`recsys.data.phrases`). A text that training may read, or one that it may not (held out): figures are told apart by that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from recsys.data.phrases import Phrases
from recsys.recommender import Request
from recsys.seeds import rng


def asked_about(
    phrases: Phrases, events: np.ndarray, seed: int, held_out: bool = False
) -> tuple[list[Request], np.ndarray]:
    """Requests of `events` with a query about their targets, and the targets [Q]; events whose target has no such words are left out."""
    data = phrases.dataset
    found: list[tuple[int, str]] = []
    for event in events.tolist():
        # by user and moment: an event's number counts other users' test events
        moment = int(data.users[event]), int(data.times[event])
        item, generator = int(data.items[event]), rng(seed, "query", *moment)
        text = _held_out(phrases, item, generator) if held_out else phrases.query(item, generator)
        if text:
            found.append((event, text))
    kept = np.array([event for event, _ in found], np.int64)
    requests = data.block(kept, data.exclude_seen) if len(kept) else []
    asked = [replace(one, query=text) for one, (_, text) in zip(requests, found, strict=True)]
    return asked, data.items[kept]


def as_nobody(requests: Sequence[Request]) -> list[Request]:
    """The same asked by somebody of whom nothing is known."""
    none = np.zeros(0, np.int64)
    return [replace(one, user=None, history=none, history_times=none, exclude=none) for one in requests]


def _held_out(phrases: Phrases, item: int, generator: np.random.Generator) -> str | None:
    """One of the item's phrases, or two, that are kept from training; None if it has none."""
    own = phrases.of_anyone(item)
    texts = [text for text in own if phrases.is_held_out(text)]
    texts += [text for pair in combinations(own, 2) if phrases.is_held_out(text := " ".join(pair).lower())]
    return str(generator.choice(texts)).lower() if texts else None

"""Lists made one item at a time: in sequence, each after those before it, or from one prompt within caps.

*In sequence.* A chosen item is read behind the prompt as if it stood in the history, and is not available
from then on:

    log p(list) = Σ_k log p(item_k | prompt, item_1 … item_{k−1}),     p over what is available without those

A prompt is read once; an item costs the nodes met on the way to it and the rest of its codes (`PromptSession.extend`). What a
method knows of the user besides (a vector, records, a generated LoRA) stays as of the request. The model has seen as many items
in a row as `adapt.window_items`; a longer list goes on where training ended. Here alone exclusions are inside the trie, node by node:
that is the list's probability that KTO trains (`SidModel.list_log_probs`), and every item of it is after another prompt, so that there
is no order of others to keep; what goes to the siblings of a chosen item is measured in LOG.md.

*From one prompt* (`recsys.data.caps`): what `draws.search` finds, walked down, passing over what is not available or does not fit.
So drawing is drawing without replacement with rejection, exactly; caps that never bind change nothing, and leaving out the first
items of a list leaves the order of the others. It isn't what excluding nodes would give: a node's exclusion hands its probability
to its siblings alone, and a rejected draw's goes to all items. To look for the rest of a list, the search is narrowed down to what
still fits (`among`) while probabilities and noise stay those of the whole.

In sequence, what breaks a cap is excluded like any other item: the next item's prompt is another one anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llm.decoding.draws import BEAM, MOST, Best, draw_with, gumbels, score, search, stream, top_k
from llm.decoding.session import PromptSession
from recsys.data.caps import Caps
from recsys.recommender import Request

NARROW = 4  # nodes a level that nearly always find the most likely item, and then prove it


class _Growing:
    """One list in the making."""

    def __init__(self, caps: Caps | None):
        self.items: list[int] = []
        self.scores: list[float] = []
        self._counts = None if caps is None else caps.start()

    def fits(self, item: int) -> bool:
        return self._counts is None or self._counts.fits(item)

    def add(self, item: int, value: float) -> np.ndarray:
        """Add an item. Returns what cannot be added any more [k]: itself, and what would break a cap."""
        self.items.append(item)
        self.scores.append(value)
        own = np.array([item])
        return own if self._counts is None else np.append(own, self._counts.add(item))


def in_sequence(
    session: PromptSession,
    requests: Sequence[Request],
    n: int,
    seed: int = 0,
    temperature: float = 0.0,
    caps: Caps | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """`n` items a request, each after those before it, and their log-probabilities given those
    (at 1 for temperature 0).

    Temperature above 0 draws, with numbers of (request, position); 0 takes the most likely item each time (of
    a beam of `BEAM`, if a narrow one does not prove it). A list is shorter than n where nothing is left that
    is available and fits. The session is left as it was.
    """
    made = [_Growing(caps) for _ in requests]
    try:
        for position in range(n):
            if temperature > 0:
                items, values = _drawn(session, requests, position, seed, temperature)
            else:
                items, values = _most_likely(session)
            if (items < 0).all():
                break
            closed = [
                made[row].add(int(item), float(value)) if item >= 0 else np.zeros(0, np.int64)
                for row, (item, value) in enumerate(zip(items, values, strict=True))
            ]
            if position + 1 < n:
                _go_on(session, items, closed)
    finally:
        session.restart()
    return [(np.array(one.items, np.int64), np.array(one.scores)) for one in made]


def log_prob(
    session: PromptSession, given: Sequence[np.ndarray], temperature: float = 1.0, caps: Caps | None = None
) -> list[np.ndarray]:
    """log p of each item of one list a request, given those before it; its sum is the list's log-probability.

    −inf at an item that is not available there (excluded, listed before, or breaking a cap). Lists may differ
    in length. The session is left as it was. Raises `ValueError` for an item that the trie does not hold.
    """
    longest = max((len(items) for items in given), default=0)
    padded = np.full((len(given), longest), -1, np.int64)
    for row, items in enumerate(given):
        padded[row, : len(items)] = items
    values, made = np.full(padded.shape, -np.inf), [_Growing(caps) for _ in given]
    try:
        for position in range(longest):
            items = padded[:, position]
            there = torch.from_numpy(items >= 0).to(session.model.device)
            session.alive &= there
            values[:, position] = score(session, np.maximum(items, 0), (temperature,), session.constraints)[
                :, 0
            ]
            closed = [
                made[row].add(int(item), 0.0) if item >= 0 else np.zeros(0, np.int64)
                for row, item in enumerate(items)
            ]
            if position + 1 < longest:
                _go_on(session, items, closed)
    finally:
        session.restart()
    return [values[row, : len(items)] for row, items in enumerate(given)]


@dataclass(frozen=True)
class Found:
    """A list; not `finished` where more could be found by a wider search, not `proven` where a wider one might find better
    items than some of it.
    """

    items: np.ndarray
    scores: np.ndarray
    finished: bool = True
    proven: bool = True


def from_one_prompt(
    session: PromptSession,
    requests: Sequence[Request],
    n: int,
    caps: Caps | None = None,
    seed: int = 0,
    temperature: float = 0.0,
    width: int = MOST,
) -> list[Found]:
    """The first `n` items a request that are available and fit, of the draws without replacement
    (temperature 0: of all items, most likely first).

    At most `width` (≥ n) nodes a level are looked at, again and again among what still fits. What is proven to come next is
    taken; a row that can prove nothing is left unfinished, and a wider call gives the same items and more. With `MOST` nodes
    a level what is found is taken without proof, and said. Scores are log-probabilities at `temperature` (at 1 for 0), in the whole
    catalogue.
    """
    noise = gumbels(session, requests, seed) if temperature > 0 else None
    made = [_Growing(caps) for _ in requests]
    unfinished, unproven = [False] * len(requests), [False] * len(requests)
    among, left = session.constraints, session.alive.clone()
    while left.any():
        found = search(session, n, width, temperature or 1.0, noise, among, left)
        closed = [np.zeros(0, np.int64)] * len(requests)
        for row in torch.nonzero(left)[:, 0].tolist():
            best = found[row]
            count = best.proven
            if count < len(best.items) and width >= min(MOST, session.trie.n_items):
                count, unproven[row] = len(best.items), True
            closed[row] = _walk(made[row], best, count, n)
            unfinished[row] = not count
            left[row] = bool(len(made[row].items) < n and count > 0)  # n may be one of NumPy's
        among = among.without(*_pairs(closed, left.device))
        left &= ~among.excludes_everything()
    return [
        Found(np.array(one.items, np.int64), np.array(one.scores), not unfinished[row], not unproven[row])
        for row, one in enumerate(made)
    ]


def _walk(made: _Growing, best: Best, count: int, n: int) -> np.ndarray:
    """Add what fits of the first `count`, best first, up to n items. Returns what cannot be added any more [k]."""
    closed = [np.zeros(0, np.int64)]
    for item, value in zip(best.items[:count].tolist(), best.scores[:count].tolist(), strict=True):
        if len(made.items) < n and made.fits(item):
            closed.append(made.add(item, value))
    return np.concatenate(closed)


def _drawn(
    session: PromptSession, requests: Sequence[Request], position: int, seed: int, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    levels = session.trie.n_levels
    uniforms = [stream(seed, request, f"list {position}").random((1, levels)) for request in requests]
    items, values = draw_with(session, np.stack(uniforms), temperature)
    return items[:, 0], values[:, 0]


def _most_likely(session: PromptSession) -> tuple[np.ndarray, np.ndarray]:
    """The most likely item of each row and its log-probability; −1 where nothing is left."""
    items, values = np.full(session.n_rows, -1, np.int64), np.full(session.n_rows, -np.inf)
    left = session.alive.clone()
    for width in (NARROW, BEAM):
        found = top_k(session, width, wanted=left, within=session.constraints)
        for row in torch.nonzero(left)[:, 0].tolist():
            if found[row].proven or width == BEAM:
                items[row], values[row] = found[row].items[0], found[row].scores[0]
                left[row] = False
    return items, values


def _go_on(session: PromptSession, items: np.ndarray, closed: Sequence[np.ndarray]) -> None:
    """Read the items [R] (−1: none) behind the prompts, and exclude what is `closed` to each row."""
    session.extend(torch.from_numpy(items).to(session.model.device))
    session.constrain(session.constraints.without(*_pairs(closed, session.model.device)))


def _pairs(closed: Sequence[np.ndarray], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [K] and items [K]."""
    rows = np.repeat(np.arange(len(closed)), [len(items) for items in closed])
    items = np.concatenate([np.zeros(0, np.int64), *closed])
    return torch.from_numpy(rows).to(device), torch.from_numpy(items).to(device)

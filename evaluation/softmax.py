"""A distribution over the catalogue from any scorer, so that it compares with a sampler like for like.

A deterministic ranking has no i.i.d. draw. `SoftmaxOver` gives it one: p = softmax(score / T0) over the
allowed items, with T0 chosen on validation. Blocks of requests are computed at once, on a GPU where
there is one; random numbers belong to a request and an item (`recsys.seeds.uniforms_at`), so they do not
depend on what is asked beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from evaluation.metrics import expected_hit, pad_lists
from evaluation.statistics import user_means
from recsys.recommender import Ranked, Request
from recsys.requests import blocks
from recsys.seeds import derive, uniforms_at
from recsys.training.devices import resolve_device

KEPT = 1 << 23  # numbers (64 MiB) up to which log p and noise are kept for who asks the same next
PART = 64  # places of a row whose maximum stands for all of them when its largest are looked for
BLOCK = 512  # requests scored at once, at most: 512 × 12,000 items of float64 are 50 MB
NUMBERS = (
    1 << 25
)  # scores of one scorer that are held at once: 256 MiB of float64. Up to 65,536 items a block is whole


class Scorer(Protocol):
    """Anything that gives every item of the catalogue a score for a request."""

    name: str

    def scores(self, requests: Sequence[Request]) -> np.ndarray:
        """Scores [R, N], higher is better. An excluded item's score is not looked at."""
        ...


def rows_at_once(n_items: int) -> int:
    """How many requests are scored at once; `n_items` 0: not known."""
    return max(1, min(BLOCK, NUMBERS // n_items)) if n_items else BLOCK


class LastScores:
    """A scorer that keeps what it was asked last, as several rows ask the same requests in turn: neither it nor a request
    may change. The scores are shared, so nobody may write into them.
    """

    def __init__(self, scorer: Scorer):
        self.name, self.scorer = scorer.name, scorer
        self._last: tuple[list[Request], np.ndarray] | None = None

    def scores(self, requests: Sequence[Request]) -> np.ndarray:
        last = self._last
        if last is None or not _same(last[0], requests):
            self._last = last = list(requests), self.scorer.scores(requests)
        return last[1]

    def context_tokens(self, requests: Sequence[Request]) -> float:
        return tokens_of(self.scorer, requests)


def tokens_of(scorer: Scorer, requests: Sequence[Request]) -> float:
    """Mean tokens of personal context that a scorer's prompt has; 0 for one that reads no prompt."""
    asked = getattr(scorer, "context_tokens", None)
    return 0.0 if asked is None else float(asked(requests))


class SoftmaxOver:
    """p = softmax(score / (T0 · temperature)) over the allowed items.

    Exclusions condition the distribution as a whole, in drawing and in scoring alike. A request's draws
    depend on (seed, user, request id, time) only. `recommend` scores are log-probabilities: at the asked
    temperature, or at 1 for the ranked list of temperature 0. What was asked last is kept, as drawing,
    listing and scoring ask for the same requests in turn: neither the scorer nor a request may change under
    it. Calls of at most a block's requests are scored once (`rows_at_once` of `n_items`).
    """

    draws = True

    def __init__(self, scorer: Scorer, t0: float = 1.0, name: str | None = None, n_items: int = 0):
        if not t0 > 0 or not np.isfinite(t0):
            raise ValueError(f"SoftmaxOver: t0 must be a positive number, got {t0}")
        self.scorer, self.t0 = scorer, t0
        self.name = name if name is not None else f"{scorer.name} (softmax)"
        self.device, self.rows = resolve_device("auto"), rows_at_once(n_items)
        self._kept: tuple[list[Request], torch.Tensor] | None = None
        self._tempered: tuple[float, torch.Tensor] | None = (
            None  # a temperature, and log p of what is kept at it
        )

    def recommend(
        self, requests: Sequence[Request], n: int, temperature: float = 0.0, seed: int = 0
    ) -> list[Ranked]:
        """Temperature 0: the n most probable. Above: n distinct items,
        drawn one after the other (Gumbel top-k).
        """
        if temperature < 0:
            raise ValueError(f"{self.name}: temperature must be at least 0, got {temperature}")
        answers = []
        for block in blocks(requests, self.rows):
            log_p = self._log_p(block, temperature or 1.0)
            keys = log_p
            if temperature > 0:  # the order of log p + Gumbel noise is the order of draws without replacement
                keys = log_p + NOISE.gumbels(block, seed, log_p.shape[1], self.device)
            found = _largest(keys, n)
            places = torch.from_numpy(pad_lists(found, n).clip(min=0)).to(self.device)
            values = log_p.gather(1, places).cpu().numpy()
            answers += [Ranked(items, row[: len(items)]) for items, row in zip(found, values, strict=True)]
        return answers

    def draw(
        self, requests: Sequence[Request], n: int, temperature: float = 1.0, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """`n` i.i.d. draws a request: items [R, n] and log-probabilities [R, n].
        ValueError if nothing is allowed.
        """
        items, values = np.zeros((len(requests), n), dtype=np.int64), np.zeros((len(requests), n))
        for start, block in enumerate(blocks(requests, self.rows)):
            log_p = self._log_p(block, temperature)
            live = ~torch.isneginf(log_p)
            if not bool(live.any(1).all()):
                empty = block[int(torch.nonzero(~live.any(1))[0])]
                raise ValueError(
                    f"request {empty.request_id!r} may have nothing of the catalogue: nothing can be drawn"
                )
            cumulative = log_p.exp().cumsum(1)
            uniform = _uniforms(block, seed, "draw", n, self.device)
            places = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
            last = live.shape[1] - 1 - live.flip(1).int().argmax(1, keepdim=True)
            places = torch.minimum(places, last)
            rows = slice(start * self.rows, start * self.rows + len(block))
            items[rows], values[rows] = places.cpu().numpy(), log_p.gather(1, places).cpu().numpy()
        return items, values

    def log_prob(
        self, requests: Sequence[Request], items: np.ndarray, temperature: float = 1.0
    ) -> np.ndarray:
        """Exact log-probability [R] of one item a request; −inf where it is excluded."""
        return self.log_prob_at(requests, items, (temperature,))[:, 0]

    def log_prob_at(
        self, requests: Sequence[Request], items: np.ndarray, temperatures: Sequence[float]
    ) -> np.ndarray:
        """`log_prob` at G temperatures [R, G]; requests are scored once."""
        if len(items) != len(requests):
            raise ValueError(f"{self.name}: {len(requests)} requests but {len(items)} items to score")
        values = np.zeros((len(requests), len(temperatures)))
        for start, block in enumerate(blocks(requests, self.rows)):
            rows = slice(start * self.rows, start * self.rows + len(block))
            wanted = torch.from_numpy(np.asarray(items, dtype=np.int64)[rows, None]).to(self.device)
            for column, temperature in enumerate(temperatures):
                values[rows, column] = self._log_p(block, temperature).gather(1, wanted)[:, 0].cpu().numpy()
        return values

    def log_probs(self, requests: Sequence[Request], temperature: float = 1.0) -> np.ndarray:
        """log p [R, N] of every item; −inf where it is excluded."""
        return np.concatenate(
            [self._log_p(block, temperature).cpu().numpy() for block in blocks(requests, self.rows)]
        )

    def context_tokens(self, requests: Sequence[Request]) -> float:
        return tokens_of(self.scorer, requests)

    def forget(self) -> None:
        """Drop what was asked last."""
        self._kept = self._tempered = None

    def _log_p(self, block: list[Request], temperature: float) -> torch.Tensor:
        """log p [R, N] (float64); −inf where an item is not available, all of a row where nothing is."""
        if not temperature > 0:
            raise ValueError(f"{self.name}: a distribution needs a temperature above 0, got {temperature}")
        logits = self._logits(block)
        if self._tempered is not None and self._tempered[0] == temperature:
            return self._tempered[1]
        log_p = (logits / (self.t0 * temperature)).log_softmax(1)
        log_p = torch.where(torch.isneginf(logits), -torch.inf, log_p)  # a row of −inf alone comes out as NaN
        self._tempered = (temperature, log_p) if log_p.numel() <= KEPT else None
        return log_p

    def _logits(self, block: list[Request]) -> torch.Tensor:
        """Scores [R, N] with −inf where an item is not available."""
        if self._kept is not None and _same(self._kept[0], block):
            return self._kept[1]
        scores = np.array(self.scorer.scores(block), dtype=float)
        every = np.arange(scores.shape[1])
        for row, request in zip(scores, block, strict=True):
            if request.allow is None:
                row[request.exclude] = -np.inf
            else:
                row[~request.available(every)] = -np.inf
        wrong = np.flatnonzero(~(scores < np.inf).all(1))
        if wrong.size:
            raise ValueError(
                f"{self.name}: a score of request {block[wrong[0]].request_id!r} is not a number or is "
                "infinite"
            )
        logits = torch.from_numpy(scores).to(self.device)
        self._kept, self._tempered = (list(block), logits), None
        return logits


def best_temperature(
    log_p: np.ndarray,
    requests: Sequence[Request],
    grid: Sequence[float],
    users: np.ndarray | None = None,
    n: int = 30,
) -> float:
    """The temperature of `grid` with the highest expected hit-rate@n on *validation* instances, from their targets'
    log-probabilities `log_p` [R, G] there; the first on a tie.

    `users` [R]: average each user's instances first, as the test figures do; by default the requests' own users.
    """
    if not len(requests) or not len(grid):
        raise ValueError("a temperature is chosen on at least one validation instance, among at least one")
    if users is None:
        users = np.array([-1 - at if r.user is None else r.user for at, r in enumerate(requests)])
    rates = [user_means(expected_hit(column, n), users)[1].mean() for column in log_p.T]
    return float(grid[int(np.argmax(rates))])


def _same(some: Sequence[Request], others: Sequence[Request]) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))


def _uniforms(
    block: Sequence[Request], seed: int, purpose: str, n: int, device: torch.device
) -> torch.Tensor:
    """Uniform numbers [R, n] (float64) in [0, 1): entry `place` of each request's own
    sequence (`recsys.seeds.uniforms_at`).
    """
    keys = np.array([derive(seed, purpose, *_names(request), bits=64) for request in block], np.uint64)
    return torch.from_numpy(uniforms_at(keys[:, None], np.arange(n))).to(device)


class _LastNoise:
    """Gumbel numbers of the requests that were asked about last: rows of a table are asked about the same ones in turn."""

    def __init__(self) -> None:
        self._last: tuple[list[Request], tuple, torch.Tensor] | None = None

    def gumbels(self, block: Sequence[Request], seed: int, n: int, device: torch.device) -> torch.Tensor:
        """Standard Gumbel numbers [R, n] (float64), of each request's own, for drawing without replacement; not to be written to."""
        key, last = (seed, n, device), self._last
        if last is None or last[1] != key or not _same(last[0], block):
            self._last = None  # before another is made
            noise = _uniforms(block, seed, "distinct", n, device).clamp_(min=1e-300)
            last = list(block), key, noise.log_().neg_().log_().neg_()
            if noise.numel() <= KEPT:
                self._last = last
        return last[2]


NOISE = _LastNoise()


def _names(request: Request) -> tuple[int | str, ...]:
    return ("unknown" if request.user is None else request.user), request.request_id, request.time


def _largest(keys: torch.Tensor, n: int) -> list[np.ndarray]:
    """Places of the `n` largest keys of each row [R, N] above −inf, largest first,
    the earlier of equal ones first.
    """
    if keys.device.type != "cpu":
        values, places = keys.sort(dim=1, descending=True, stable=True)
        counts = (~torch.isneginf(values[:, :n])).sum(1).tolist()
        found = places[:, :n].cpu().numpy()
        return [row[:count] for row, count in zip(found, counts, strict=True)]
    return [row[:n] for row in _ordered(keys, n)]


def _ordered(keys: torch.Tensor, n: int) -> Iterator[np.ndarray]:
    """Of each row [N] the places of at least its `n` largest keys above −inf, in order, without sorting all of it: whoever is
    among the n largest is in one of the n parts of a row with the largest maxima.
    """
    rows, count = keys.shape
    least = keys.new_full((rows,), -torch.inf)
    if n * PART < count:
        whole = count // PART * PART
        most = (
            torch.cat([keys[:, :whole].view(rows, -1, PART).amax(2), keys[:, whole:].amax(1, True)], 1)
            if whole < count
            else (keys.view(rows, -1, PART).amax(2))
        )
        least = most.topk(n, 1).values[:, -1]
    for row, bound in zip(keys.numpy(), least.tolist(), strict=True):
        places = np.flatnonzero(row >= bound if bound > -np.inf else row > bound)
        yield places[np.argsort(-row[places], kind="stable")]

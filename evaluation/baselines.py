"""Baselines that answer the same call as every method, and the softmax that makes a scorer comparable with a
sampler.

A deterministic ranking has no i.i.d. draw. `SoftmaxOver` gives it one: p = softmax(score / T0) over the
allowed items, with T0 chosen on validation, so that it can be compared with a generative model like for like.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from scipy.special import log_softmax

from evaluation.metrics import expected_hit
from evaluation.statistics import user_means
from recsys.recommender import ProbabilisticRecommender, Ranked, Request
from recsys.seeds import rng

SCORE_BLOCK = 256  # requests scored at once: 256 × 12,000 items of float64 are 25 MB


class Scorer(Protocol):
    """Anything that gives every item of the catalogue a score for a request."""

    name: str

    def scores(self, requests: Sequence[Request]) -> np.ndarray:
        """Scores [R, N], higher is better. An excluded item's score is not looked at."""
        ...


class FixedOrder:
    """The same catalogue order for everyone, minus each request's exclusions. Reads nothing of the user."""

    draws = False

    def __init__(self, name: str, item_scores: np.ndarray):
        """`item_scores` [N]: one number per catalogue item; ties go to the lower item integer."""
        item_scores = np.asarray(item_scores, dtype=float)
        if item_scores.ndim != 1 or not len(item_scores) or not np.isfinite(item_scores).all():
            raise ValueError(
                f"{name} needs one finite score per catalogue item, got shape {item_scores.shape}"
            )
        self.name = name
        self._scores = item_scores
        self._order = np.argsort(-item_scores, kind="stable")

    def recommend(
        self, requests: Sequence[Request], n: int, temperature: float = 0.0, seed: int = 0
    ) -> list[Ranked]:
        """The best n allowed items of the fixed order; `temperature` and `seed` are ignored (`draws` is
        False).
        """
        return [self._best(request, n) for request in requests]

    def scores(self, requests: Sequence[Request]) -> np.ndarray:
        return np.broadcast_to(self._scores, (len(requests), len(self._scores)))

    def _best(self, request: Request, n: int) -> Ranked:
        head = self._order[: n + len(request.exclude)] if request.allow is None else self._order
        items = head[request.available(head)][:n]
        return Ranked(items, self._scores[items])


class Popularity(FixedOrder):
    """Most listened-to first. `counts` [N] are events per item in the training window only, as of its end.

    Its scores are log(1 + count), so that a softmax over them at T0 = 1 draws items in proportion to count +
    1.
    """

    def __init__(self, counts: np.ndarray, name: str = "Popularity"):
        counts = np.asarray(counts, dtype=float)
        if (counts < 0).any():
            raise ValueError("Popularity: a count is negative")
        super().__init__(name, np.log1p(counts))


class Recency(FixedOrder):
    """The items that anyone touched last in the training window, most recent first; items never touched come
    last.

    `items` [E] and `times` [E] (unix seconds) are the training events; a tie in time goes to the later row.
    An item's score is minus its place in the order.
    """

    def __init__(self, items: np.ndarray, times: np.ndarray, n_items: int, name: str = "Recency"):
        items, times = np.asarray(items), np.asarray(times)
        if items.shape != times.shape or (items.size and not 0 <= items.min() <= items.max() < n_items):
            raise ValueError(f"Recency needs one time per event and items in 0..{n_items - 1}")
        last = np.full(n_items, -1)
        last[items[np.argsort(times, kind="stable")]] = np.arange(
            len(items)
        )  # the last write of an item wins
        place = np.empty(n_items)
        place[np.argsort(-last, kind="stable")] = np.arange(n_items)
        super().__init__(name, -place)


class SoftmaxOver:
    """A distribution over the allowed items from any scorer: p = softmax(score / (T0 · temperature)).

    Exclusions condition the distribution as a whole, in drawing and in scoring alike. A request's draws
    depend on (seed, user, request id, time) only. `recommend` scores are log-probabilities: at the asked
    temperature, or at 1 for the ranked list of temperature 0.
    """

    draws = True

    def __init__(self, scorer: Scorer, t0: float = 1.0, name: str | None = None):
        if not t0 > 0 or not np.isfinite(t0):
            raise ValueError(f"SoftmaxOver: t0 must be a positive number, got {t0}")
        self.scorer, self.t0 = scorer, t0
        self.name = name if name is not None else f"{scorer.name} (softmax)"

    def recommend(
        self, requests: Sequence[Request], n: int, temperature: float = 0.0, seed: int = 0
    ) -> list[Ranked]:
        """Temperature 0: the n most probable. Above: n distinct items, drawn one after the other (Gumbel
        top-k).
        """
        if temperature < 0:
            raise ValueError(f"{self.name}: temperature must be at least 0, got {temperature}")

        def best(request: Request, log_p: np.ndarray, allowed: np.ndarray) -> Ranked:
            keys = log_p[allowed]
            if temperature > 0:  # the order of log p + Gumbel noise is the order of draws without replacement
                keys = keys + _stream(seed, "distinct", request).gumbel(size=len(log_p))[allowed]
            items = allowed[_largest(keys, n)]
            return Ranked(items, log_p[items])

        return self._each(requests, temperature or 1.0, best)

    def draw(
        self, requests: Sequence[Request], n: int, temperature: float = 1.0, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """`n` i.i.d. draws a request: items [R, n] and log-probabilities [R, n]. ValueError if nothing is
        allowed.
        """

        def one(request: Request, log_p: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            if not len(allowed):
                raise ValueError(
                    f"request {request.request_id!r} may have nothing of the catalogue: nothing can be drawn"
                )
            cumulative = np.exp(log_p[allowed]).cumsum()
            places = np.searchsorted(
                cumulative, _stream(seed, "draw", request).random(n) * cumulative[-1], "right"
            )
            items = allowed[np.minimum(places, len(allowed) - 1)]
            return items, log_p[items]

        drawn = self._each(requests, temperature, one)
        if not drawn:
            return np.zeros((0, n), dtype=np.int64), np.zeros((0, n))
        return np.stack([items for items, _ in drawn]), np.stack([log_p for _, log_p in drawn])

    def log_prob(
        self, requests: Sequence[Request], items: np.ndarray, temperature: float = 1.0
    ) -> np.ndarray:
        """Exact log-probability [R] of one item a request; −inf where it is excluded."""
        if len(items) != len(requests):
            raise ValueError(f"{self.name}: {len(requests)} requests but {len(items)} items to score")
        wanted = iter(np.asarray(items).tolist())
        return np.array(
            self._each(requests, temperature, lambda request, log_p, allowed: log_p[next(wanted)])
        )

    def context_tokens(self, requests: Sequence[Request]) -> float:
        """0: there is no prompt."""
        return 0.0

    def _each(self, requests: Sequence[Request], temperature: float, answer: Callable) -> list:
        """`answer(request, log_p [N], allowed items)` for every request, scored in blocks."""
        if not temperature > 0:
            raise ValueError(f"{self.name}: a distribution needs a temperature above 0, got {temperature}")
        answers = []
        for start in range(0, len(requests), SCORE_BLOCK):
            block = requests[start : start + SCORE_BLOCK]
            for request, scores in zip(block, self.scorer.scores(block), strict=True):
                logits = np.array(scores, dtype=float)
                logits[~request.available(np.arange(len(logits)))] = -np.inf
                allowed = np.flatnonzero(logits > -np.inf)
                log_p = log_softmax(logits / (self.t0 * temperature)) if len(allowed) else logits
                answers.append(answer(request, log_p, allowed))
        return answers


def _largest(keys: np.ndarray, n: int) -> np.ndarray:
    """Places of the `n` largest of `keys`, largest first, the earlier of equal ones first; without sorting all of them."""
    if n < len(keys):
        least = np.partition(keys, len(keys) - n)[len(keys) - n]
        places = np.flatnonzero(keys >= least)
    else:
        places = np.arange(len(keys))
    return places[np.argsort(-keys[places], kind="stable")[:n]]


def choose_temperature(
    scorer: Scorer | ProbabilisticRecommender,
    requests: Sequence[Request],
    targets: np.ndarray,
    grid: Sequence[float],
    users: np.ndarray | None = None,
    n: int = 30,
) -> float:
    """The temperature of `grid` with the highest expected hit-rate@n on *validation* instances; the first on
    a tie.

    A scorer's T0, or a probabilistic recommender's own sampling temperature. `users` [R]: average each user's
    instances first, as the test figures do; by default the requests' own users.
    """
    if not len(requests) or not len(grid):
        raise ValueError("choose_temperature needs at least one validation instance and one temperature")
    if users is None:
        users = np.array([-1 - at if r.user is None else r.user for at, r in enumerate(requests)])
    method = scorer if isinstance(scorer, ProbabilisticRecommender) else SoftmaxOver(scorer)
    rates = []
    for temperature in grid:
        expected = expected_hit(method.log_prob(requests, np.asarray(targets), temperature=temperature), n)
        rates.append(user_means(expected, users)[1].mean())
    return float(grid[int(np.argmax(rates))])


def _stream(seed: int, purpose: str, request: Request) -> np.random.Generator:
    user = "unknown" if request.user is None else request.user
    return rng(seed, purpose, user, request.request_id, request.time)

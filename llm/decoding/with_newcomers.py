"""The generator and the items that came after its training, as one recommender (`llm.decoding.newcomers` has their weights).

Trained items are listed, drawn and scored by the generator as if nobody had come: a list's scores of theirs are the same to the bit,
and newcomers are merged in where they weigh enough. Draws without replacement are merged as two urns of known mass: at each place the
next is of the trained or of the new, in proportion to what is left in each, which is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from llm.backbone.batching import BUDGET
from llm.decoding.draws import stream
from llm.decoding.newcomers import Newcomers
from llm.decoding.recommender import SidRecommender
from llm.prompts.reading import Reading
from recsys.data.caps import Caps, best_within
from recsys.recommender import Ranked, Request

MOST_SUMMED = 1 << 17  # items whose probabilities are all computed for one request


class WithNewcomers(SidRecommender):
    """`SidRecommender` over trained items and newcomers. Lists in sequence hold trained items alone."""

    def __init__(self, name: str, reading: Reading, newcomers: Newcomers, budget: int = BUDGET):
        super().__init__(name, reading, budget)
        self.newcomers = newcomers

    def recommend(
        self, requests: Sequence[Request], n: int, temperature: float = 0.0, seed: int = 0
    ) -> list[Ranked]:
        known = super().recommend(self._trained(requests), n, temperature, seed)
        weights = self._weights(requests, temperature or 1.0)
        if temperature == 0:
            return [_best(*one, n) for one in zip(known, weights, strict=True)]
        left = self._left(self._trained(requests), temperature)
        rows = zip(requests, known, weights, left, strict=True)
        return [_drawn(request, ranked, new, mass, n, seed) for request, ranked, new, mass in rows]

    def playlist(
        self,
        requests: Sequence[Request],
        n: int,
        temperature: float = 0.0,
        seed: int = 0,
        in_sequence: bool = False,
        caps: Caps | None = None,
    ) -> list[Ranked]:
        if in_sequence:
            return super().playlist(self._trained(requests), n, temperature, seed, True, caps)
        if caps is None:
            return self.recommend(requests, n, temperature, seed)

        def ranking(request: Request):
            return lambda k: self.recommend([request], k, temperature, seed)[0]

        return [best_within(ranking(request), caps, n) for request in requests]

    def draw(
        self, requests: Sequence[Request], n: int, temperature: float = 1.0, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        items, values = super().draw(self._trained(requests), n, temperature, seed)
        left = super().log_left(self._trained(requests), temperature)
        for row, (new, log_w) in enumerate(self._weights(requests, temperature)):
            total = np.logaddexp(_mass(left[row]), _total(log_w))
            values[row] += _mass(left[row]) - total
            if not len(new):
                continue
            generator = stream(seed, requests[row], "newcomers drawn")
            is_new = np.log(generator.random(n)) < _total(log_w) - total
            p = np.exp(log_w - _total(log_w))
            chosen = generator.choice(len(new), int(is_new.sum()), p=p / p.sum())
            items[row, is_new], values[row, is_new] = new[chosen], log_w[chosen] - total
        return items, values

    def log_left(self, requests: Sequence[Request], temperature: float = 1.0) -> np.ndarray:
        left = self._left(self._trained(requests), temperature)
        new = [_total(log_w) for _, log_w in self._weights(requests, temperature)]
        return np.logaddexp(left, np.array(new))

    def scores(self, requests: Sequence[Request]) -> np.ndarray:
        return self._beside(super().scores(self._trained(requests)), self._all_weights(requests))

    def likely_scores(self, requests: Sequence[Request], width: int) -> tuple[np.ndarray, np.ndarray]:
        scores, below = super().likely_scores(self._trained(requests), width)
        exact = np.full((len(requests), len(self.newcomers)), -1, np.int32)
        return self._beside(scores, self._all_weights(requests)), self._beside(below, exact)

    def log_probs(self, requests: Sequence[Request], temperature: float = 1.0) -> np.ndarray:
        whole = [replace(request, exclude=request.exclude[:0], allow=None) for request in requests]
        values = self._beside(super().log_probs(whole, temperature), self._all_weights(requests, temperature))
        for row, request in zip(values, requests, strict=True):
            row[~request.available(np.arange(len(row)))] = -np.inf
            if np.isfinite(row).any():
                row -= np.logaddexp.reduce(row)
        return values

    def log_prob_at(
        self, requests: Sequence[Request], items: np.ndarray, temperatures: Sequence[float]
    ) -> np.ndarray:
        items, trained = np.asarray(items), self._trained(requests)
        is_new = np.isin(items, self.newcomers.items)
        values = super().log_prob_at(trained, np.where(is_new, 0, items), temperatures)
        for column, temperature in enumerate(temperatures):
            left = super().log_left(trained, temperature)
            for row, (new, log_w) in enumerate(self._weights(requests, temperature)):
                total = np.logaddexp(_mass(left[row]), _total(log_w))
                if not is_new[row]:
                    values[row, column] += _mass(left[row]) - total
                else:
                    at = np.flatnonzero(new == items[row])
                    values[row, column] = log_w[at[0]] - total if len(at) else -np.inf
        return values

    def list_log_prob(
        self,
        requests: Sequence[Request],
        given: Sequence[np.ndarray],
        temperature: float = 1.0,
        caps: Caps | None = None,
    ) -> list[np.ndarray]:
        return super().list_log_prob(self._trained(requests), given, temperature, caps)

    def _columns(self, requests: Sequence[Request]) -> np.ndarray:
        return super()._columns(self._trained(requests))

    def _left(self, trained: Sequence[Request], temperature: float) -> np.ndarray:
        """`SidRecommender.log_left`, summed over all items where the nodes are too many for it and the items are not: an urn is drawn
        from by what is left in it.
        """
        left, items = super().log_left(trained, temperature), np.arange(self.model.trie.n_items)
        for row in np.flatnonzero(np.isnan(left)).tolist() if len(items) <= MOST_SUMMED else []:
            whole = replace(trained[row], exclude=trained[row].exclude[:0], allow=None)
            log_p = super().log_probs([whole], temperature)[0]
            left[row] = np.logaddexp.reduce(log_p[trained[row].available(items)])
        return left

    def _trained(self, requests: Sequence[Request]) -> list[Request]:
        """The requests as the generator's trie can read them; the same objects where they name no newcomer."""
        return [_without_new(request, self.newcomers) for request in requests]

    def _beside(self, trained: np.ndarray, new: np.ndarray) -> np.ndarray:
        """[R, N] of all items from [R, trained] and [R, K] of newcomers, in the type of the first."""
        whole = np.full((len(trained), self.newcomers.n_items), -np.inf, np.float64)
        whole = (
            whole.astype(trained.dtype)
            if trained.dtype.kind == "f"
            else np.full(whole.shape, -1, trained.dtype)
        )
        whole[:, : trained.shape[1]] = trained
        whole[:, self.newcomers.items] = new
        return whole

    def _all_weights(self, requests: Sequence[Request], temperature: float = 1.0) -> np.ndarray:
        """log w [R, K] of all newcomers, with nothing excluded."""
        found = np.zeros((len(requests), len(self.newcomers)))
        for rows, some, session in self._sessions(self._trained(requests), self._nodes(1)):
            found[rows] = self.newcomers.log_weights(session, some, temperature)
        return found

    def _weights(
        self, requests: Sequence[Request], temperature: float
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each request the newcomers that are available to it, and their log w."""
        items, found = self.newcomers.items, []
        for request, log_w in zip(requests, self._all_weights(requests, temperature), strict=True):
            some = request.available(items)
            found.append((items[some], log_w[some]))
        return found


def _without_new(request: Request, newcomers: Newcomers) -> Request:
    first, again = newcomers.first, newcomers.again
    has_new = len(again) > 0 or bool((request.exclude >= first).any())
    exclude = np.union1d(request.exclude[request.exclude < first], again) if has_new else request.exclude
    if request.allow is not None and (request.allow >= first).any():
        return replace(request, exclude=exclude, allow=request.allow[request.allow < first])
    return replace(request, exclude=exclude) if has_new else request


def _best(known: Ranked, new: tuple[np.ndarray, np.ndarray], n: int) -> Ranked:
    """The n heaviest of both; of equal ones the trained come first."""
    items, log_w = new
    few = np.argsort(-log_w, kind="stable")[:n]
    if len(known.items) == n:
        few = few[log_w[few] > known.scores[-1]]
    if not len(few):
        return known
    together = np.concatenate([known.items, items[few]]), np.concatenate([known.scores, log_w[few]])
    order = np.argsort(-together[1], kind="stable")[:n]
    return Ranked(together[0][order], together[1][order], known.proven)


def _drawn(
    request: Request, known: Ranked, new: tuple[np.ndarray, np.ndarray], left: float, n: int, seed: int
) -> Ranked:
    """n without replacement from both urns, in the order in which they are drawn."""
    items, log_w = new
    if not len(items):
        return known
    generator = stream(seed, request, "newcomers")
    order = np.argsort(-(log_w + generator.gumbel(size=len(log_w))), kind="stable")[:n]
    urns = ((known.items, known.scores), (items[order], log_w[order]))
    mass, at = [float(np.exp(_mass(left))), float(np.exp(_total(log_w)))], [0, 0]
    chosen: list[tuple[int, float]] = []
    for u in generator.random(n):
        open_ = [at[side] < len(urns[side][0]) for side in (0, 1)]
        if not any(open_):
            break
        side = 0 if not open_[1] else 1 if not open_[0] else int(u * sum(mass) >= mass[0])
        item, score = urns[side][0][at[side]], urns[side][1][at[side]]
        at[side] += 1
        mass[side] = max(mass[side] - float(np.exp(score)), 0.0)
        chosen.append((int(item), float(score)))
    return Ranked(
        np.array([one for one, _ in chosen], np.int64), np.array([value for _, value in chosen]), known.proven
    )


def _mass(left: float) -> float:
    """log of what the trained items that are available weigh; where that is not affordable, all of it."""
    return 0.0 if np.isnan(left) else left


def _total(log_w: np.ndarray) -> float:
    return float(np.logaddexp.reduce(log_w)) if len(log_w) else -np.inf

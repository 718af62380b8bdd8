"""A product of experts: one distribution from several recommenders' scores, weights learned on validation.

    p(item | request) ∝ exp( s · Σ_k w_k · s_k(request, item) )     over the items available to the request

With s_1 = log p_gen of a generator and s_2 a retriever's score that is p_gen^γ · exp(β · s_2), normalised
over the whole catalogue, so it is exact for drawing, listing and scoring alike (`SoftmaxOver`). In w it is a
conditional logit (McFadden 1974), so the log-likelihood of the validation targets is concave and has one
maximum. The sharpness s, which changes no ranking, is then the one with the best expected hit-rate of 30
draws: likelihood pays for the targets that nobody sees coming, 30 draws do not. (Hinton 2002 names such
products; there the experts are trained through it.)
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from evaluation.softmax import Scorer, best_temperature, rows_at_once, tokens_of
from recsys.recommender import Request
from recsys.training.devices import resolve_device

PART = (
    1 << 17
)  # scores of a factor that are looked at together: half a MiB, and a few factors fit into a core's cache
FLAT = 0.01  # nats a spread of an expert's scores: where the likelihood no longer rises
# 1 / s, of which validation chooses
TEMPERATURES = (0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)


class Product:
    """A scorer: Σ_k w_k · s_k.

    An expert that knows nothing of a request gives it zeros, and so leaves the product. Where those are all zeros that are `asked`
    (places among the scorers; the others say the same of everybody, and their weights are those of people who are known), the product
    is `otherwise` alone: a scorer, or one of the factors by its place.
    """

    def __init__(
        self,
        name: str,
        scorers: Sequence[Scorer],
        weights: Sequence[float],
        asked: Sequence[int] = (),
        otherwise: Scorer | int = 0,
    ):
        """Raises `ValueError` unless there is one finite weight for each of at least one scorer."""
        if not scorers or len(scorers) != len(weights) or not np.isfinite(weights).all():
            raise ValueError(
                f"{name}: {len(scorers)} experts need as many finite weights, got {list(weights)}"
            )
        self.name, self.scorers, self.weights = name, list(scorers), [float(weight) for weight in weights]
        self.asked, self.otherwise = list(asked), otherwise

    def context_tokens(self, requests: Sequence[Request]) -> float:
        """Of all prompts that its scorers read."""
        return sum(tokens_of(scorer, requests) for scorer in self.scorers)

    def scores(self, requests: Sequence[Request]) -> np.ndarray:
        """Scores [R, N] (float32)."""
        factors = [np.asarray(scorer.scores(requests), np.float32) for scorer in self.scorers]
        total = np.asarray(
            sum(np.float32(weight) * factor for weight, factor in zip(self.weights, factors, strict=True))
        )
        alone = np.flatnonzero(_nothing_in([factors[at] for at in self.asked], len(requests)))
        if alone.size:
            if isinstance(self.otherwise, int):
                total[alone] = factors[self.otherwise][alone]
            else:
                total[alone] = self.otherwise.scores([requests[int(row)] for row in alone])
        return total

    def knows_nothing(self, requests: Sequence[Request]) -> np.ndarray:
        """Bool [R]: is the request answered by `otherwise` alone?"""
        factors = [np.asarray(self.scorers[at].scores(requests)) for at in self.asked]
        return _nothing_in(factors, len(requests))


def _nothing_in(asked: Sequence[np.ndarray], count: int) -> np.ndarray:
    """Bool [R]: rows of which every factor [R, N] is zero; none without a factor."""
    return ~np.any([factor.any(1) for factor in asked], axis=0) if asked else np.zeros(count, bool)


@dataclass(frozen=True)
class Weights:
    """What validation chose: `values` [K] of the highest likelihood and its mean nats a target, the nats of
    each expert with the best weight of its own, and the `temperature` (1 / s) of the best expected hit-rate.
    """

    values: list[float]
    nats: float
    nats_alone: list[float]
    temperature: float
    instances: int

    @property
    def sharpened(self) -> list[float]:
        """s · w: the weights of the product that is served."""
        return [value / self.temperature for value in self.values]


def fit_weights(
    scorers: Sequence[Scorer], requests: Sequence[Request], targets: np.ndarray, n_items: int = 0
) -> Weights:
    """The weights of the highest mean log-likelihood of `targets` [R] among what is available to
    their requests, and the sharpness. `n_items` sizes the blocks (`evaluation.softmax.rows_at_once`).

    Raises `ValueError` without an instance, or for a target that its request excludes.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked = Differences(Path(folder), requests, targets, n_items)
        return asked.fit([asked.add(scorer) for scorer in scorers])


Block = tuple[
    list[torch.Tensor], torch.Tensor
]  # a feature [b, N] of each factor, and what is not available [b, N]


class Differences:
    """Each factor's score of every item minus that of the target, [R, N], in a file of its own (R · N · 4 bytes), and
    what is not available (R · N bytes). Memory holds a block of instances.
    """

    def __init__(self, folder: Path, requests: Sequence[Request], targets: np.ndarray, n_items: int = 0):
        """An empty `folder`, which this object owns. Raises `ValueError` without an instance."""
        if not len(requests):
            raise ValueError("weights of experts need at least one validation instance")
        self.folder, self.requests, self.targets = folder, requests, np.asarray(targets)
        self.rows, self.n_items, self._count = rows_at_once(n_items), n_items, 0
        self.device = resolve_device("auto")
        self._alone: dict[Path, float] = {}  # the nats of a factor with the best weight of its own

    def add(self, scorer: Scorer) -> Path:
        """Ask a scorer about every instance; the file of its differences. Delete it when it has been used."""
        path, is_first = self.folder / f"{self._count}.f32", self._count == 0
        self._count += 1
        with open(path, "wb") as file, open(self._out, "ab") as out:
            for start in range(0, len(self.requests), self.rows):
                some, own = self.requests[start : start + self.rows], self.targets[start : start + self.rows]
                scores = np.array(scorer.scores(some), np.float32)
                scores -= np.take_along_axis(scores, own[:, None], 1)
                scores.tofile(file)
                if is_first:
                    self.n_items = scores.shape[1]
                    self._unavailable(some, own).tofile(out)
        return path

    @property
    def _out(self) -> Path:
        return self.folder / "unavailable"

    def _unavailable(self, requests: Sequence[Request], own: np.ndarray) -> np.ndarray:
        every = np.arange(self.n_items)
        out = np.stack([~request.available(every) for request in requests])
        wrong = np.flatnonzero(out[np.arange(len(requests)), own])
        if wrong.size:
            raise ValueError(
                f"the target of request {requests[wrong[0]].request_id!r} is not available to it"
            )
        return out

    def blocks(self, paths: Sequence[Path]) -> Iterator[Iterator[Block]]:
        """The instances in order: blocks of `rows`, whose sums are numbers, in parts that a core's cache holds."""
        whole = self.device.type != "cpu"
        size = self.rows if whole else max(1, min(self.rows, PART // max(1, self.n_items)))
        for first in range(0, len(self.requests), self.rows):
            end = min(first + self.rows, len(self.requests))
            yield (self._block(paths, at, min(size, end - at)) for at in range(first, end, size))

    def _block(self, paths: Sequence[Path], start: int, rows: int) -> Block:
        features = [self._read(path, np.float32, start, rows) for path in paths]
        return features, self._read(self._out, np.bool_, start, rows)

    def _read(self, path: Path, kind: type, start: int, rows: int) -> torch.Tensor:
        offset = start * self.n_items * np.dtype(kind).itemsize
        found: np.ndarray = np.fromfile(path, kind, rows * self.n_items, offset=offset)
        return torch.from_numpy(found.reshape(rows, self.n_items)).to(self.device)

    def fit(self, paths: Sequence[Path]) -> Weights:
        """`fit_weights` of the factors whose differences are in `paths`."""
        for path in paths:
            if path not in self._alone:
                self._alone[path] = self._best([path])[1]
        values, nats = self._best(paths)
        log_p = self._log_p(paths, [values / temperature for temperature in TEMPERATURES])
        temperature = best_temperature(log_p, self.requests, TEMPERATURES)
        alone = [self._alone[path] for path in paths]
        return Weights(values.tolist(), nats, alone, temperature, len(self.requests))

    def _log_p(self, paths: Sequence[Path], weights: Sequence[np.ndarray]) -> np.ndarray:
        """log p of each target [R, G] by G sets of weights: its own logit is 0."""
        return np.concatenate(
            [
                np.stack([-_logits(part, some).logsumexp(1).cpu().numpy() for some in weights], 1)
                for block in self.blocks(paths)
                for part in block
            ]
        )

    def _best(self, paths: Sequence[Path]) -> tuple[np.ndarray, float]:
        """The minimum of mean_r log Σ_i exp(w · f_ri) over w [K], by L-BFGS in units of each factor's spread."""
        from scipy.optimize import minimize

        features, out = self._block(paths, 0, min(self.rows, len(self.requests)))
        scale = np.array([max(float(feature[~out].std()), 1e-6) for feature in features])
        del features, out
        rows = len(self.requests)

        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = 0.0, np.zeros(len(paths))
            for block in self.blocks(paths):
                totals, slopes = [], []
                for part in block:
                    logits = _logits(part, weights / scale)
                    totals.append(logits.logsumexp(1, keepdim=True))
                    share = logits.sub_(totals[-1]).exp_()
                    slopes.append([torch.linalg.vecdot(share, feature) for feature in part[0]])
                value += _sum(totals)
                gradient += [_sum(some) for some in zip(*slopes, strict=True)]
            return value / rows, gradient / scale / rows

        start = np.full(len(paths), 1.0 / len(paths))
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200, "ftol": 1e-7})
        # by the slope, not by L-BFGS' own word: at the minimum its line search fails by float32's last digits
        if not np.abs(found.jac).max() < FLAT:
            raise FloatingPointError(f"the weights of the experts did not converge: {found.message}")
        return found.x / scale, float(found.fun)


def _sum(parts: Sequence[torch.Tensor]) -> float:
    return float(torch.cat(list(parts)).sum(dtype=torch.float64))


def _logits(block: Block, weights: np.ndarray) -> torch.Tensor:
    """Σ_k w_k · (s_k(item) − s_k(target)) [b, N]; −inf where an item is not available."""
    features, out = block
    logits = torch.zeros_like(features[0])
    for weight, feature in zip(weights, features, strict=True):
        logits.add_(feature, alpha=float(weight))
    return logits.masked_fill_(out, -torch.inf)


def remainder(
    log_p: np.ndarray, below: np.ndarray, others: np.ndarray, gamma: float, available: np.ndarray
) -> tuple[float, float]:
    """Of a product whose generator is known but for some nodes: the share of its mass that lies below those, and the most
    that the exact product can differ from it (total variation).

    `log_p` [N] of the generator where `below` [N] is −1; elsewhere an even share of a node's exact mass m, and `below` the node's
    number. `others` [N]: Σ_k w_k · s_k of all other factors, `gamma` the generator's weight.

    The two products weigh an item that is exact alike, and what lies below a node v of n items weighs at most
    m^γ · n^max(0, 1 − γ) · max_v exp(others) in either of them (Jensen; for γ ≥ 1 as Σ p^γ ≤ (Σ p)^γ). With Z the weight of
    the exact items and B the sum of those, neither has more than B / (Z + B) of its mass there, nor do they differ by more.
    """
    exact = below < 0
    if exact.all():
        return 0.0, 0.0
    logits = np.where(available, gamma * log_p + others, -np.inf).astype(np.float64)
    z, spread = (np.logaddexp.reduce(logits[part], initial=-np.inf) for part in (exact, ~exact))
    share = float(np.exp(spread - np.logaddexp(z, spread)))
    if gamma < 0:
        return share, 1.0  # nothing bounds p^γ from above
    order = np.argsort(below[~exact], kind="stable")
    _, starts, counts = np.unique(below[~exact][order], return_index=True, return_counts=True)
    best = np.maximum.reduceat(np.where(available, others, -np.inf)[~exact][order].astype(np.float64), starts)
    each = gamma * log_p[~exact][order][starts] + max(1.0, gamma) * np.log(counts) + best
    bound = np.logaddexp.reduce(each, initial=-np.inf)
    return share, float(np.exp(bound - np.logaddexp(z, bound)))

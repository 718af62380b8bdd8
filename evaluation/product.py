"""A product of experts: one distribution from the scores of several recommenders, their weights learned on validation.

    p(item | request) ∝ exp( Σ_k w_k · s_k(request, item) )     over the items available to the request

With s_1 = log p_gen of a generator and s_2 a retriever's score that is p_gen^γ · exp(β · s), normalised over the whole catalogue, so it
is exact for drawing, listing and scoring alike (`SoftmaxOver`). In w it is a conditional logit (McFadden 1974), so the log-likelihood of the
validation targets is concave and has one maximum. (Hinton 2002 names such products; there the experts are trained through it.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from evaluation.baselines import Scorer
from recsys.recommender import Request

BLOCK = 256  # requests scored at once


class Product:
    """A scorer: Σ_k w_k · s_k. What it answered last is kept, as drawing, listing and scoring ask for the same requests in turn."""

    def __init__(self, name: str, scorers: Sequence[Scorer], weights: Sequence[float]):
        """Raises `ValueError` unless there is one finite weight for each of at least one scorer."""
        if not scorers or len(scorers) != len(weights) or not np.isfinite(weights).all():
            raise ValueError(
                f"{name}: {len(scorers)} experts need as many finite weights, got {list(weights)}"
            )
        self.name, self.scorers, self.weights = name, list(scorers), [float(weight) for weight in weights]
        self._kept: tuple[list[Request], np.ndarray] | None = None

    def scores(self, requests: Sequence[Request]) -> np.ndarray:
        """Scores [R, N] (float32)."""
        if self._kept is not None:
            before, scores = self._kept
            if len(before) == len(requests) and all(a is b for a, b in zip(before, requests, strict=True)):
                return scores
        total = sum(
            np.float32(weight) * np.asarray(scorer.scores(requests), np.float32)
            for weight, scorer in zip(self.weights, self.scorers, strict=True)
        )
        self._kept = list(requests), np.asarray(total)
        return self._kept[1]


@dataclass(frozen=True)
class Weights:
    """What validation chose: `values` [K], and the mean nats of a target under them and under each expert alone."""

    values: list[float]
    nats: float
    nats_alone: list[float]  # each expert with the best weight of its own
    instances: int


def fit_weights(scorers: Sequence[Scorer], requests: Sequence[Request], targets: np.ndarray) -> Weights:
    """The weights of the highest mean log-likelihood of `targets` [R] among what is available to their requests.

    Raises `ValueError` without an instance, or for a target that its request excludes.
    """
    if not len(requests):
        raise ValueError("weights of experts need at least one validation instance")
    features = _features(scorers, requests, np.asarray(targets))
    alone = [_best(feature[None])[1] for feature in features]
    values, nats = _best(features)
    return Weights(values.tolist(), nats, alone, len(requests))


def _features(scorers: Sequence[Scorer], requests: Sequence[Request], targets: np.ndarray) -> np.ndarray:
    """Each expert's score of every item minus that of the target [K, R, N] (float32); what is not available is −inf everywhere."""
    blocks = []
    for start in range(0, len(requests), BLOCK):
        some = requests[start : start + BLOCK]
        scores = np.stack([np.asarray(scorer.scores(some), np.float32) for scorer in scorers])
        own = targets[start : start + BLOCK]
        every = np.arange(scores.shape[2])
        out = np.stack([~request.available(every) for request in some])
        wrong = np.flatnonzero(out[np.arange(len(some)), own])
        if wrong.size:
            raise ValueError(f"the target of request {some[wrong[0]].request_id!r} is not available to it")
        scores = scores - np.take_along_axis(scores, own[None, :, None], 2)
        scores[:, out] = np.nan
        blocks.append(scores)
    return np.concatenate(blocks, 1)


def _best(features: np.ndarray) -> tuple[np.ndarray, float]:
    """The minimum of mean_r log Σ_i exp(w · f_ri) over w [K], by L-BFGS from all experts at their own spread."""
    count, rows = features.shape[:2]
    out = np.isnan(features[0])
    scale = np.array([max(np.nanstd(feature[: min(rows, 512)]), 1e-6) for feature in features])
    finite = [
        np.where(out, 0.0, feature) / np.float32(size) for feature, size in zip(features, scale, strict=True)
    ]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = 0.0, np.zeros(count)
        for start in range(0, rows, BLOCK):
            part = slice(start, start + BLOCK)
            logits = sum(np.float32(w) * feature[part] for w, feature in zip(weights, finite, strict=True))
            logits = np.where(out[part], -np.inf, logits)
            total = logsumexp(logits, axis=1, keepdims=True)
            share = np.exp(logits - total)
            value += float(total.sum(dtype=np.float64))
            gradient += [float((share * feature[part]).sum(dtype=np.float64)) for feature in finite]
        return value / rows, gradient / rows

    found = minimize(
        loss, np.full(count, 1.0 / count), jac=True, method="L-BFGS-B", options={"maxiter": 60, "ftol": 1e-7}
    )
    return found.x / scale, float(found.fun)

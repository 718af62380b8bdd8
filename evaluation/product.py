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

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from evaluation.softmax import BLOCK, Scorer, best_temperature
from recsys.recommender import Request
from recsys.training.devices import resolve_device

FLAT = 0.01  # nats a spread of an expert's scores: where the likelihood no longer rises
# 1 / s, of which validation chooses
TEMPERATURES = (0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)


class Product:
    """A scorer: Σ_k w_k · s_k."""

    def __init__(self, name: str, scorers: Sequence[Scorer], weights: Sequence[float]):
        """Raises `ValueError` unless there is one finite weight for each of at least one scorer."""
        if not scorers or len(scorers) != len(weights) or not np.isfinite(weights).all():
            raise ValueError(
                f"{name}: {len(scorers)} experts need as many finite weights, got {list(weights)}"
            )
        self.name, self.scorers, self.weights = name, list(scorers), [float(weight) for weight in weights]

    def scores(self, requests: Sequence[Request]) -> np.ndarray:
        """Scores [R, N] (float32)."""
        total = sum(
            np.float32(weight) * np.asarray(scorer.scores(requests), np.float32)
            for weight, scorer in zip(self.weights, self.scorers, strict=True)
        )
        return np.asarray(total)


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


def fit_weights(scorers: Sequence[Scorer], requests: Sequence[Request], targets: np.ndarray) -> Weights:
    """The weights of the highest mean log-likelihood of `targets` [R] among what is available to
    their requests, and the sharpness.

    Raises `ValueError` without an instance, or for a target that its request excludes.
    """
    if not len(requests):
        raise ValueError("weights of experts need at least one validation instance")
    features, out = _features(scorers, requests, np.asarray(targets))
    alone = [_best([feature], out)[1] for feature in features]
    values, nats = _best(features, out)
    log_p = np.stack([_log_p(features, out, values / temperature) for temperature in TEMPERATURES], 1)
    temperature = best_temperature(log_p, requests, TEMPERATURES)
    return Weights(values.tolist(), nats, alone, temperature, len(requests))


def _features(
    scorers: Sequence[Scorer], requests: Sequence[Request], targets: np.ndarray
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Each expert's score of every item minus that of the target, K of [R, N],
    and what is not available [R, N].
    """
    device = resolve_device("auto")
    parts: list[list[torch.Tensor]] = [[] for _ in scorers]
    outs = []
    for start in range(0, len(requests), BLOCK):
        some, own = requests[start : start + BLOCK], targets[start : start + BLOCK]
        for scorer, part in zip(scorers, parts, strict=True):
            scores = torch.from_numpy(np.array(scorer.scores(some), np.float32)).to(device)
            part.append(scores - scores.gather(1, torch.from_numpy(own[:, None]).to(device)))
        every = np.arange(parts[0][-1].shape[1])
        out = np.stack([~request.available(every) for request in some])
        wrong = np.flatnonzero(out[np.arange(len(some)), own])
        if wrong.size:
            raise ValueError(f"the target of request {some[wrong[0]].request_id!r} is not available to it")
        outs.append(torch.from_numpy(out).to(device))
    return [torch.cat(part) for part in parts], torch.cat(outs)


def _logits(
    features: Sequence[torch.Tensor], out: torch.Tensor, weights: np.ndarray, part: slice
) -> torch.Tensor:
    """Σ_k w_k · (s_k(item) − s_k(target)) of the requests in `part`; −inf where an item is not available."""
    logits = torch.zeros_like(features[0][part])
    for weight, feature in zip(weights, features, strict=True):
        logits.add_(feature[part], alpha=float(weight))
    return logits.masked_fill_(out[part], -torch.inf)


def _log_p(features: Sequence[torch.Tensor], out: torch.Tensor, weights: np.ndarray) -> np.ndarray:
    """log p of each target [R]: its own logit is 0."""
    parts = [slice(start, start + BLOCK) for start in range(0, len(out), BLOCK)]
    return np.concatenate(
        [-_logits(features, out, weights, part).logsumexp(1).cpu().numpy() for part in parts]
    )


def _best(features: Sequence[torch.Tensor], out: torch.Tensor) -> tuple[np.ndarray, float]:
    """The minimum of mean_r log Σ_i exp(w · f_ri) over w [K], by L-BFGS in units of each expert's spread."""
    from scipy.optimize import minimize

    rows = len(out)
    scale = np.array([max(float(feature[:BLOCK][~out[:BLOCK]].std()), 1e-6) for feature in features])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = 0.0, np.zeros(len(features))
        for start in range(0, rows, BLOCK):
            part = slice(start, start + BLOCK)
            logits = _logits(features, out, weights / scale, part)
            total = logits.logsumexp(1, keepdim=True)
            share = (logits - total).exp_()
            value += float(total.sum(dtype=torch.float64))
            gradient += [
                float(torch.linalg.vecdot(share, feature[part]).sum(dtype=torch.float64))
                for feature in features
            ]
        return value / rows, gradient / scale / rows

    start = np.full(len(features), 1.0 / len(features))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200, "ftol": 1e-7})
    # by the slope, not by L-BFGS' own word: at the minimum its line search fails by float32's last digits
    if not np.abs(found.jac).max() < FLAT:
        raise FloatingPointError(f"the weights of the experts did not converge: {found.message}")
    return found.x / scale, float(found.fun)

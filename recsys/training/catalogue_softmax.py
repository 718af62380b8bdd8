"""Cross-entropy over a catalogue that never holds positions × items: whole, in chunks, or over a sample of negatives.

The whole one is `softmax_loss`: −Σ_n w_n log p(t_n), p = softmax(q_n · o_i) over all N items, with label smoothing as
torch's `cross_entropy` has it. A chunk of positions is read at a time, and what its gradient needs is worked out while its
logits are in the cache, so that backward multiplies what forward left and nothing is computed twice (as Liger and "Cut Your
Losses", arXiv 2411.09009, do on GPUs).

The sampled one is `sampled_softmax_losses` (Bengio & Senécal 2008; Jean et al. 2015, arXiv 1412.2007). The normaliser
Z = e^(s_t) + Σ_{j≠t} e^(s_j) is estimated from M negatives that all positions share,

    Ẑ = e^(s_t) + Σ_{drawn j ≠ t} e^(s_j − log π_j),          π_j the expected number of times that j is drawn,

which is the logQ correction. It has Z as its expectation whatever π is; where all items are drawn (π = 1) it is Z. The
target itself is there for certain, so it is not corrected, and a draw that hits it is left out (Khrylchenko et al. 2025,
arXiv 2507.09331, on what goes wrong otherwise). `Negatives` draws: one uniform tick in each of M strata of Σπ = M.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from recsys.seeds import rng

CHUNK_BYTES = 16 << 20  # of logits at once: about what a core has of cache, and room for good products
SMALL = 60.0  # logits below it need none taken from them: e^60 × a million items is a float32
MIN_CHUNK = 64  # positions at once at least, however large the catalogue: the product wants rows


class _SoftmaxLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: torch.Tensor,
        outputs: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        smoothing: float,
    ) -> torch.Tensor:
        n, n_items = len(queries), len(outputs)
        of_queries, of_outputs = torch.empty_like(queries), torch.zeros_like(outputs)
        mean, right = outputs.mean(0), 1 - smoothing
        total = queries.new_zeros((), dtype=torch.float64)
        size = max(MIN_CHUNK, CHUNK_BYTES // (4 * n_items))
        logits = queries.new_empty((min(size, n), n_items))
        # no logit is above this (Cauchy and Schwarz): cosines / temperature need no largest one looked for
        is_small = n > 0 and bool(queries.norm(dim=1).max() * outputs.norm(dim=1).max() < SMALL)
        for start in range(0, n, size):
            q, own, weight = (x[start : start + size] for x in (queries, targets, weights))
            chunk = torch.mm(q, outputs.T, out=logits[: len(q)])
            score = right * chunk.gather(1, own[:, None])[:, 0] + smoothing * (q @ mean)
            if not is_small:
                largest = chunk.amax(1, keepdim=True)
                chunk.sub_(largest)
                score -= largest[:, 0]
            z = chunk.exp_().sum(1)  # shares are never made: what they are multiplied with is divided by z
            total += (weight * (z.log() - score)).sum()
            shared, weighed = (side[:, None] * q for side in (weight / z, weight))
            aimed = right * outputs.index_select(0, own) + smoothing * mean
            of_queries[start : start + size] = (weight / z)[:, None] * (chunk @ outputs) - weight[
                :, None
            ] * aimed
            of_outputs.addmm_(chunk.T, shared).index_add_(0, own, weighed, alpha=-right)
        if smoothing:
            of_outputs -= (smoothing / n_items) * (weights @ queries)
        ctx.save_for_backward(of_queries, of_outputs)
        return total.to(queries.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None, None]:
        of_queries, of_outputs = ctx.saved_tensors
        return of_queries * gradients[0], of_outputs * gradients[0], None, None, None


def softmax_loss(
    queries: torch.Tensor,
    outputs: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None = None,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Mean over positions of w_n × cross-entropy of `targets` [n] under the logits queries [n, d] · outputs [N, d].

    `weights` [n]; None: all 1. Float32 throughout, whatever autocast says. Memory: CHUNK_BYTES of logits, or MIN_CHUNK × N.
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries, outputs = queries.float(), outputs.float()
        scale = torch.ones_like(queries[:, 0]) if weights is None else weights.to(queries)
        return _SoftmaxLoss.apply(queries, outputs, targets, scale / max(1, len(queries)), smoothing)


class _SampledLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: torch.Tensor,
        aimed: torch.Tensor,
        others: torch.Tensor,
        log_expected: torch.Tensor,
        hits: torch.Tensor,
    ) -> torch.Tensor:
        n, size = len(queries), max(MIN_CHUNK, CHUNK_BYTES // (4 * max(1, len(others))))
        own = (queries * aimed).sum(1)
        masses, rest = queries.new_empty((n, len(others))), torch.zeros_like(own)
        highest = torch.zeros_like(own)  # taken from a position's scores before their exponential
        longest = torch.maximum(others.norm(dim=1).max(), aimed.norm(dim=1).max()) if n else own.sum()
        is_small = n > 0 and bool(queries.norm(dim=1).max() * longest < SMALL)
        inverse = torch.exp(-log_expected)  # 1 / π, which is never in an array of positions × negatives
        for start in range(0, n, size):
            rows = slice(start, start + size)
            chunk = torch.mm(queries[rows], others.T, out=masses[rows]).masked_fill_(hits[rows], -torch.inf)
            if not is_small:
                highest[rows] = torch.maximum(chunk.amax(1), own[rows])
                chunk.sub_(highest[rows, None])
            torch.mv(chunk.exp_(), inverse, out=rest[rows])
        total = rest + (own - highest).exp()
        ctx.save_for_backward(queries, aimed, others, inverse[:, None], masses, rest, total)
        return functional.softplus(rest.log() + highest - own)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        queries, aimed, others, inverse, masses, rest, total = ctx.saved_tensors
        shared = (gradients[0] / total)[:, None]  # what a mass is multiplied with to be a share
        missed = rest[:, None] * shared
        of_queries = torch.addcmul(shared * (masses @ (inverse * others)), missed, aimed, value=-1)
        return of_queries, -missed * queries, inverse * (masses.T @ (shared * queries)), None, None


def sampled_softmax_losses(
    queries: torch.Tensor,
    aimed: torch.Tensor,
    others: torch.Tensor,
    log_expected: torch.Tensor,
    hits: torch.Tensor,
) -> torch.Tensor:
    """−log(e^(s_t) / Ẑ) of each position [n]; see the module. As precise as its tensors, whatever autocast says.

    `queries` and `aimed` [n, d]: states and their targets' vectors. `others` [M, d], shared negatives; `log_expected` [M]
    is log π; `hits` [n, M] says which negative is a position's own target. Memory: n × M, once.
    """
    with torch.autocast(queries.device.type, enabled=False):
        sides = (side if side.dtype == torch.float64 else side.float() for side in (queries, aimed, others))
        return _SampledLosses.apply(*sides, log_expected, hits)


class Negatives:
    """Shared negatives of a step, M of them: `draw(step)`, by (seed, step) alone.

    Item j is drawn π_j = min(1, c · (counts_j + 1)^power) times in expectation, c such that Σπ = M: with `power` 0 all
    items alike, with 1 by popularity. Whoever has π = 1 is drawn exactly once.
    """

    def __init__(self, counts: np.ndarray, size: int, power: float, seed: int):
        """`counts` [N] of the events of each item; at most N negatives are drawn, and then each item once."""
        self._seed = seed
        weight = (np.asarray(counts, np.float64) + 1) ** power
        order = np.argsort(-weight, kind="stable")
        self.expected = np.ones(len(weight))  # π [N]
        tail = np.cumsum(weight[order][::-1])[::-1]  # Σ of the weights from each place on
        places, size = np.arange(len(weight)), min(size, len(weight))
        # the first place whose share of what is left is below 1: those before it are drawn for certain
        lower = np.r_[weight[order] * (size - places) < tail, True]
        certain = len(weight) if size == len(weight) else int(np.argmax(lower))
        rest = order[certain:]
        self._certain = np.sort(order[:certain])
        self._rest = rng(seed, "negatives").permutation(rest)  # neighbours have nothing in common
        self._strata = size - certain
        if len(rest):
            self.expected[rest] = weight[rest] * (self._strata / tail[certain])
        self._ends = np.cumsum(self.expected[self._rest])

    def draw(self, step: int) -> np.ndarray:
        """Items [M], those that are certain first; one may come twice where it lies in two strata."""
        ticks = np.arange(self._strata) + rng(self._seed, "negatives", step).random(self._strata)
        places = np.searchsorted(self._ends, ticks, side="right")  # a last tick may round to the end
        return np.concatenate([self._certain, self._rest[np.minimum(places, max(0, len(self._rest) - 1))]])

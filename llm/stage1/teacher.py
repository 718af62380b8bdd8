"""A retriever as a teacher: items drawn from what the vectors in the prefix's place say themselves.

    p(i | c) = softmax_i(c · v_i / τ) over items not in the history,   τ by the likelihood of validation targets

A target says of a request that one item came; the retriever says of every item how likely it was. Behind a soft token, a
head over the levels (`llm.backbone.heads.DepthHead`) scores some draws of it for the price of their head work alone, so that
a large backbone, which can afford few rows, learns from each what the vector means.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys.embeddings.user_vectors import UserVectors
from recsys.recommender import Request
from recsys.requests import blocks

TEMPERATURES = (0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.3, 0.5, 1.0)  # of inner products; τ is one of them
AT_ONCE = 1 << 24  # logits that are held at once: 128 MiB


class Teacher:
    """Draws from softmax(c · v / τ)."""

    def __init__(self, users: UserVectors, items: np.ndarray):
        """`items` [N, d] of the space of `users`. Raises `ValueError` where they are of another."""
        if users.dim != items.shape[1]:
            raise ValueError(
                f"adapt.soft_teacher: user vectors have {users.dim} dimensions and item vectors {items.shape[1]}: the retriever that "
                "teaches needs both in one space; bring item embeddings of it too, or set soft_teacher to 0"
            )
        self.users, self.items, self.temperature = users, items, TEMPERATURES[0]

    def fit(self, requests: Sequence[Request], targets: np.ndarray) -> float:
        """Choose τ by the mean log-likelihood of validation `targets` [R] among what each request may get; returns that, in nats."""
        totals, count, start = np.zeros(len(TEMPERATURES)), 0, 0
        for some in blocks(requests, self._rows()):
            vectors, known = self.users.vectors(some)
            wanted = np.asarray(targets)[start : start + len(some)]
            start += len(some)
            for row in np.flatnonzero(known):
                logits = self._logits(vectors[row], some[row].exclude)
                for at, temperature in enumerate(TEMPERATURES):
                    totals[at] += logits[wanted[row]] / temperature - _log_sum_exp(logits / temperature)
                count += 1
        if not count:
            raise ValueError("no validation instance has a user vector: there is nothing to fit a teacher on")
        self.temperature = TEMPERATURES[int(totals.argmax())]
        return float(totals.max() / count)

    def draw(
        self, vectors: np.ndarray, requests: Sequence[Request], count: int, generator: np.random.Generator
    ) -> np.ndarray:
        """`count` independent items [B, count] a request, none that is in its history."""
        found = np.empty((len(requests), count), np.int64)
        for row, request in enumerate(requests):
            logits = self._logits(vectors[row], request.history) / self.temperature
            total = np.exp(logits - logits.max()).cumsum()
            at = np.searchsorted(total, generator.random(count) * total[-1], side="right")
            found[row] = np.minimum(at, len(total) - 1)
        return found

    def _rows(self) -> int:
        return max(1, AT_ONCE // len(self.items))

    def _logits(self, vector: np.ndarray, left_out: np.ndarray) -> np.ndarray:
        logits = (self.items @ vector).astype(np.float64)
        logits[left_out] = -np.inf
        return logits


def _log_sum_exp(x: np.ndarray) -> float:
    most = x.max()
    return float(most + np.log(np.exp(x - most).sum()))

"""The content path: what an item without interactions would be to the quantizer, told from its text alone.

Ridge regression from text vectors to collaborative ones (both of unit length). New items get semantic IDs
through it without retraining anything: text → input vector → codes → the nearest free codes of the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.seeds import rng
from semantic_ids.inputs import InputSpace
from semantic_ids.quantizer import Quantizer

FIT_ITEMS = 50_000  # the regression learns no more from more items than these
HELD_OUT = 0.1  # share of the items that the quality is measured on


@dataclass(frozen=True)
class ContentPath:
    """text [n, e] ↦ unit(text · weights + bias), [n, d]."""

    weights: np.ndarray
    bias: np.ndarray
    alpha: float

    @classmethod
    def fit(cls, text: np.ndarray, collaborative: np.ndarray, seed: int) -> ContentPath:
        """Ridge, its strength by generalised cross-validation, on at most `FIT_ITEMS` items (seeded)."""
        from sklearn.linear_model import RidgeCV

        if len(text) > FIT_ITEMS:
            chosen = np.sort(rng(seed, "ridge").choice(len(text), FIT_ITEMS, replace=False))
            text, collaborative = text[chosen], collaborative[chosen]
        ridge = RidgeCV(alphas=np.logspace(-2, 3, 11)).fit(
            text.astype(np.float64), collaborative.astype(np.float64)
        )
        weights = np.ascontiguousarray(np.atleast_2d(ridge.coef_).T, dtype=np.float32)
        return cls(weights, np.atleast_1d(ridge.intercept_).astype(np.float32), float(ridge.alpha_))

    def predict(self, text: np.ndarray) -> np.ndarray:
        rows = text @ self.weights + self.bias
        return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(min=1e-12)


def held_out_quality(
    collaborative: np.ndarray,
    has: np.ndarray,
    text: np.ndarray | None,
    inputs: InputSpace,
    quantizer: Quantizer,
    seed: int,
) -> dict[str, Any]:
    """How near the content path comes for items that its regression has not seen.

    Cosine of predicted and true input vectors, and the share of items whose first (first two) codes come out
    the same, beside chance: a random other item's codes. The quantizer itself has seen these items' true
    vectors.
    """
    if text is None:
        return {
            "measured": False,
            "reason": "no text vectors: new items cannot get semantic IDs without retraining",
        }
    known = np.flatnonzero(has)
    if inputs.collaborative is None:
        return {
            "measured": False,
            "reason": "the input is the text itself: new items are coded like any other",
        }
    if len(known) < 20:
        return {"measured": False, "reason": f"only {len(known)} items have a collaborative vector"}
    order = rng(seed, "held out").permutation(known)
    cut = max(2, round(HELD_OUT * len(order)))
    out, rest = order[:cut], order[cut:]
    path = ContentPath.fit(text[rest], collaborative[rest], seed)
    true = inputs.apply(collaborative[out], text[out])
    predicted = inputs.apply(path.predict(text[out]), text[out])
    a, b, everyone = (
        quantizer.encode(true),
        quantizer.encode(predicted),
        quantizer.encode(inputs.apply(collaborative[known], text[known])),
    )
    norms = np.linalg.norm(true, axis=1) * np.linalg.norm(predicted, axis=1)
    facts: dict[str, Any] = {
        "measured": True,
        "held_out_items": len(out),
        "ridge_alpha": path.alpha,
        "cosine": float(((true * predicted).sum(1) / norms.clip(min=1e-12)).mean()),
    }
    for name, depth in (("first", 1), ("first_two", 2))[: len(quantizer.sizes)]:
        facts[f"same_{name}"] = float((a[:, :depth] == b[:, :depth]).all(1).mean())
        facts[f"chance_{name}"] = chance_of_sharing(everyone[:, :depth])
    return facts


def chance_of_sharing(codes: np.ndarray) -> float:
    """Probability that two different items, drawn at random, have equal rows in `codes` [N, l]."""
    counts = np.unique(codes, axis=0, return_counts=True)[1].astype(np.float64)
    return float((counts * (counts - 1)).sum() / max(1.0, len(codes) * (len(codes) - 1.0)))

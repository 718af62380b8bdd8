"""Hit-rate@n (n is `evaluate.n`, 30), expected hit-rate, recall, NDCG, entropy: small pure functions, one value for each of R instances.

A ranked or drawn list is a row of item integers; a list shorter than the others is padded with −1, which is
no item.
"""

from __future__ import annotations

import numpy as np

PROBABILITY_TOLERANCE = 1e-4  # a log-probability may exceed 0 by this much (float32 log-softmax), not by more


def hits(lists: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """1.0 where the target [R] is anywhere in its list [R, n], else 0.0 [R]. Repeats in a list count once."""
    lists, targets = _checked(lists, targets)
    return (lists == targets[:, None]).any(axis=1).astype(float)


def expected_hit(log_p: np.ndarray, n: int) -> np.ndarray:
    """Probability [R] that n i.i.d. draws hold the target: 1 − (1 − p)^n, from its log-probability `log_p`
    [R] (nats).

    Computed as −expm1(n·log1p(−p)), so that a p of 1e−12 is not lost. Raises ValueError on NaN and on p > 1.
    """
    log_p = np.asarray(log_p, dtype=float)
    if n < 1:
        raise ValueError(f"expected_hit needs at least one draw, got n = {n}")
    wrong = np.flatnonzero(np.isnan(log_p) | (log_p > PROBABILITY_TOLERANCE))
    if wrong.size:
        raise ValueError(
            f"instance {wrong[0]} has log-probability {log_p[wrong[0]]}; expected a number of at most 0"
        )
    with np.errstate(divide="ignore"):  # p = 1 gives log1p(−1) = −inf, and the right answer 1
        return -np.expm1(n * np.log1p(-np.exp(np.minimum(log_p, 0.0))))


def recall_at_k(ranked: np.ndarray, targets: np.ndarray, k: int) -> np.ndarray:
    """Recall@k [R] with one relevant item an instance: 1.0 if the target is among the first k of `ranked` [R,
    ≥k].
    """
    return hits(np.asarray(ranked)[:, :k], targets)


def ndcg_at_k(ranked: np.ndarray, targets: np.ndarray, k: int) -> np.ndarray:
    """NDCG@k [R] with one relevant item an instance: 1 / log2(1 + rank) if the target's rank (from 1) is ≤ k,
    else 0.

    Järvelin & Kekäläinen 2002; with a single relevant item the ideal gain is 1, so the discount is all that
    is left.
    """
    ranked, targets = _checked(np.asarray(ranked)[:, :k], targets)
    found = ranked == targets[:, None]
    rank = found.argmax(axis=1) + 1
    return np.where(found.any(axis=1), 1.0 / np.log2(1.0 + rank), 0.0)


def entropy_from_draws(log_probs: np.ndarray) -> np.ndarray:
    """Unbiased estimate [R] (nats) of each distribution's entropy: the mean of −log p over its own i.i.d.
    draws [R, n].
    """
    log_probs = np.asarray(log_probs, dtype=float)
    if log_probs.ndim != 2 or log_probs.shape[1] == 0:
        raise ValueError(f"entropy needs draws of shape [R, n ≥ 1], got {log_probs.shape}")
    if not np.isfinite(log_probs).all():
        raise ValueError(
            "a drawn item has a log-probability that is not finite, so it could not have been drawn"
        )
    return -log_probs.mean(axis=1)


def pad_lists(lists: list[np.ndarray], n: int) -> np.ndarray:
    """Ranked lists of different lengths as one array [R, n], filled up with −1; longer lists are cut at n."""
    padded = np.full((len(lists), n), -1, dtype=np.int64)
    for row, items in zip(padded, lists, strict=True):
        row[: min(n, len(items))] = items[:n]
    return padded


def _checked(lists: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lists, targets = np.asarray(lists), np.asarray(targets)
    if lists.ndim != 2 or targets.shape != (len(lists),):
        raise ValueError(f"expected lists [R, n] and targets [R], got {lists.shape} and {targets.shape}")
    if (targets < 0).any():
        raise ValueError(
            "a target is negative; targets are item integers, and −1 is the padding of short lists"
        )
    return lists, targets

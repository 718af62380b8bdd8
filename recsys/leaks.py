"""Does a user's vector know the answer that it is about to be trained on?

Vectors learned from a graph that holds the edge (user, target) carry the target on training rows and not on test
rows. The sign of it is a retrieval hit-rate that is clearly higher on training targets than on validation targets.
"""

from __future__ import annotations

import numpy as np


class LeakError(ValueError):
    """User vectors that know their training targets."""


def check_retrieval_leak(
    train_hits: np.ndarray,
    train_users: np.ndarray,
    validation_hits: np.ndarray,
    validation_users: np.ndarray,
    margin: float = 0.5,
) -> dict[str, float]:
    """Compare retrieval hits [n] (bool) on training and on validation targets; returns both rates and the z-score.

    Hits are averaged by user first, on the users that both sides have (at least two, else on all). Raises `LeakError`
    when the training rate exceeds (1 + margin) × the validation rate by more than three standard errors. A margin is
    needed because training targets lie nearer in time to what the graph has seen; a true leak doubles the rate.
    """
    if len(train_hits) == 0 or len(validation_hits) == 0:
        raise ValueError("the leak check needs instances on both sides; check the split")
    train, validation = _by_user(train_hits, train_users), _by_user(validation_hits, validation_users)
    shared = sorted(train.keys() & validation.keys())
    if len(shared) >= 2:
        t, v = np.array([train[user] for user in shared]), np.array([validation[user] for user in shared])
        excess = t - (1 + margin) * v
        error = float(excess.std(ddof=1) / len(excess) ** 0.5)
    else:
        t, v = np.array(list(train.values())), np.array(list(validation.values()))
        spread = t.var() / len(t) + (1 + margin) ** 2 * v.var() / len(v)
        excess, error = t.mean(keepdims=True) - (1 + margin) * v.mean(), float(spread**0.5)
    mean = float(excess.mean())
    z = mean / error if error > 0 else float(np.sign(mean) * 1e9 if mean else 0.0)
    result = {
        "train_hit_rate": float(t.mean()),
        "validation_hit_rate": float(v.mean()),
        "users": len(t),
        "margin": margin,
        "z": z,
    }
    if z > 3:
        raise LeakError(
            f"the user vectors retrieve training targets at {t.mean():.4f} and validation targets at {v.mean():.4f}: "
            "clearly above, so they hold the targets they are trained on. Learn the item vectors without the edges of "
            "the training targets (cross-fit by user or by time), or join brought embeddings strictly earlier; if the "
            "difference is only drift, raise embed.leak_margin."
        )
    return result


def _by_user(hits: np.ndarray, users: np.ndarray) -> dict[int, float]:
    names, inverse = np.unique(users, return_inverse=True)
    means = np.bincount(inverse, weights=hits.astype(float)) / np.bincount(inverse)
    return dict(zip(names.tolist(), means.tolist(), strict=True))

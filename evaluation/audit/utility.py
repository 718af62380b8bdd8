"""A model of what items are worth to people, for simulations where the truth is not known; no row of a table.

PureSVD (Cremonesi, Koren and Turrin 2010) of who had what, the held-out events among it, and popularity, weighed as a conditional
logit: u(person, item) = β1 · svd(person, item) + β2 · log(1 + count). Rank and β are fitted on held-out events, each against items that the
person has not had, drawn alike (a sample of the whole catalogue's softmax, McFadden 1978), by an SVD that has not seen those events: half of the
people choose, the other half says how good the model is. So exp(u) is in proportion to what is had next, and what was shown to people is
taken for what they like: with alternatives drawn by popularity β2 may come out below 0, and people would seek what nobody has had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.recommender import Request
from recsys.seeds import rng

RANKS = (8, 16, 32, 64)
AGAINST = 99  # items drawn alike, beside the one that was had


@dataclass(frozen=True)
class FittedUtilities:
    """u [U, N] of the users of a data set, and how it was fitted."""

    values: np.ndarray
    said: str
    figures: dict[str, float]

    def of_all(self, requests: Sequence[Request]) -> np.ndarray:
        return self.values[np.array([request.user for request in requests], np.int64)]


def fit_utilities(
    users: np.ndarray, items: np.ndarray, n_users: int, n_items: int, held_out: np.ndarray, seed: int = 0
) -> FittedUtilities:
    """From events (users[e], items[e]), of which `held_out` (bool [E]) are those that no compared row has learned from."""
    known = ~held_out
    counts = np.log1p(np.bincount(items[known], minlength=n_items))
    who, what = users[held_out], items[held_out]
    drawn = rng(seed, "utility", "against").integers(0, n_items, (len(who), AGAINST))
    sets = np.concatenate([what[:, None], drawn], axis=1)  # the first was had
    left = ~np.isin(who[:, None] * n_items + sets, users[known] * n_items + items[known])
    left[:, 0] = True
    half = rng(seed, "utility", "halves").random(n_users) < 0.5
    best: tuple[float, int, np.ndarray] | None = None
    most = min(n_users, n_items) - 1
    for rank in sorted({min(rank, most) for rank in RANKS}):
        scores = _pure_svd(users[known], items[known], n_users, n_items, rank, seed)
        features = _features(scores, counts, who, sets)
        weights, value = _conditional_logit(features[half[who]], left[half[who]])
        if best is None or value > best[0]:
            best = value, rank, weights
    assert best is not None
    _, rank, weights = best
    scores = _pure_svd(users[known], items[known], n_users, n_items, rank, seed)
    others = _features(scores, counts, who, sets)[~half[who]]
    among = left[~half[who]]
    utility = np.where(among, others @ weights, -np.inf)
    likelihood = float((utility[:, 0] - np.logaddexp.reduce(utility, axis=1)).mean())
    chance = float(-np.log(among.sum(axis=1)).mean())
    beats = (utility[:, :1] > utility[:, 1:]) + 0.5 * (utility[:, :1] == utility[:, 1:])
    above = float(beats[among[:, 1:]].mean())
    figures = {
        "rank": rank,
        "beta_svd": float(weights[0]),
        "beta_log_popularity": float(weights[1]),
        "held_out_events": len(who),
        "auc_on_the_other_half": above,
        "nats_gained_over_chance": likelihood - chance,
    }
    said = (
        f"utility: PureSVD of rank {rank} and log popularity, weighed on held-out events against up to {AGAINST} others; on the "
        f"other half of the people it puts what was had above another item {above:.0%} of the time"
    )
    whole = _pure_svd(users, items, n_users, n_items, rank, seed)
    return FittedUtilities(weights[0] * whole + weights[1] * counts, said, figures)


def _pure_svd(
    users: np.ndarray, items: np.ndarray, n_users: int, n_items: int, rank: int, seed: int
) -> np.ndarray:
    """R V Vᵀ [U, N], R 1 where a user had an item, V its first right singular vectors."""
    from scipy import sparse
    from sklearn.utils.extmath import randomized_svd

    had = sparse.csr_array((np.ones(len(users)), (users, items)), shape=(n_users, n_items))
    had.data[:] = 1.0
    _, _, basis = randomized_svd(sparse.csr_matrix(had), rank, random_state=seed)
    return (had @ basis.T) @ basis


def _features(scores: np.ndarray, counts: np.ndarray, who: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """[E, 1 + AGAINST, 2]."""
    return np.stack([scores[who[:, None], sets], counts[sets]], axis=-1)


def _conditional_logit(features: np.ndarray, left: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights [2] that make the first of each set likeliest among those that are `left`, and the mean log-likelihood (nats)."""
    from scipy import optimize

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        utility = np.where(left, features @ weights, -np.inf)
        log_p = utility - np.logaddexp.reduce(utility, axis=1, keepdims=True)
        expected = (np.exp(log_p)[..., None] * features).sum(axis=1)
        return -float(log_p[:, 0].mean()), -(features[:, 0] - expected).mean(axis=0)

    found = optimize.minimize(loss, np.array([1.0, 0.1]), jac=True, method="L-BFGS-B")
    return found.x, -float(found.fun)

"""Figures of lists beyond accuracy, each a small pure function by a named definition.

Lists are `lists` [R, n], item integers, best first, −1 where a list is shorter; a figure of each list is NaN where it has none.
"""

from __future__ import annotations

import numpy as np

SMOOTHING = 0.01  # Steck's α: the share of a person's own taste that is mixed into what a list is like


def exposures(lists: np.ndarray, n_items: int) -> np.ndarray:
    """In how many lists each item is [N]."""
    return np.bincount(lists[lists >= 0], minlength=n_items)


def coverage(counts: np.ndarray) -> np.ndarray:
    """Share of the items that are in any list, of counts […, N] (RecTools' `CatalogCoverage`, normalised)."""
    return (np.asarray(counts) > 0).mean(axis=-1)


def gini(counts: np.ndarray) -> np.ndarray:
    """Gini coefficient of counts […, N], items without any included: 0 where all have as many, near 1 where one has all.

    Σ_k (2k − N − 1) x_(k) / (N Σ x), x ascending, k from 1: LensKit's `ListGini` where the counts are numbers of lists.
    NaN where nothing is counted.
    """
    ranked = np.sort(np.asarray(counts, dtype=float), axis=-1)
    n = ranked.shape[-1]
    weighed = ranked @ (2.0 * np.arange(1, n + 1) - n - 1)
    total = n * ranked.sum(axis=-1)
    return np.divide(weighed, total, out=np.full(np.shape(total), np.nan), where=total > 0)


def mean_of(lists: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean over each list [R] of a value an item [N]: of popularities it is RecTools' `AvgRecPopularity`, per user."""
    there = lists >= 0
    sums = np.where(there, np.asarray(values, float)[lists.clip(min=0)], 0.0).sum(axis=1)
    counts = there.sum(axis=1)
    return np.divide(sums, counts, out=np.full(len(lists), np.nan), where=counts > 0)


def self_information(users_of_item: np.ndarray, n_users: int) -> np.ndarray:
    """−log2 of the share of people who have had each item [N], in bits; an item of nobody counts as one person's.

    Its `mean_of` a list is its novelty (RecTools' `MeanInvUserFreq`).
    """
    return -np.log2(np.maximum(users_of_item, 1) / n_users)


def intra_list_distance(lists: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Mean of 1 − cosine over the pairs of different items of each list [R], by item vectors [N, d].

    RecTools' `IntraListDiversity` with the cosine for its distance. A vector of no length is 1 from everything. NaN below two items.
    """
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
    there = lists >= 0
    some = np.where(there[..., None], unit[lists.clip(min=0)], 0.0)  # [R, n, d]
    counts = there.sum(axis=1)
    total = (some.sum(axis=1) ** 2).sum(axis=1) - (some**2).sum(axis=(1, 2))  # of both orders of every pair
    pairs = counts * (counts - 1)
    return 1 - np.divide(total, pairs, out=np.full(len(lists), np.nan), where=pairs > 0)


def taste(kinds: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """p(g | u) [R, G] of items' kinds p(g | i) [N, G] and how much each item counts for a person [R, N]; zeros where nothing does.

    Steck 2018, eq. 1 and 2: Σ_i w_i p(g | i) / Σ_i w_i, over the items that have a kind at all.
    """
    summed = np.asarray(weights @ kinds)
    total = summed.sum(axis=1, keepdims=True)
    return np.divide(summed, total, out=np.zeros_like(summed, dtype=float), where=total > 0)


def miscalibration(own: np.ndarray, listed: np.ndarray, smoothing: float = SMOOTHING) -> np.ndarray:
    """KL(p || (1 − α) q + α p) [R] in nats, of a person's taste p and what their list is like q, both [R, G].

    Steck 2018 ("Calibrated recommendations"), eq. 3 and 5: 0 where a list holds kinds in the shares in which the person has had
    them. NaN where either is nothing.
    """
    mixed = (1 - smoothing) * listed + smoothing * own
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(own > 0, own * np.log(own / mixed), 0.0)
    known = (own.sum(axis=1) > 0) & (listed.sum(axis=1) > 0)
    return np.where(known, terms.sum(axis=1), np.nan)


def lift(listed: np.ndarray, had: np.ndarray) -> float:
    """Popularity lift of a group (Abdollahpouri et al. 2020, "The connection between popularity bias, calibration, and fairness"):
    (GAP_q − GAP_p) / GAP_p, GAP the mean over its people of the mean popularity of their list `listed` [U] or profile `had` [U].
    """
    known = ~(np.isnan(listed) | np.isnan(had))
    return float(listed[known].mean() / had[known].mean() - 1) if known.any() else float("nan")

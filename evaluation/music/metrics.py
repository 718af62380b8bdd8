"""What playlists are like beside how they please: popular or repeated items can game a predicted engagement.

One metric, one small pure function. `lists` [R, n] hold distinct items, filled up with −1,
which is no item and is counted nowhere. Values are one a request, [R]; NaN where a list is too
short to say, or its user unknown.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from evaluation.engagement.features import unit_rows


def diversity(lists: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """1 − mean cosine [R] over the pairs of a list (Ziegler et al. 2005's
    intra-list similarity, turned round).

    `vectors` [N, d]; an item with a zero vector is like nothing (cosine 0). NaN for lists of fewer than two
    items. With unit rows the pairs need no loop: 2 Σ_{i<j} cos = |Σ v|² − Σ |v|².
    """
    there = _there(lists)
    of_items = unit_rows(vectors)[lists] * there[:, :, None]
    twice = (of_items.sum(axis=1) ** 2).sum(axis=1) - (of_items**2).sum(axis=(1, 2))
    m = there.sum(axis=1)
    return 1 - _divide(twice, m * (m - 1))


def novelty(lists: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean surprise [R] in bits, −log₂ of an item's share of all training events (Zhou et al. 2010).

    `counts` [N] in training. Every count is raised by one,
    so that an item nobody has had is a finite surprise.
    """
    counts = np.asarray(counts, dtype=float)
    return _mean(lists, -np.log2((counts + 1) / (counts.sum() + len(counts))))


def popularity_percentile(lists: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean popularity rank [R] of the items as a share of the catalogue:
    0 the least popular, 1 the most, .5 no bias.

    Equally popular items share the middle of their ranks.
    """
    from scipy.stats import rankdata

    return _mean(lists, (rankdata(counts) - 0.5) / len(counts))


def affinity(
    lists: np.ndarray, user_vectors: np.ndarray, known: np.ndarray, vectors: np.ndarray
) -> np.ndarray:
    """Mean cosine [R] of a user [R, d] and the items of the list (`vectors` [N, d]);
    NaN where the user is not known.

    E2P defines affinity nowhere; this is our reading. The space should be one that neither the generator nor
    the engagement predictor has read.
    """
    there = _there(lists)
    of_items = unit_rows(vectors)[lists]
    cosines = (of_items * unit_rows(user_vectors)[:, None]).sum(axis=2) * there
    found = _divide(cosines.sum(axis=1), there.sum(axis=1))
    return np.where(known, found, np.nan)


def query_precision(lists: np.ndarray, matches: np.ndarray) -> np.ndarray:
    """Share [R] of a list's items that carry the query's phrase; `matches` [R, n] says which do."""
    there = _there(lists)
    return _divide((matches & there).sum(axis=1), there.sum(axis=1))


def shown_recall(lists: np.ndarray, offsets: np.ndarray, items: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Share [R] of the wanted items shown to a request that its list holds; NaN where none was wanted.

    What was shown to request r is items[offsets[r] : offsets[r + 1]], `wanted` [S] marks some of
    it: the engaged ones for hits on what was liked, the others for hits on what was shown and not
    liked. They are reported apart.
    """
    row = np.repeat(np.arange(len(lists)), np.diff(offsets))
    found = (np.asarray(lists)[row] == np.asarray(items)[:, None]).any(axis=1)
    hits = np.bincount(row, weights=found & wanted, minlength=len(lists))
    return _divide(hits, np.bincount(row, weights=wanted, minlength=len(lists)))


def catalogue_coverage(lists: np.ndarray, n_items: int) -> float:
    """Share of the catalogue that is in any of the lists."""
    return len(np.unique(np.asarray(lists)[_there(lists)])) / n_items


def gini(lists: np.ndarray, n_items: int) -> float:
    """Gini coefficient of how often each of the N items is listed: 0 all alike, 1 − 1/N one item alone.

    Σ_i (2i − N − 1) x_(i) / (N Σ x) over counts in ascending order. NaN where nothing is listed.
    """
    counts = np.sort(np.bincount(np.asarray(lists)[_there(lists)], minlength=n_items))
    place = 2 * np.arange(1, n_items + 1) - n_items - 1
    total = counts.sum()
    return float((place * counts).sum() / (n_items * total)) if total else float("nan")


def _there(lists: np.ndarray) -> np.ndarray:
    lists = np.asarray(lists)
    if lists.ndim != 2:
        raise ValueError(f"expected lists [R, n], filled up with −1, got shape {lists.shape}")
    return lists >= 0


def _mean(lists: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean [R] of the items' values [N]."""
    there = _there(lists)
    return _divide((values[lists] * there).sum(axis=1), there.sum(axis=1))


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, NaN where b is 0."""
    return np.divide(a, b, out=np.full(len(a), np.nan), where=np.asarray(b) > 0)


def liked_above(scores: np.ndarray, labels: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The chance [Q] that an engaged item of a list scores above one that is not (AUC within the list);
    NaN without both kinds.
    """
    from scipy.stats import rankdata

    found = np.full(len(offsets) - 1, np.nan)
    for row, (start, stop) in enumerate(pairwise(offsets.tolist())):
        liked = labels[start:stop]
        n, m = int(liked.sum()), int((~liked).sum())
        if n and m:
            ranks = rankdata(scores[start:stop])
            found[row] = (ranks[liked].sum() - n * (n + 1) / 2) / (n * m)
    return found

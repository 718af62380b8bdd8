"""Metrics of lists: small enough to check by eye, and scikit-learn, scipy and plain loops as outside witnesses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import percentileofscore
from sklearn.metrics import recall_score
from sklearn.metrics.pairwise import cosine_similarity

from evaluation.music import metrics as metrics

LISTS = np.array([[0, 1, 2], [2, -1, -1], [-1, -1, -1], [3, 1, -1]])


VECTORS = np.array([[1.0, 0], [0, 2], [3, 0], [0, 0]])  # items 0 and 2 alike, 1 across, 3 without a vector


COUNTS = np.array([7, 0, 3, 3])


def made(seed: int = 0):
    generator = np.random.default_rng(seed)
    lists = np.stack([generator.permutation(40)[:8] for _ in range(20)])
    for row, kept in enumerate(generator.integers(2, 9, 20)):
        lists[row, kept:] = -1
    return generator, lists


def test_diversity_by_hand():
    # pairs of the first list: 0–1 and 1–2 have cosine 0, 0–2 has 1
    np.testing.assert_allclose(metrics.diversity(LISTS, VECTORS), [2 / 3, np.nan, np.nan, 1.0])


def test_diversity_equals_sklearns_cosines():
    generator, lists = made()
    vectors = generator.normal(size=(40, 5))
    for row, value in zip(lists, metrics.diversity(lists, vectors), strict=True):
        found = cosine_similarity(vectors[row[row >= 0]])
        pairs = found[np.triu_indices(len(found), 1)]
        assert value == pytest.approx(1 - pairs.mean())


def test_novelty_by_hand():
    # shares (count + 1) / (13 + 4): 8, 1, 4 and 4 of 17
    bits = [np.log2(17 / 8), np.log2(17), np.log2(17 / 4), np.log2(17 / 4)]
    expected = [np.mean(bits[:3]), bits[2], np.nan, (bits[3] + bits[1]) / 2]
    np.testing.assert_allclose(metrics.novelty(LISTS, COUNTS), expected)


def test_novelty_of_the_whole_catalogue_is_at_least_its_entropy():
    """Gibbs: the mean surprise under the uniform distribution is the cross-entropy, never below log₂ N."""
    generator, _ = made()
    counts = generator.integers(0, 50, 40)
    assert metrics.novelty(np.arange(40)[None], counts)[0] > np.log2(40)
    assert metrics.novelty(np.arange(40)[None], np.full(40, 9))[0] == pytest.approx(np.log2(40))


def test_popularity_percentile_by_hand_and_by_scipy():
    # ranks 4, 1, 2½, 2½ of 4
    np.testing.assert_allclose(
        metrics.popularity_percentile(LISTS, COUNTS), [(3.5 + 0.5 + 2) / 12, 0.5, np.nan, 2.5 / 8]
    )
    generator, lists = made()
    counts = generator.integers(0, 9, 40)
    percentile = percentileofscore(counts, counts, kind="mean") / 100
    for row, value in zip(lists, metrics.popularity_percentile(lists, counts), strict=True):
        assert value == pytest.approx(percentile[row[row >= 0]].mean())


def test_affinity_by_hand_and_unknown_users():
    users = np.array([[2.0, 0], [1, 1], [1, 0], [0, 1]])
    known = np.array([True, True, True, True])
    expected = [2 / 3, np.sqrt(0.5), np.nan, 0.5]
    np.testing.assert_allclose(metrics.affinity(LISTS, users, known, VECTORS), expected)
    known[0] = False
    assert np.isnan(metrics.affinity(LISTS, users, known, VECTORS)[0])


def test_affinity_equals_sklearns_cosines():
    generator, lists = made()
    users, vectors = generator.normal(size=(20, 5)), generator.normal(size=(40, 5))
    cosines = cosine_similarity(users, vectors)
    for at, value in enumerate(metrics.affinity(lists, users, np.ones(20, bool), vectors)):
        assert value == pytest.approx(cosines[at, lists[at][lists[at] >= 0]].mean())


def test_query_precision_counts_no_padding():
    matches = np.array([[True, False, True], [False, True, True], [True, True, True], [True, True, True]])
    np.testing.assert_allclose(metrics.query_precision(LISTS, matches), [2 / 3, 0, np.nan, 1])


def test_hits_on_liked_and_on_disliked_items_apart_by_hand():
    offsets, items = np.array([0, 3, 4, 5, 7]), np.array([0, 2, 3, 2, 1, 0, 2])
    liked = np.array([True, False, True, False, True, False, False])
    np.testing.assert_allclose(metrics.shown_recall(LISTS, offsets, items, liked), [0.5, np.nan, 0, np.nan])
    np.testing.assert_allclose(metrics.shown_recall(LISTS, offsets, items, ~liked), [1, 1, np.nan, 0])


def test_shown_recall_equals_sklearns():
    generator, lists = made()
    offsets, items = np.arange(21) * 10, np.concatenate([generator.permutation(40)[:10] for _ in range(20)])
    labels = generator.random(200) < 0.5
    for at, value in enumerate(metrics.shown_recall(lists, offsets, items, labels)):
        rows = slice(at * 10, at * 10 + 10)
        assert value == pytest.approx(recall_score(labels[rows], np.isin(items[rows], lists[at])))


def test_coverage_and_gini_by_hand():
    # item 0 once, 1 and 2 twice, 3 once; item 4 never
    assert metrics.catalogue_coverage(LISTS, 5) == 4 / 5
    assert metrics.gini(np.array([[0], [0]]), 4) == pytest.approx(3 / 4)  # one item alone: 1 − 1/N
    assert metrics.gini(np.array([[0, 1], [2, 3]]), 4) == 0
    assert np.isnan(metrics.gini(np.array([[-1]]), 4))


def test_gini_is_half_the_relative_mean_difference():
    _, lists = made()
    counts = np.bincount(lists[lists >= 0], minlength=50)
    differences = np.abs(counts[:, None] - counts[None]).mean()
    assert metrics.gini(lists, 50) == pytest.approx(differences / (2 * counts.mean()))


def test_a_flat_list_is_refused():
    with pytest.raises(ValueError, match=r"expected lists \[R, n\]"):
        metrics.diversity(np.array([1, 2]), VECTORS)

"""Metrics on hand-worked cases, and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from evaluation.metrics import entropy_from_draws, expected_hit, hits, ndcg_at_k, pad_lists, recall_at_k

LISTS = np.array([[4, 2, 9], [1, 1, 1], [7, 3, -1]])


def test_hits_by_eye():
    assert hits(LISTS, np.array([9, 1, 3])).tolist() == [1.0, 1.0, 1.0]
    assert hits(LISTS, np.array([5, 2, 7])).tolist() == [0.0, 0.0, 1.0]


def test_recall_looks_at_the_first_k_only():
    assert recall_at_k(LISTS, np.array([9, 1, 3]), k=2).tolist() == [0.0, 1.0, 1.0]


def test_ndcg_by_eye():
    found = ndcg_at_k(LISTS, np.array([9, 1, 8]), k=3)
    assert found == pytest.approx([1 / math.log2(4), 1.0, 0.0])
    assert ndcg_at_k(LISTS, np.array([9, 1, 8]), k=2)[0] == 0.0  # rank 3 is outside


def test_ndcg_equals_scikit_learn():
    rng = np.random.default_rng(0)
    ranked = np.stack([rng.permutation(12) for _ in range(200)])
    targets = rng.integers(0, 12, 200)
    relevance = (np.arange(12) == targets[:, None]).astype(float)
    scores = np.empty((200, 12))
    np.put_along_axis(scores, ranked, np.broadcast_to(-np.arange(12.0), (200, 12)), axis=1)
    for k in (1, 5, 12):
        ours = ndcg_at_k(ranked, targets, k)
        assert ours.mean() == pytest.approx(ndcg_score(relevance, scores, k=k), abs=1e-12)


@pytest.mark.parametrize(
    ("p", "n", "answer"), [(0.5, 2, 0.75), (0.1, 3, 0.271), (1.0, 30, 1.0), (0.0, 30, 0.0)]
)
def test_expected_hit_by_hand(p, n, answer):
    with np.errstate(divide="ignore"):
        assert expected_hit(np.log([p]), n)[0] == pytest.approx(answer, abs=1e-12)


def test_expected_hit_keeps_tiny_probabilities():
    assert expected_hit(np.log([1e-15]), 30)[0] == pytest.approx(
        3e-14, rel=1e-6
    )  # 1 − (1 − p)^30 as written: 3.3e-14


def test_expected_hit_is_the_frequency_of_hits():
    p, n, trials = np.array([0.5, 0.3, 0.15, 0.05]), 6, 40_000
    drawn = np.random.default_rng(1).choice(4, size=(trials, n), p=p)
    for item in range(4):
        seen = hits(drawn, np.full(trials, item)).mean()
        expected = expected_hit(np.log(p[[item]]), n)[0]
        assert abs(seen - expected) < 4 * math.sqrt(expected * (1 - expected) / trials)


@pytest.mark.parametrize("log_p", [float("nan"), 0.1])
def test_expected_hit_refuses_what_is_no_probability(log_p):
    with pytest.raises(ValueError, match="instance 1 has log-probability"):
        expected_hit(np.array([-1.0, log_p]), 30)


def test_entropy_estimate_is_unbiased():
    p = np.array([0.6, 0.3, 0.1])
    drawn = np.random.default_rng(2).choice(3, size=(20_000, 5), p=p)
    estimates = entropy_from_draws(np.log(p)[drawn])
    truth = -(p * np.log(p)).sum()
    assert abs(estimates.mean() - truth) < 4 * estimates.std() / math.sqrt(len(estimates))


def test_entropy_refuses_impossible_draws():
    with pytest.raises(ValueError, match="could not have been drawn"):
        entropy_from_draws(np.array([[-1.0, -np.inf]]))


def test_short_lists_are_padded_and_long_ones_cut():
    assert pad_lists([np.array([3]), np.array([5, 6, 7])], 2).tolist() == [[3, -1], [5, 6]]


def test_padding_is_never_a_hit():
    with pytest.raises(ValueError, match="negative"):
        hits(LISTS, np.array([9, 1, -1]))

"""E2P over time: alignment undoes a rotation exactly, and without it a planted world is lost."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ortho_group

from llm.streams.drift import align, cosine_distance
from recsys.embeddings.retrieval import retrieval_hits
from recsys.embeddings.user_vectors import HistoryVectors
from recsys.recommender import Request


def test_procrustes_undoes_a_rotation_exactly_whatever_the_rows_lengths():
    generator = np.random.default_rng(0)
    old = generator.normal(size=(50, 8)).astype(np.float32)
    turned = ortho_group.rvs(8, random_state=1)
    new = (old @ turned).astype(np.float32) * generator.uniform(0.1, 9, (50, 1)).astype(np.float32)
    new[:5], old[5:10] = 0, 0  # items that one of the spaces lacks count for nothing
    back = align(new, old)
    np.testing.assert_allclose(back, turned.T, atol=1e-5)
    np.testing.assert_allclose(back @ back.T, np.eye(8), atol=1e-5)
    with pytest.raises(ValueError, match="no item in common"):
        align(np.zeros((3, 2)), np.ones((3, 2)))


def test_a_rotated_space_hurts_in_a_planted_world_and_alignment_heals_it():
    """Items near their taste's direction: a user's vector finds the taste, a rotated one does not, an aligned one does."""
    generator = np.random.default_rng(0)
    tastes = np.eye(6)[np.arange(60) % 6]
    items = (tastes + 0.05 * generator.normal(size=(60, 6))).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    requests = [Request(f"r{u}", u, 9, np.arange(u % 6, 30, 6), np.arange(5)) for u in range(30)]
    targets = 30 + np.arange(30)  # the same taste, not in the history
    rotated = items @ ortho_group.rvs(6, random_state=3).astype(np.float32)
    rates = {}
    for name, messages in {
        "old": items,
        "rotated": rotated,
        "aligned": rotated @ align(rotated, items),
    }.items():
        vectors, _ = HistoryVectors(messages, None, name).vectors(requests)
        rates[name] = retrieval_hits(vectors, items, requests, targets, 10).mean()
    assert rates["old"] == rates["aligned"] == 1.0
    assert rates["rotated"] < 0.6


def test_cosine_distance_by_hand():
    a, b = np.array([[1.0, 0], [1, 0], [2, 0]]), np.array([[0, 3.0], [5, 0], [-1, 0]])
    assert cosine_distance(a, b).tolist() == [1, 0, 2]

"""t-SNE of users' vectors: finite, alike beside alike."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.projection import tsne_places


@pytest.mark.parametrize("vectors", [np.zeros((5, 3)), np.ones((4, 1)), np.eye(6)])
def test_tsne_of_odd_vectors_is_finite(vectors):
    assert np.isfinite(tsne_places(vectors, 0)).all()


def test_tsne_keeps_two_tastes_apart():
    rng = np.random.default_rng(0)
    side = np.repeat([1.0, -1.0], 20)
    places = tsne_places(side[:, None] * np.array([1.0, 2.0, -1.0]) + 0.05 * rng.normal(size=(40, 3)), 0)
    apart = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(40)
    assert (side[apart.argmin(axis=1)] == side).all()


@pytest.mark.parametrize("users", [0, 1, 3])
def test_too_few_have_no_neighbourhoods(users):
    assert tsne_places(np.ones((users, 3))).tolist() == [[0.0, 0.0]] * users

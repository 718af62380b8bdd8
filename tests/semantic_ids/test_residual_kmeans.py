"""Residual k-means: recovers planted codes, agrees with scikit-learn, decodes what it encodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from semantic_ids.quantizer import ResidualKMeans, kmeans, residual_codes

NOWHERE = Path("unused")


def planted(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors that are one of 4 far centres plus one of 3 near offsets, and the two numbers."""
    rng = np.random.default_rng(seed)
    far, near = 10 * np.eye(6)[:4], np.eye(6)[[4, 5]]
    near = np.concatenate([near, -near.sum(0, keepdims=True)])
    labels = np.stack([rng.integers(0, 4, n), rng.integers(0, 3, n)], axis=1)
    return (far[labels[:, 0]] + near[labels[:, 1]]).astype(np.float32), labels


def test_planted_levels_are_found():
    vectors, labels = planted()
    quantizer = ResidualKMeans(6, (4, 3))
    errors = quantizer.fit(vectors, NOWHERE, seed=0)["relative_error_by_level"]
    codes = quantizer.encode(vectors)
    assert errors[1] < 1e-3 < errors[0]
    for level in range(2):  # the same partition, whatever the codes are called
        pairs = {(a, b) for a, b in zip(codes[:, level].tolist(), labels[:, level].tolist(), strict=True)}
        assert len(pairs) == quantizer.sizes[level]
    np.testing.assert_allclose(quantizer.decode(codes), vectors, atol=0.1)


def test_residual_codes_by_hand():
    """z = (1.1, 0.4): level 1 {(0,0), (1,0)} takes (1,0); what is left, (.1, .4), is nearest to (0, .5)."""
    books = [torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.5, 0.0], [0.0, 0.5], [0.0, -0.5]])]
    assert residual_codes(torch.tensor([[1.1, 0.4], [0.4, -0.4]]), books).tolist() == [[1, 1], [0, 0]]


def test_residual_codes_against_a_plain_loop():
    rng = np.random.default_rng(1)
    z, books = rng.normal(size=(40, 5)), [rng.normal(size=(7, 5)), rng.normal(size=(3, 5))]
    slow = []
    for row in z:
        codes, rest = [], row.copy()
        for book in books:
            codes.append(int(((rest - book) ** 2).sum(1).argmin()))
            rest = rest - book[codes[-1]]
        slow.append(codes)
    found = residual_codes(torch.tensor(z), [torch.tensor(book) for book in books])
    assert found.tolist() == slow


def test_first_level_is_as_good_as_scikit_learn():
    vectors = np.random.default_rng(2).normal(size=(400, 8)).astype(np.float32)
    ours = kmeans(vectors, 10, seed=0)
    inertia = ((vectors[:, None] - ours) ** 2).sum(-1).min(1).sum()
    assert inertia < 1.03 * KMeans(10, n_init=3, random_state=0).fit(vectors).inertia_


def test_each_level_lowers_the_error_and_the_fit_repeats():
    vectors = np.random.default_rng(3).normal(size=(300, 8)).astype(np.float32)
    first, second = ResidualKMeans(8, (8, 8, 8)), ResidualKMeans(8, (8, 8, 8))
    errors = first.fit(vectors, NOWHERE, seed=5)["relative_error_by_level"]
    second.fit(vectors, NOWHERE, seed=5)
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 1
    assert all(torch.equal(a, b) for a, b in zip(first.codebooks, second.codebooks, strict=True))
    measured = ((vectors - first.decode(first.encode(vectors))) ** 2).sum() / (
        (vectors - vectors.mean(0)) ** 2
    ).sum()
    assert errors[-1] == pytest.approx(measured, rel=1e-4)


def test_too_few_vectors_and_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="8 codes from 5 vectors"):
        ResidualKMeans(2, (8,)).fit(np.zeros((5, 2), np.float32), NOWHERE, seed=0)
    with pytest.raises(ValueError, match=r"\[n, 2\]"):
        ResidualKMeans(2, (2,)).encode(np.zeros((5, 3), np.float32))
    with pytest.raises(ValueError, match="sizes"):
        ResidualKMeans(2, ())
    with pytest.raises(ValueError, match=r"1\.\.1"):
        ResidualKMeans(2, (2,)).decode(np.zeros((5, 2), np.int64))


def test_identical_vectors_are_coded_alike():
    vectors = np.ones((20, 3), np.float32)
    quantizer = ResidualKMeans(3, (4, 4))
    quantizer.fit(vectors, NOWHERE, seed=0)
    codes = quantizer.encode(vectors)
    assert len(np.unique(codes, axis=0)) == 1
    np.testing.assert_allclose(quantizer.decode(codes), vectors, atol=0.01)

"""A new embedding space is turned back onto the run's, and another model is refused."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.embeddings.retrieval import unit_rows
from serving.refresh.spaces import align


def rows(n: int = 200, d: int = 8, seed: int = 0) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32))


def turned(vectors: np.ndarray, seed: int = 1) -> np.ndarray:
    d = vectors.shape[1]
    return vectors @ np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0].astype(np.float32)


def test_the_same_space_is_left_as_it_is():
    found = align(3 * rows(), rows(), "v")  # lengths are not looked at
    assert found.rotation is None
    np.testing.assert_allclose(found.apply(3 * rows()), rows(), atol=1e-6)


def test_a_rotation_is_found():
    found = align(turned(rows()), rows(), "v")
    assert found.residual < 1e-5
    np.testing.assert_allclose(found.apply(turned(rows())), rows(), atol=1e-5)


def test_drift_is_what_is_left():
    noise = 0.1 * np.random.default_rng(2).normal(size=(200, 8)).astype(np.float32)
    found = align(turned(unit_rows(rows() + noise)), rows(), "v")
    assert 0.1 < found.residual < 0.4


def test_another_model_is_refused():
    with pytest.raises(ValueError, match="another model"):
        align(rows(seed=5), rows(), "v")


def test_other_widths_are_refused():
    with pytest.raises(ValueError, match="6 dimensions and the run's 8"):
        align(rows(d=6), rows(), "v")


def test_too_few_shared_vectors_are_refused():
    with pytest.raises(ValueError, match="share 10 vectors"):
        align(turned(rows())[:10], rows()[:10], "v")


def test_rows_of_zeros_say_nothing():
    today = turned(rows())
    today[:20] = 0
    assert align(today, rows(), "v").shared == 180

"""Vectors of users as places in a plane, for the report's picture: t-SNE (van der Maaten and Hinton 2008)."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits  # comes with scikit-learn

MIN_TSNE_USERS = 4


def tsne_places(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """Two coordinates [U, 2] for vectors [U, d]; zeros for fewer than four, who have no neighbourhoods to show. Rows are scaled to length 1: it is their direction that carries the taste."""
    if len(vectors) < MIN_TSNE_USERS:
        return np.zeros((len(vectors), 2))
    from sklearn.manifold import TSNE

    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norms > 0, norms, 1.0)
    spread = min(unit.shape) >= 2 and np.ptp(unit) > 0
    perplexity = min(30.0, (len(unit) - 1) / 3)
    model = TSNE(
        2, perplexity=perplexity, init="pca" if spread else "random", random_state=seed, max_iter=500
    )
    with threadpool_limits(1):  # on a busy machine its many small barriers cost 100 times the work
        return model.fit_transform(unit.astype(np.float32))

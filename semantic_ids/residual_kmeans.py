"""Residual k-means: k-means on the vectors, then on what is left of them, level by level.

No network and no gradient: the latent space is the vectors' own. Seconds for a million vectors, and a strong
baseline for RQ-VAE.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recsys.seeds import derive
from semantic_ids.quantizer import Quantizer, kmeans, residual_codes


class ResidualKMeans(Quantizer):
    """Greedy residual quantisation with codebooks [sizes[l], dim] in the vectors' own space."""

    def __init__(self, dim: int, sizes: Sequence[int]):
        super().__init__(dim, sizes)
        for level, size in enumerate(self.sizes):
            self.register_buffer(f"codebook_{level}", torch.zeros(size, dim))

    @property
    def codebooks(self) -> list[Tensor]:
        return [self.get_buffer(f"codebook_{level}") for level in range(len(self.sizes))]

    def latent(self, vectors: Tensor) -> Tensor:
        return vectors

    def from_latent(self, latent: Tensor) -> Tensor:
        return latent

    def fit(self, vectors: np.ndarray, checkpoint: Path, seed: int, quiet: bool = False) -> dict:
        """See `Quantizer.fit`; nothing to resume. Curves: relative squared error left after each level."""
        rest = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
        total = float((rest - rest.mean(0)).square().sum())
        errors = []
        for level, codebook in enumerate(self.codebooks):
            means = kmeans(rest.numpy(), self.sizes[level], derive(seed, "kmeans", level))
            codebook.copy_(torch.from_numpy(means))
            rest = rest - codebook[residual_codes(rest, [codebook])[:, 0]]
            errors.append(float(rest.square().sum()) / total if total > 0 else 0.0)
        return {"relative_error_by_level": errors}

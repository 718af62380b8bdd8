"""What every residual quantizer here answers, the two pieces that they share (k-means, residual codes), and residual k-means itself.

A vector x goes into a latent space, z = latent(x), and is written there as a sum of one codebook vector a
level, z ≈ e¹[c₁] + … + eᴸ[c_L], each level coding what the levels before it left over (Lee et al., arXiv
2203.01941, eq. 2–3). Everything that coding depends on is in the state dict, so a reloaded quantizer codes
identically.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import faiss
import numpy as np
import torch
from torch import Tensor, nn

from recsys.seeds import derive

CHUNK = 2048  # rows coded at once: their distances stay in the cache


class Quantizer(nn.Module, ABC):
    """Vectors [n, dim] float32 ↔ codes [n, L] int64, code l in `[0, sizes[l])`."""

    def __init__(self, dim: int, sizes: Sequence[int]):
        super().__init__()
        self.dim, self.sizes = int(dim), tuple(int(size) for size in sizes)
        if self.dim < 1 or not self.sizes or min(self.sizes) < 1:
            raise ValueError(
                f"a quantizer needs a dimension and sizes of at least 1, got {dim} and {self.sizes}"
            )

    @property
    @abstractmethod
    def codebooks(self) -> list[Tensor]:
        """Per level the code vectors [sizes[l], d] in the latent space."""

    @abstractmethod
    def latent(self, vectors: Tensor) -> Tensor:
        """[n, dim] → [n, d], the space in which the residuals are taken."""

    @abstractmethod
    def from_latent(self, latent: Tensor) -> Tensor:
        """[n, d] → [n, dim]."""

    @abstractmethod
    def fit(self, vectors: np.ndarray, checkpoint: Path, seed: int, quiet: bool = False) -> dict:
        """Learn from `vectors` [N, dim], resuming from the folder `checkpoint`; returns curves to report."""

    @torch.no_grad()
    def latent_of(self, vectors: np.ndarray) -> Tensor:
        """`latent` of an array, chunk by chunk."""
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise ValueError(f"the quantizer takes vectors [n, {self.dim}], got shape {vectors.shape}")
        self.eval()
        rows = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
        return torch.cat([self.latent(chunk) for chunk in rows.split(CHUNK)])

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Codes [n, L] of `vectors` [n, dim]."""
        return residual_codes(self.latent_of(vectors), self.codebooks).numpy()

    @torch.no_grad()
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Vectors [n, dim] of `codes` [n, l]; with l < L the coarse vectors of the first l levels."""
        if codes.ndim != 2 or not 1 <= codes.shape[1] <= len(self.sizes):
            raise ValueError(f"codes must be [n, 1..{len(self.sizes)}], got shape {codes.shape}")
        self.eval()
        chunks = torch.from_numpy(np.asarray(codes, dtype=np.int64)).split(CHUNK)
        return torch.cat([self.from_latent(sum_of_codes(chunk, self.codebooks)) for chunk in chunks]).numpy()


@torch.no_grad()
def nearest(rows: Tensor, codebook: Tensor) -> Tensor:
    """Index [n] of the codebook vector [K, d] nearest to each row [n, d]; the lowest one where they tie."""
    norms = codebook.square().sum(1)
    position = torch.arange(len(codebook), dtype=rows.dtype, device=rows.device)
    found = [_nearest(part, codebook, norms, position) for part in rows.split(CHUNK)]
    return found[0] if len(found) == 1 else torch.cat(found)


def _nearest(rows: Tensor, codebook: Tensor, norms: Tensor, position: Tensor) -> Tensor:
    """‖x − e‖² less ‖x‖²; a row's least becomes 0, any other far above K, and with the position added the
    least of them is the position: passes that vectorise, where torch's argmin on CPU does not (2.7 times as
    long).
    """
    distance = torch.addmm(norms, rows, codebook.T, alpha=-2)
    distance.sub_(distance.amin(1, keepdim=True))
    torch.add(position, distance, alpha=1e30, out=distance)
    return distance.amin(1).long().clamp_(min=0)  # a row that is not a number gets code 0: the loss will tell


@torch.no_grad()
def residual_codes(latent: Tensor, codebooks: Sequence[Tensor]) -> Tensor:
    """Greedy residual codes [n, L] of `latent` [n, d]: nearest code, subtract it, next level."""
    codes = []
    for rest in latent.split(CHUNK):
        chunk = []
        for codebook in codebooks:
            chunk.append(nearest(rest, codebook))
            rest = rest - codebook[chunk[-1]]
        codes.append(torch.stack(chunk, dim=1))
    return torch.cat(codes)


def sum_of_codes(codes: Tensor, codebooks: Sequence[Tensor]) -> Tensor:
    """Σ_l e^l[c_l] over the levels that `codes` [n, l] has, [n, d]."""
    return torch.stack([codebooks[level][codes[:, level]] for level in range(codes.shape[1])]).sum(0)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch and FAISS on one thread: the same bits whatever the number of cores.

    It is also faster where cores are shared: on 2 busy ones FAISS's k-means of 50,000 × 64 vectors took 9.7 s
    with two threads, which wait for each other, and 1.7 s with one.
    """
    threads = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads[0])
        faiss.omp_set_num_threads(threads[1])


def kmeans(rows: np.ndarray, size: int, seed: int, tries: int = 3, steps: int = 25) -> np.ndarray:
    """Centroids [size, d] of `rows` [n ≥ size, d] by FAISS: k-means++ start, the best of `tries`.

    Over 20,000 rows one try has to do. At most 256 rows a centroid are looked at (a seeded sample), so a
    million rows take no longer than 64 Ki.
    """
    if len(rows) < size:
        raise ValueError(
            f"k-means cannot make {size} codes from {len(rows)} vectors; use smaller level sizes"
        )
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    means = faiss.Kmeans(
        rows.shape[1],
        size,
        niter=steps,
        nredo=tries if len(rows) <= 20_000 else 1,
        seed=seed % 2**31,
        min_points_per_centroid=1,
        max_points_per_centroid=256,
    )
    means.cp.init_method = faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS
    with one_thread():
        means.train(rows)
    assert means.centroids is not None
    return means.centroids.reshape(size, -1).copy()


class ResidualKMeans(Quantizer):
    """Residual k-means: greedy residual quantisation with codebooks [sizes[l], dim] in the vectors' own space.

    No network and no gradient. Seconds for a million vectors, and a strong baseline for RQ-VAE.
    """

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

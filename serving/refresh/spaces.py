"""A new embedding space laid onto the one that the run was trained in: orthogonal Procrustes (Schönemann 1966) on what both have.

    R = argmin ‖ A R − B ‖_F  over orthogonal R,      residual = ‖ A R − B ‖_F / ‖ B ‖_F

A are today's vectors of what both know, B the run's, both of unit rows. A model that was trained anew has turned, and a rotation brings
it back; what the residual leaves is what it has learned since, or that it is another model altogether, which is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.embeddings.retrieval import unit_rows

BOUND = 0.7  # of the residual; two unrelated spaces of d dimensions and n ≫ d shared rows are near √2 apart
SAME = 1e-5  # largest difference of vectors that are the same but for how they were written down
LEAST_SHARED = 2  # times the dimensions: fewer rows fit any rotation


@dataclass(frozen=True)
class Alignment:
    """`rotation` [d, d], or None: the space is the same; `residual`, of how many `shared` rows."""

    rotation: np.ndarray | None
    residual: float
    shared: int

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Today's vectors [n, d] in the run's space, unit rows (float32)."""
        vectors = unit_rows(vectors)
        return vectors if self.rotation is None else (vectors @ self.rotation).astype(np.float32)

    def told(self) -> str:
        how = "the space is the same" if self.rotation is None else "aligned by a rotation"
        return f"{how}; residual {self.residual:.3f} over {self.shared:,} shared vectors"


def align(today: np.ndarray, before: np.ndarray, what: str, bound: float = BOUND) -> Alignment:
    """Of shared vectors [n, d] each, row by row of the same item or user.

    Raises `ValueError` for other dimensions, for too few shared rows, and for a residual above `bound`.
    """
    from scipy.linalg import orthogonal_procrustes

    if today.shape[1] != before.shape[1]:
        raise ValueError(
            f"{what} have {today.shape[1]} dimensions and the run's {before.shape[1]}: it was trained on vectors of that width"
        )
    a, b = (unit_rows(np.asarray(side, np.float32)) for side in (today, before))
    some = (np.abs(a).sum(1) > 0) & (np.abs(b).sum(1) > 0)
    a, b = a[some], b[some]
    norm = max(float(np.linalg.norm(b)), 1e-12)
    plain = float(np.linalg.norm(a - b)) / norm
    if len(a) and float(np.abs(a - b).max()) <= SAME:
        return Alignment(None, plain, len(a))
    if len(a) < LEAST_SHARED * a.shape[1]:
        raise ValueError(
            f"{what} share {len(a)} vectors with the run's, too few to tell how a space of {a.shape[1]} dimensions has turned; "
            f"bring the vectors of at least {LEAST_SHARED * a.shape[1]} that the run knows"
        )
    rotation, _ = orthogonal_procrustes(a.astype(np.float64), b.astype(np.float64))
    residual = float(np.linalg.norm(a @ rotation - b)) / norm
    if residual > bound:
        raise ValueError(
            f"{what}: after the best rotation they differ from the run's by {residual:.3f} (at most {bound:g}; unrelated spaces: about "
            "1.4), so they are of another model than the run was trained with: train the run on them, or raise --most-residual"
        )
    return Alignment(rotation, residual, len(a))

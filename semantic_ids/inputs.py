"""From the embed stage's vectors to what the quantizer reads: blocks centred, scaled, joined."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from semantic_ids.config import Source


@dataclass(frozen=True)
class Block:
    """An affine map of one kind of vector, fitted so that the image has mean 0 and total variance 1.

    rows [n, d] ↦ ((rows − mean) · basis) · scale, [n, k]; `basis` [d, k] holds principal axes, or is the
    identity.
    """

    mean: np.ndarray
    basis: np.ndarray
    scale: float

    @classmethod
    def fit(cls, rows: np.ndarray, dims: int | None = None) -> Block:
        """Fit to `rows` [n, d]; with `dims` < d keep that many principal axes."""
        mean = rows.mean(axis=0, dtype=np.float64)
        covariance = (rows.T @ rows).astype(np.float64) / len(rows) - np.outer(mean, mean)
        basis, variance = np.eye(len(mean)), np.diag(covariance)
        if dims is not None and dims < len(mean):
            variance, axes = np.linalg.eigh(covariance)
            variance, axes = variance[::-1][:dims], axes[:, ::-1][:, :dims]
            basis = axes * np.where(axes[np.abs(axes).argmax(0), np.arange(dims)] < 0, -1.0, 1.0)  # one sign
        total = float(variance.clip(min=0).sum())
        scale = 1 / np.sqrt(total) if total > 1e-12 else 1.0
        return cls(mean.astype(np.float32), basis.astype(np.float32), scale)

    def apply(self, rows: np.ndarray) -> np.ndarray:
        return ((rows - self.mean) @ self.basis) * np.float32(self.scale)


@dataclass(frozen=True)
class InputSpace:
    """The quantizer's input: [collaborative block ; w · text block], of mean variance 1 a dimension.

    With blocks of total variance 1, `text_weight` w says directly how much text counts: its share of the
    squared distance between two items is w² / (1 + w²) on average.
    """

    collaborative: Block | None
    text: Block | None
    text_weight: float

    @classmethod
    def fit(
        cls,
        source: Source,
        collaborative: np.ndarray,
        has: np.ndarray,
        text: np.ndarray | None,
        text_weight: float,
        text_dims: int,
    ) -> InputSpace:
        """Fit the blocks that `source` wants; the collaborative one to the items that have such a vector."""
        if source != "collaborative" and text is None:
            raise ValueError(
                f"tokenize.source is '{source}', but the embed stage made no text vectors; set "
                "embed.text_encoder (for example to minilm), or tokenize.source to collaborative"
            )
        if source != "text" and has.sum() < 2:
            raise ValueError(
                f"tokenize.source is '{source}', but {int(has.sum())} items have a collaborative vector; "
                "set tokenize.source to text, or bring embed.item_embeddings"
            )
        return cls(
            None if source == "text" else Block.fit(collaborative[has]),
            None if source == "collaborative" or text is None else Block.fit(text, text_dims),
            text_weight,
        )

    @property
    def dim(self) -> int:
        return sum(block.basis.shape[1] for block in (self.collaborative, self.text) if block)

    def apply(self, collaborative: np.ndarray | None, text: np.ndarray | None) -> np.ndarray:
        """Input vectors [n, dim], float32; a part that this space does not use may be None."""
        parts, total = [], 0.0
        if self.collaborative:
            assert collaborative is not None
            parts.append(self.collaborative.apply(collaborative))
            total += 1
        if self.text:
            assert text is not None
            weight = self.text_weight if self.collaborative else 1.0
            parts.append(weight * self.text.apply(text))
            total += weight**2
        return (np.concatenate(parts, axis=1) * np.sqrt(self.dim / total)).astype(np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        """As tensors, for safetensors; `from_arrays` reads them back."""
        arrays = {"text_weight": np.array([self.text_weight])}
        for name, block in (("collaborative", self.collaborative), ("text", self.text)):
            if block:
                arrays |= {f"{name}.mean": block.mean, f"{name}.basis": np.ascontiguousarray(block.basis)}
                arrays[f"{name}.scale"] = np.array([block.scale])
        return arrays

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> InputSpace:
        blocks = {
            name: Block(arrays[f"{name}.mean"], arrays[f"{name}.basis"], float(arrays[f"{name}.scale"][0]))
            for name in ("collaborative", "text")
            if f"{name}.mean" in arrays
        }
        return cls(blocks.get("collaborative"), blocks.get("text"), float(arrays["text_weight"][0]))

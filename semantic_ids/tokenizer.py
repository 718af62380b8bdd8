"""Everything that turns an item's vectors into codes, as one thing that can be saved and loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

from recsys.run import Run
from semantic_ids.config import RQVAEConfig
from semantic_ids.inputs import InputSpace
from semantic_ids.new_items import ContentPath
from semantic_ids.quantizer import Quantizer, ResidualKMeans
from semantic_ids.rqvae import RQVAE
from semantic_ids.table import SemanticIdTable, place_new

ARTIFACTS = ("quantizer.safetensors", "quantizer.json", "inputs.safetensors")


def make_quantizer(kind: str, dim: int, sizes: Sequence[int], rqvae: RQVAEConfig) -> Quantizer:
    """An unfitted quantizer of `kind` "rqvae" or "residual_kmeans"."""
    if kind == "rqvae":
        return RQVAE(dim, sizes, rqvae)
    if kind == "residual_kmeans":
        return ResidualKMeans(dim, sizes)
    raise ValueError(f"there is no quantizer '{kind}'; use rqvae or residual_kmeans")


@dataclass(frozen=True)
class ItemTokenizer:
    """Input space, quantizer, and the content path where text vectors allow one."""

    inputs: InputSpace
    quantizer: Quantizer
    content: ContentPath | None

    def save(self, folder: Path) -> None:
        """Write `ARTIFACTS` into `folder`."""
        kind = "rqvae" if isinstance(self.quantizer, RQVAE) else "residual_kmeans"
        config = self.quantizer.config if isinstance(self.quantizer, RQVAE) else RQVAEConfig()
        facts = {
            "quantizer": kind,
            "dim": self.quantizer.dim,
            "sizes": list(self.quantizer.sizes),
            "rqvae": config.model_dump(mode="json") if kind == "rqvae" else None,
        }
        state = {name: tensor.contiguous() for name, tensor in self.quantizer.state_dict().items()}
        save_tensors(state, str(folder / "quantizer.safetensors"))
        (folder / "quantizer.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        arrays = self.inputs.arrays()
        if self.content:
            arrays |= {"content.weights": self.content.weights, "content.bias": self.content.bias}
            arrays["content.alpha"] = np.array([self.content.alpha])
        save_file(arrays, folder / "inputs.safetensors")

    @classmethod
    def load(cls, folder: Path) -> ItemTokenizer:
        facts = json.loads((folder / "quantizer.json").read_text(encoding="utf-8"))
        config = RQVAEConfig(**(facts["rqvae"] or {}))
        quantizer = make_quantizer(facts["quantizer"], facts["dim"], facts["sizes"], config)
        quantizer.load_state_dict(load_tensors(str(folder / "quantizer.safetensors")))
        arrays = load_file(folder / "inputs.safetensors")
        content = None
        if "content.weights" in arrays:
            alpha = float(arrays["content.alpha"][0])
            content = ContentPath(arrays["content.weights"], arrays["content.bias"], alpha)
        return cls(InputSpace.from_arrays(arrays), quantizer.eval(), content)

    def read(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        """Input vectors [N, dim] of the items of stage embed (`recsys.embeddings.embed.load_item_vectors`)."""
        has, text = arrays["has_collaborative"].astype(bool), arrays.get("text")
        return self.inputs.apply(without_gaps(arrays["collaborative"], has, text, self.content), text)

    def new_item_vectors(self, text: np.ndarray) -> np.ndarray:
        """Input vectors [n, dim] of items known by their text vectors [n, e] only.

        Raises `ValueError` when the run was made without text vectors.
        """
        if self.inputs.collaborative is not None and self.content is None:
            raise ValueError(
                "new items get semantic IDs from their text, but this run has no text vectors; "
                "set embed.text_encoder (for example to minilm) and run embed and tokenize again"
            )
        return self.inputs.apply(self.content.predict(text) if self.content else None, text)

    def add_items(self, table: SemanticIdTable, text: np.ndarray) -> SemanticIdTable:
        """`table` with one more item for each row of `text` [n, e], numbered from `table.n_items` on."""
        latent = self.quantizer.latent_of(self.new_item_vectors(text))
        return table.extended(place_new(table, latent, self.quantizer.codebooks))


def without_gaps(
    collaborative: np.ndarray, has: np.ndarray, text: np.ndarray | None, content: ContentPath | None
) -> np.ndarray:
    """Collaborative vectors, missing ones told from the item's text, or else the mean of the known ones."""
    if has.all() or not has.any():
        return collaborative
    filled = collaborative.copy()
    filled[~has] = content.predict(text[~has]) if content and text is not None else collaborative[has].mean(0)
    return filled


def load_table(run: Run) -> SemanticIdTable:
    """The semantic IDs of a run, their hashes checked."""
    run.artifact("tokenize", "semantic_ids.json")
    return SemanticIdTable.load(run.artifact("tokenize", "semantic_ids.safetensors").parent)


def load_tokenizer(run: Run) -> ItemTokenizer:
    """The quantizer of a run and what stands before it, their hashes checked."""
    return ItemTokenizer.load({run.artifact("tokenize", name).parent for name in ARTIFACTS}.pop())

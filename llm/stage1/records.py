"""What P_q attends over: one frozen vector per item, made once, kept on disk, read through a memory map.

A record's vector is the mean of the frozen input embeddings of its tokens: its text and its semantic ID
(TAP-PER, 2.2). All of a history's records are rows of this one table, so histories of any length cost memory
only while a batch is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from llm.backbone.sid_model import SidModel
from llm.prompts.builder import PromptBuilder

TEXT_TOKENS = 32  # of an item's text; titles and attributes come first
NAME = "records.safetensors"


@torch.no_grad()
def write_record_vectors(path: Path, model: SidModel, builder: PromptBuilder, chunk: int = 4096) -> None:
    """Write `records` [N, h] (float32) chunk by chunk; the table is never in memory whole."""
    texts, shape = builder.catalogue.texts(), (len(builder.item_tokens), model.hidden_size)
    header = {
        "records": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * shape[0] * shape[1]]},
        "__metadata__": {"made_of": f"text ({TEXT_TOKENS} tokens) and semantic ID"},
    }
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # the format wants the data at a multiple of eight
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for start in range(0, shape[0], chunk):
            rows = range(start, min(start + chunk, shape[0]))
            tokens = [
                builder.encode(texts[item])[:TEXT_TOKENS] + builder.item_tokens[item].tolist()
                for item in rows
            ]
            file.write(mean_embedding(model, tokens).cpu().numpy().astype("<f4").tobytes())
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def mean_embedding(model: SidModel, sequences: list[list[int]]) -> torch.Tensor:
    """Mean input embedding [n, h] (float32) of token sequences; zeros for an empty one."""
    packed = model.pack(sequences)
    embedded = model.embed(packed, None).float()
    lengths = packed.layout.lengths.clamp(min=1)[:, None]
    return packed.layout.spread(embedded).sum(1) / lengths


class BackboneEncoder:
    """Texts as means of the backbone's frozen input embeddings of their first `tokens` tokens;
    called, scaled to unit length.
    """

    def __init__(self, model: SidModel, tokens: int = TEXT_TOKENS):
        self._model, self._tokens = model, tokens

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors [n, h]."""
        return torch.nn.functional.normalize(self.means(texts), dim=1).cpu().numpy()

    @torch.no_grad()
    def means(self, texts: Sequence[str], chunk: int = 256) -> torch.Tensor:
        """Mean embeddings [n, h] (float32)."""
        made = []
        for start in range(0, len(texts), chunk):
            tokens = [self._model.encode(text)[: self._tokens] for text in texts[start : start + chunk]]
            made.append(mean_embedding(self._model, tokens))
        return torch.cat(made)


def open_record_vectors(path: Path) -> torch.Tensor:
    """`records` [N, h], backed by the file: pages are read when they are used."""
    with safe_open(str(path), framework="pt") as file:
        return file.get_tensor("records")

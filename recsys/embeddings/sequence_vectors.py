"""A trained SASRec as user vectors of a moment, and as a recommender."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from recsys.embeddings.retrieval import EmbeddingRetrieval, IndexKind
from recsys.embeddings.sasrec import SasRec, SasRecConfig
from recsys.embeddings.sequences import cheapest_cuts, padded
from recsys.recommender import Request
from recsys.training.devices import resolve_device

CHUNK = 1024  # histories read at once
TABLE = "item_table"  # in the file: the item vectors that were learned, the texts' part in them


class SequenceVectors:
    """u(t) = SASRec's last state over the items before t; no event before t: a zero row and `known=False`.

    `items` [N, d] are the output vectors of the same space. With `unit_length` user vectors have length 1, as
    LightGCN's have (what reads them expects one scale); without, u(t) · items are the logits of the model's
    own distribution.
    """

    def __init__(self, model: SasRec, items: torch.Tensor, space: str, unit_length: bool):
        self.model, self.space, self.unit_length = model.eval(), space, unit_length
        self.dim, self._table = model.config.dim, items
        self.items = model.outputs(items).cpu().numpy()

    def vectors(self, requests: Sequence[Request]) -> tuple[np.ndarray, np.ndarray]:
        return self.of_histories([request.history for request in requests])

    @torch.no_grad()
    def of_histories(self, histories: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Item histories, oldest first -> vectors [R, d] and known [R].

        A CPU reads those of like lengths together, so a vector's last bits depend on who is asked beside it.
        """
        result = np.zeros((len(histories), self.dim), np.float32)
        counts = np.fromiter(map(len, histories), np.int64, len(histories))
        known, device = counts > 0, self._table.device
        for some in self._pieces(np.flatnonzero(known), counts):
            items, lengths = padded([histories[row] for row in some], self.model.config.max_items)
            queries = self.model.last_queries(
                self._table, torch.from_numpy(items).to(device), torch.from_numpy(lengths).to(device)
            )
            if self.unit_length:
                queries = torch.nn.functional.normalize(queries, dim=-1)
            result[some] = queries.float().cpu().numpy()
        return result, known

    def _pieces(self, rows: np.ndarray, counts: np.ndarray) -> Iterator[np.ndarray]:
        """`rows` as they are read together: `CHUNK` at most, and on a CPU with as little padding as pays."""
        for start in range(0, len(rows), CHUNK):
            some = rows[start : start + CHUNK]
            if self._table.device.type != "cpu":
                yield some
                continue
            read = np.minimum(counts[some], self.model.config.max_items)
            order = np.argsort(-read, kind="stable")
            yield from np.split(some[order], cheapest_cuts(read[order]))


class SasRecRetrieval(EmbeddingRetrieval):
    """`Recommender` by the logits of a SASRec (`users` without unit length).
    Without a history: popularity.
    """

    name = "SASRec"

    def __init__(self, users: SequenceVectors, fallback: np.ndarray, kind: IndexKind = "auto"):
        super().__init__(users, users.items, fallback, kind)


def save_sasrec(model: SasRec, folder: Path, name: str) -> None:
    """Write `name.safetensors` (what reading needs: no free rows, no projection) and `name.json`
    (its settings).
    """
    state = {key: value for key, value in model.state_dict().items() if key not in ("free", "project.weight")}
    state[TABLE] = model.item_table()
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    # what only the sampled or chunked loss reads is not said of the whole softmax
    unread = {"loss", "negatives", "negatives_power"} if model.config.loss == "softmax" else None
    text = json.dumps(model.config.model_dump(mode="json", exclude=unread), indent=1)
    temporary = folder / f".{name}.tmp"
    save_file(tensors, str(temporary))
    os.replace(temporary, folder / f"{name}.safetensors")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, folder / f"{name}.json")


def load_sequence_vectors(weights: Path, settings: Path, space: str, unit_length: bool) -> SequenceVectors:
    """What `save_sasrec` wrote, on the device that the settings name (auto: a GPU where there is one)."""
    values = json.loads(settings.read_text(encoding="utf-8"))
    config = SasRecConfig.model_validate(values | {"text": False})  # the texts are in the table already
    tensors = load_file(str(weights))
    device = resolve_device(config.device if config.device == "cpu" else "auto")
    table = tensors.pop(TABLE)
    model = SasRec(len(table), config, seed=0)
    model.load_state_dict(tensors | {"free": table})
    model = model.to(device).eval().requires_grad_(False)
    return SequenceVectors(model, model.item_table(), space, unit_length)

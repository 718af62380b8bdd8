"""SASRec with softmax cross-entropy over the whole catalogue, and its training.

Kang & McAuley 2018, arXiv 1808.09781:

    e_t = LayerNorm(item_t + position_t)
    a   = LayerNorm(x + Attention(x)),  x' = LayerNorm(a + W2 gelu(W1 a))         causal, `layers` times
    p(next item | items up to t) = softmax_i(x_t · item_i)

The paper samples one negative a position and takes binary cross-entropy. Klenitskiy & Vasilev 2023 (arXiv
2309.07602, "Turning Dross Into Gold Loss") showed that cross-entropy over all items is what makes SASRec
strong; that loss is here, at every position. Other departures: normalisation behind each part and a GELU
layer four times as wide, as in BERT4Rec and RecBole; positions are counted from the end, so that a history
cut to `max_items` reads as one that was always short; and, with `text`, an item's vector (in and out) is its
free row plus one learned projection of its text vector, which is what a rare item has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from recsys.embeddings.config import SasRecConfig
from recsys.embeddings.retrieval import rows_at_once
from recsys.embeddings.sequences import Batches, Piece, padded
from recsys.recommender import Request
from recsys.seeds import torch_draws, torch_generator
from recsys.training import loop
from recsys.training.catalogue_softmax import Negatives, sampled_softmax_losses, softmax_loss
from recsys.training.devices import resolve_device
from recsys.training.row_adam import RowAdam

START_STD = 0.02  # of every matrix at the start, as in BERT
CPU_PIECES = 4  # lengths in which a CPU reads a batch
CHUNK = 1024  # requests ranked at once at most: 1,024 × 12,000 items of float32 are 50 MB


class Block(nn.Module):
    """One causal block: attention and a feed-forward part, each with dropout, a residual and a norm behind it."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.widen, self.narrow = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.attention_norm, self.forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, d] -> [B, T, d]; position t reads positions up to t."""
        x = self.attention_norm(x + self.dropout(self.out(self.attention(x))))
        return self.forward_norm(x + self.dropout(self.narrow(functional.gelu(self.widen(x)))))

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        """softmax(q kᵀ / sqrt(d / heads)) v of each head, side by side: [B, T, d]."""
        rows, length, dim = x.shape
        q, k, v = self.qkv(x).view(rows, length, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        rate = self.rate if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)
        return mixed.transpose(1, 2).reshape(rows, length, dim)


class SasRec(nn.Module):
    """The network. `text` [N, e] is needed with `config.text`, and is not part of what is learned."""

    text: torch.Tensor | None

    def __init__(self, n_items: int, config: SasRecConfig, seed: int, text: np.ndarray | None = None):
        super().__init__()
        if config.text and text is None:
            raise ValueError(
                "sasrec.text needs text vectors of the items; set embed.text_encoder, or sasrec.text to false"
            )
        self.config, dim = config, config.dim
        self.free = nn.Parameter(torch.empty(n_items, dim))
        self.position = nn.Parameter(torch.empty(config.max_items, dim))  # 0 is the last item read
        self.norm, self.dropout = nn.LayerNorm(dim), nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(dim, config.heads, config.dropout) for _ in range(config.layers))
        self.register_buffer("text", None, persistent=False)
        if config.text and text is not None:
            self.text = torch.from_numpy(text - text.mean(0))  # what all texts share says nothing of any
            self.project = nn.Linear(text.shape[1], dim, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=START_STD, generator=torch_generator(seed, "sasrec", name))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def item_table(self) -> torch.Tensor:
        """Item vectors [N, d], read and scored against alike."""
        return self.free if self.text is None else self.free + self.project(self.text)

    def item_rows(self, items: torch.Tensor) -> torch.Tensor:
        """`item_table()[items]` [n, d] from those rows alone, with a sparse gradient of the free ones."""
        rows = functional.embedding(items, self.free, sparse=True)
        return rows if self.text is None else rows + self.project(self.text.index_select(0, items))

    def forward(self, table: torch.Tensor, items: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """States [B, T, d] of `items` [B, T], rows of `table`, whose first `lengths` [B] are real (those behind mean nothing)."""
        from_end = (lengths[:, None] - 1 - torch.arange(items.shape[1], device=items.device)).clamp(min=0)
        x = functional.embedding(items, table) + functional.embedding(from_end, self.position)
        x = self.dropout(self.norm(x))
        for block in self.blocks:
            x = block(x)
        return x

    def queries(self, states: torch.Tensor) -> torch.Tensor:
        """What an item's output vector is multiplied with [n, d], such that the product is the logit."""
        temperature = self.config.temperature
        return states if temperature is None else functional.normalize(states, dim=-1) / temperature

    def outputs(self, table: torch.Tensor) -> torch.Tensor:
        """Output vectors of items [N, d]: the table, of unit length where logits are cosines."""
        return table if self.config.temperature is None else functional.normalize(table, dim=-1)

    def last_queries(self, table: torch.Tensor, items: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The query [B, d] after the last item of each history [B, T]; that of an empty one means nothing."""
        states = self(table, items, lengths)
        return self.queries(states[torch.arange(len(items), device=items.device), (lengths - 1).clamp(min=0)])


def sequence_loss(model: SasRec, batch: Sequence[Piece]) -> torch.Tensor:
    """−mean log p(next item) over all real positions of a batch, each times its weight where it has one."""
    table = model.item_table()
    queries, wanted, weights = _read(model, table, batch)
    outputs, smoothing = model.outputs(table), model.config.label_smoothing
    if model.config.loss == "chunked_softmax":
        return softmax_loss(queries, outputs, wanted, weights, smoothing)
    logits = queries @ outputs.T
    if weights is None:
        return functional.cross_entropy(logits.float(), wanted, label_smoothing=smoothing)
    losses = functional.cross_entropy(logits.float(), wanted, reduction="none", label_smoothing=smoothing)
    return (losses * weights.to(losses)).mean()


def sampled_loss(
    model: SasRec, batch: Sequence[Piece], drawn: np.ndarray, log_expected: np.ndarray
) -> torch.Tensor:
    """The same with a normaliser that is estimated from the items `drawn` [M]; only the rows of items that occur are read.

    `log_expected` [M] is the log of how many times each is drawn on average (`recsys.training.catalogue_softmax`).
    """
    sides = [piece.items.reshape(-1) for piece in batch] + [piece.targets for piece in batch] + [drawn]
    items, place = np.unique(np.concatenate(sides), return_inverse=True)
    device = model.free.device
    table = model.item_rows(torch.from_numpy(items).to(device))
    parts = np.split(place.reshape(-1), np.cumsum([len(side) for side in sides[:-1]]))
    local = [
        piece._replace(items=parts[at].reshape(piece.items.shape), targets=parts[len(batch) + at])
        for at, piece in enumerate(batch)
    ]
    queries, wanted, weights = _read(model, table, local)
    outputs, others = model.outputs(table), torch.from_numpy(parts[-1]).to(device)
    losses = sampled_softmax_losses(
        queries,
        outputs.index_select(0, wanted),
        outputs.index_select(0, others),
        torch.from_numpy(log_expected).to(queries),
        wanted[:, None] == others,
    )
    return (losses if weights is None else losses * weights.to(losses)).mean()


def _read(
    model: SasRec, table: torch.Tensor, batch: Sequence[Piece]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Queries [n, d] at all real positions of a batch, the rows of `table` that follow [n], and their weights [n] if any."""
    states, targets = [], []
    for piece in batch:
        items, lengths, places, following = (torch.from_numpy(x).to(table.device) for x in piece[:4])
        states.append(model(table, items, lengths).flatten(0, 1).index_select(0, places))
        targets.append(following)
    weights = np.concatenate([piece.weights for piece in batch])
    return (
        model.queries(torch.cat(states)),
        torch.cat(targets),
        torch.from_numpy(weights).to(table.device) if len(weights) else None,
    )


class Ranking:
    """Where a model ranks held-out targets in the whole catalogue, each request's exclusions left out."""

    def __init__(self, requests: Sequence[Request], targets: np.ndarray, max_items: int):
        self.requests, self.targets = requests, torch.from_numpy(targets)
        items, lengths = padded([request.history for request in requests], max_items)
        self.items, self.lengths = torch.from_numpy(items), torch.from_numpy(lengths)

    @torch.no_grad()
    def ranks(self, model: SasRec) -> np.ndarray:
        """Rank from 1 of each target [R]; ties count against it; without a history, or excluded, it is last."""
        was_training, device = model.training, model.free.device
        model.eval()
        table = model.item_table()
        outputs, found = model.outputs(table), []
        chunk = rows_at_once(len(table), CHUNK)
        for start in range(0, len(self.requests), chunk):
            rows = slice(start, start + chunk)
            items, lengths, targets = (x[rows].to(device) for x in (self.items, self.lengths, self.targets))
            scores = model.last_queries(table, items, lengths) @ outputs.T
            row, column = self._excluded(rows)
            scores[row.to(device), column.to(device)] = -torch.inf
            own = scores.gather(1, targets[:, None])
            ranks = (~(scores < own)).sum(1)  # of a model that has diverged (NaN) every target is last
            found.append(torch.where(lengths > 0, ranks, scores.shape[1]).cpu().numpy())
        model.train(was_training)
        return np.concatenate(found)

    def _excluded(self, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        some = [request.exclude for request in self.requests[rows]]
        counts = np.fromiter(map(len, some), np.int64, len(some))
        columns = np.concatenate([*some, np.zeros(0, np.int64)]).astype(np.int64)
        return torch.from_numpy(np.repeat(np.arange(len(some)), counts)), torch.from_numpy(columns)


def ndcg_at(ranks: np.ndarray, k: int) -> float:
    """Mean NDCG@k of one target a request, from its ranks [R]."""
    return float(np.where(ranks <= k, 1 / np.log2(1 + ranks), 0.0).mean())


def train_sasrec(
    users: np.ndarray,
    items: np.ndarray,
    times: np.ndarray,
    n_items: int,
    config: SasRecConfig,
    seed: int,
    checkpoint: Path,
    held_out: Ranking,
    text: np.ndarray | None = None,
    label: str = "SASRec",
    weights: np.ndarray | None = None,
    start: SasRec | None = None,
) -> tuple[SasRec, loop.Curves]:
    """Learn from events [E] in order of (user, time); the state with the best NDCG@10 on `held_out` is kept.

    `weights` [E], all above 0, weigh the events as targets; None: all alike. `start`: a trained model to go on from.

    On a CPU a killed and resumed training ends in the same bytes; on a GPU as far as its kernels repeat themselves.
    """
    device = resolve_device(config.device)
    model = SasRec(n_items, config, seed, text)
    if start is not None:
        model.load_state_dict(start.state_dict())
    model = model.to(device).train()
    # a GPU is faster with one pass over padding than with several without
    pieces = 1 if device.type == "cuda" else CPU_PIECES if config.loss == "softmax" else None
    batches = Batches((users, items, times), config.max_items, config.batch, seed, pieces, weights)
    step = step_of_losses(model, batches, items, seed)
    curves = loop.fit(
        label,
        config.steps,
        loop.trainable_state(model),
        _optimizer(model),
        step,
        checkpoint,
        schedule=lambda index: loop.cosine(index, config.steps, config.warmup),
        validate=lambda: ndcg_at(held_out.ranks(model), 10),
        validate_every=config.validate_every,
        patience=config.patience,
        clip_norm=config.clip_norm,
    )
    return model.eval().requires_grad_(False), curves


def step_of_losses(
    model: SasRec, batches: Batches, items: np.ndarray, seed: int
) -> Callable[[int], torch.Tensor]:
    """`step(index)` → the loss of that step, whose draws depend on `(seed, index)` alone; `items` [E] of the events."""
    config, device, negatives = model.config, model.free.device, None
    if config.loss == "sampled_softmax":
        counts = np.bincount(items, minlength=len(model.free))
        negatives = Negatives(counts, config.negatives, config.negatives_power, seed)

    def step(index: int) -> torch.Tensor:
        reading = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
        with torch_draws(device, seed, "dropout", index), reading:
            if negatives is None:
                return sequence_loss(model, batches[index])
            drawn = negatives.draw(index)
            return sampled_loss(model, batches[index], drawn, np.log(negatives.expected[drawn]))

    return step


def _optimizer(model: SasRec) -> torch.optim.Optimizer:
    """AdamW, its decay on matrices alone; of the sampled loss's free rows only those that a step read move."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups = [
        {"params": matrices, "weight_decay": model.config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return RowAdam(groups, lr=model.config.learning_rate, fused=True)

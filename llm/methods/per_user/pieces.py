"""Pieces of the adapters of a few users: trained gates, and adapters put together from pieces (PER-PCS)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from llm.backbone.conditions import NOTHING, Condition, LowRank
from llm.backbone.ragged import Layout
from llm.backbone.sid_model import SidModel
from llm.methods.per_user.adapters import ROWS, LoraForm, UserTable, numbers_in, users_of
from llm.prompts.reading import Personalizer
from recsys.recommender import Request
from recsys.seeds import derive

GATES, PIECES, WEIGHTS = "gates", "pieces", "weights"  # tensors beside ROWS


@dataclass(frozen=True)
class Gated(LowRank):
    """y + σ(g · x) B A x with g [R, in]: how a piece is used while its gate is trained."""

    gate: Tensor

    def apply(self, x: Tensor, y: Tensor, layout: Layout) -> Tensor:
        spread, a, b = layout.spread(x), self.a.to(x.dtype), self.b.to(x.dtype)
        opening = torch.sigmoid(torch.bmm(spread, self.gate.to(x.dtype)[:, :, None]))
        return y + layout.gather(opening * torch.bmm(torch.bmm(spread, a.transpose(1, 2)), b.transpose(1, 2)))

    def rows(self, index: Tensor) -> Gated:
        return Gated(*(tensor.index_select(0, index) for tensor in (self.a, self.b, self.gate)))

    def scaled(self, strength: float) -> Gated:
        return Gated(self.a, self.b * strength, self.gate)


class GateForm:
    """One gate [in] for each layer of a frozen LoRA, from 0."""

    soft_tokens, blank = 0, 0.0

    def __init__(self, lora: LoraForm, table: UserTable):
        """`table` holds the LoRAs of the users whose gates are trained."""
        self.lora, self.table = lora, table
        self._sizes = [n_in for n_in, _ in lora.layers.values()]
        self.size = sum(self._sizes)

    def start(self, seed: int) -> Tensor:
        return torch.zeros(self.size)

    def split(self, rows: Tensor) -> dict[str, Tensor]:
        """Gates [n, in] by layer, from rows [n, P]."""
        return dict(zip(self.lora.layers, rows.split(self._sizes, 1), strict=True))

    def condition(self, rows: Tensor, known: np.ndarray, users: np.ndarray) -> Condition:
        frozen = self.lora.pairs(self.table.take(users)[0].to(rows.device))
        gates = self.split(rows)
        return Condition(updates={name: (Gated(a, b, gates[name]),) for name, (a, b) in frozen.items()})


def choose_sharers(
    vectors: np.ndarray, activity: np.ndarray, clusters: int, by: Literal["most_active", "nearest"], seed: int
) -> np.ndarray:
    """Rows of `vectors` [U, d], ascending: of each k-means cluster the user with most `activity` [U]
    (of equals the first), or the one nearest to its centre.

    Raises `ValueError` for more clusters than users.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    if clusters > len(vectors):
        raise ValueError(
            f"per_pcs.sharers is {clusters}, and {len(vectors)} users have events to train on; lower it"
        )
    means = KMeans(clusters, n_init=4, random_state=derive(seed, "sharers", bits=31))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct vectors than clusters
        means.fit(vectors)
    far = np.linalg.norm(vectors - means.cluster_centers_[means.labels_], axis=1)
    badness = -activity if by == "most_active" else far
    members = (np.flatnonzero(means.labels_ == cluster) for cluster in range(clusters))
    return np.sort([mine[np.argmin(badness[mine])] for mine in members if len(mine)])


def put_together(a: Tensor, b: Tensor, pieces: Tensor, weights: Tensor) -> LowRank:
    """Σ_j weights[u, j] · B A of piece pieces[u, j], as one update of rank k · r a user.

    a [S, r, in] and b [S, out, r] are the pool of a layer; pieces and weights [U, k].
    """
    users, k = pieces.shape
    chosen_a = a.index_select(0, pieces.reshape(-1)).view(users, -1, a.shape[2])
    chosen_b = b.index_select(0, pieces.reshape(-1)).view(users, k, *b.shape[1:])
    weighted = chosen_b * weights.to(b)[:, :, None, None]
    return LowRank(chosen_a, weighted.permute(0, 2, 1, 3).reshape(users, b.shape[1], -1))


@dataclass
class Choosing:
    """An update that picks each user's pieces as the layer's input comes by, applies them,
    and keeps what it picked.
    """

    a: Tensor  # the layer's pool
    b: Tensor
    gate: Tensor  # [S, in]
    owner: Tensor  # [R]: the place of each request's user
    k: int

    @property
    def device(self) -> torch.device:
        return self.a.device

    def rows(self, index: Tensor) -> Choosing:
        return Choosing(self.a, self.b, self.gate, self.owner.index_select(0, index), self.k)

    def scaled(self, strength: float) -> Choosing:
        return Choosing(self.a, self.b * strength, self.gate, self.owner, self.k)

    def apply(self, x: Tensor, y: Tensor, layout: Layout) -> Tensor:
        token = self.owner.index_select(0, layout.row)
        n = int(self.owner.max()) + 1
        summed = (
            x.new_zeros(n, x.shape[1]).float().index_add(0, token, nn.functional.normalize(x.float(), dim=1))
        )
        mean = summed / torch.bincount(token, minlength=n)[:, None]
        scores = x.shape[1] ** 0.5 * mean @ nn.functional.normalize(self.gate, dim=1).T
        best = scores.topk(self.k, dim=1)
        self.pieces, self.weights = best.indices, best.values.softmax(1)
        return put_together(self.a, self.b, self.pieces, self.weights).rows(self.owner).apply(x, y, layout)


@dataclass
class Pool:
    """The pieces of S sharers and their gates."""

    sharers: np.ndarray  # [S] user integers, ascending
    form: LoraForm
    pairs: dict[str, tuple[Tensor, Tensor]]  # by layer: a [S, r, in], scaled b [S, out, r]
    gates: dict[str, Tensor]  # by layer [S, in]

    @classmethod
    def open(cls, path: Path, form: LoraForm, device: torch.device) -> Pool:
        table = UserTable.open([path])
        rows, gates = (table.take(table.users, name)[0].to(device) for name in (ROWS, GATES))
        return cls(table.users, form, form.pairs(rows), GateForm(form, table).split(gates))

    @torch.no_grad()
    def assemble(
        self,
        model: SidModel,
        sequences: Sequence[Sequence[int]],
        owner: np.ndarray,
        k: int,
        base: Condition = NOTHING,
    ) -> tuple[Tensor, Tensor]:
        """Pieces (places in the pool) and weights [n, layers, k] of n users,
        from one pass over what they have read.

        `sequences` are token numbers, `owner` the place of each one's user; every user has one at least.
        """
        of = torch.from_numpy(owner).to(model.device)
        choosing = {name: Choosing(a, b, self.gates[name], of, k) for name, (a, b) in self.pairs.items()}
        condition = base.beside(Condition(updates={name: (one,) for name, one in choosing.items()}))
        model.hidden(model.pack(sequences), condition)
        picked = choosing.values()
        return torch.stack([one.pieces for one in picked], 1), torch.stack([one.weights for one in picked], 1)


class Assembled(Personalizer):
    """Each request is read with the pieces of its user; one whose user has none, with `base` alone."""

    def __init__(self, pool: Pool, table: UserTable, k: int, device: torch.device, base: Condition = NOTHING):
        super().__init__()
        self.pool, self.table, self.base, self._device = pool, table, base, device
        self.per_user_parameters = 2 * k * len(pool.pairs)
        self.row_bytes = 4 * k * pool.form.size

    @property
    def shared_parameters(self) -> int:
        gates = sum(n_in for n_in, _ in self.pool.form.layers.values())
        return len(self.pool.sharers) * (self.pool.form.size + gates) + numbers_in(self.base)

    def condition(self, requests: Sequence[Request]) -> Condition:
        users = users_of(requests)
        named, known = self.table.take(users, PIECES, -1)
        if not known.any():
            return self.base
        weights, _ = self.table.take(users, WEIGHTS)
        place = np.searchsorted(self.pool.sharers, named.numpy()).clip(max=len(self.pool.sharers) - 1)
        # false: a sharer who was forgotten
        here = torch.from_numpy(self.pool.sharers[place] == named.numpy())
        weights = weights * here
        weights = (weights / weights.sum(2, keepdim=True).clamp(min=1e-12)).to(self._device)
        pieces = torch.from_numpy(place).to(self._device)
        updates = {
            name: (put_together(a, b, pieces[:, at], weights[:, at]),)
            for at, (name, (a, b)) in enumerate(self.pool.pairs.items())
        }
        return self.base.beside(Condition(updates=updates))

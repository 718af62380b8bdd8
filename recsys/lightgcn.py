"""LightGCN (He et al. 2020, arXiv 2002.02126) and its training.

    e^(k+1) = D^-1/2 A D^-1/2 e^(k)          (eq. 3: no weights, no non-linearity)
    e       = (1 / (K+1)) Σ_k e^(k)           (eq. 4: the mean over the layers)

over the two-way user–item graph. Degrees and normalisation are torch-geometric's (`gcn_norm`); the product is a CSR
product whose backward uses the symmetry of the normalised adjacency (the gradient is the same product), which the
tests hold against PyG's `LGConv`. Departures: sampled softmax beside BPR, and dropout of nothing at all.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from recsys import training
from recsys.config import StageConfig
from recsys.seeds import derive, torch_generator


class LightGCNConfig(StageConfig):
    dim: int = 120  # embedding width; 120 as E2P's behavioural embeddings
    layers: int = 2  # K propagation steps
    loss: Literal["sampled_softmax", "bpr"] = "sampled_softmax"  # the softmax trains in fewer epochs
    temperature: float = 0.15  # of the cosine logits of the sampled softmax
    negatives: int = 512  # negative items a batch, shared by its rows (sampled softmax) or one a row (BPR)
    epochs: int = 60  # passes over the edges at most; validation usually stops earlier
    batch: int = 8192  # edges a step; each step is one propagation over the whole graph
    learning_rate: float = 0.01  # Adam
    l2: float = 1e-4  # on the layer-0 rows of the batch, as in the paper
    validate_every_epochs: int = 4
    patience: int = 3  # validations without a new best before stopping


class SymmetricProduct(torch.autograd.Function):
    """`adjacency @ x` for a symmetric CSR `adjacency`; the gradient is the same product, so nothing is transposed."""

    @staticmethod
    def forward(ctx, adjacency: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        ctx.adjacency = adjacency
        return adjacency @ x

    @staticmethod
    def backward(ctx, *gradients: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, ctx.adjacency @ gradients[0].contiguous()


def normalised_adjacency(users: np.ndarray, items: np.ndarray, n_users: int, n_items: int) -> torch.Tensor:
    """D^-1/2 A D^-1/2 as CSR [(U+I), (U+I)], users first; both directions of each distinct (user, item) edge."""
    pairs = np.unique(np.stack([users, items]), axis=1)
    edges = torch.from_numpy(np.ascontiguousarray(pairs)).clone()
    edges[1] += n_users
    both = torch.cat([edges, edges.flip(0)], dim=1)
    n = n_users + n_items
    index, weight = gcn_norm(both, num_nodes=n, add_self_loops=False, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*[Ss]parse (CSR|invariant).*")  # torch says that CSR is new
        return torch.sparse_coo_tensor(index, weight, (n, n)).coalesce().to_sparse_csr()


class LightGCN(nn.Module):
    """Rows 0..U−1 of the graph are users, U..U+I−1 items; `embedding` holds the layer-0 vectors [(U+I), dim]."""

    def __init__(self, adjacency: torch.Tensor, n_users: int, config: LightGCNConfig, seed: int):
        super().__init__()
        self.adjacency, self.n_users, self.config = adjacency, n_users, config
        start = torch.empty(adjacency.shape[0], config.dim)
        nn.init.normal_(start, std=0.1, generator=torch_generator(seed, "lightgcn", "start"))
        self.embedding = nn.Parameter(start)

    def layers(self) -> list[torch.Tensor]:
        """e^(0) … e^(K), each [(U+I), dim]."""
        outputs: list[torch.Tensor] = [self.embedding]
        for _ in range(self.config.layers):
            outputs.append(SymmetricProduct.apply(self.adjacency, outputs[-1]))
        return outputs

    def forward(self) -> torch.Tensor:
        """The mean over the layers [(U+I), dim]: transductive user and item vectors."""
        return torch.stack(self.layers()).mean(0)

    @torch.no_grad()
    def message_table(self) -> torch.Tensor:
        """What each item adds to a user's vector [I, dim]: Σ_{k<K} e_i^(k) / sqrt(degree_i) / (K+1).

        A user with history H then has the vector Σ_{i in H} message_i / sqrt(|H|): eq. 3 and 4 for a user node whose
        own layer-0 vector is zero, so it exists for anyone at any moment. Items without an edge have a zero row.
        """
        row = self.adjacency.crow_indices()
        degree = (row[1:] - row[:-1])[self.n_users :].float()
        total = torch.stack(self.layers()[:-1]).sum(0)[self.n_users :]
        scale = torch.where(degree > 0, degree.clamp(min=1).rsqrt(), torch.zeros(()))
        return total * scale[:, None] / (self.config.layers + 1)


def bpr_loss(users: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Bayesian personalised ranking (Rendle et al. 2009): −mean log σ(u·i − u·j); all [B, d]."""
    return -nn.functional.logsigmoid((users * positive).sum(-1) - (users * negative).sum(-1)).mean()


def sampled_softmax_loss(
    users: torch.Tensor, positive: torch.Tensor, negatives: torch.Tensor, temperature: float
) -> torch.Tensor:
    """−mean log of the positive's share among itself and M shared negatives, on cosines / temperature.

    users, positive [B, d]; negatives [M, d], drawn uniformly from the catalogue.
    """
    users, positive, negatives = (nn.functional.normalize(x, dim=-1) for x in (users, positive, negatives))
    own = (users * positive).sum(-1, keepdim=True) / temperature
    others = users @ negatives.T / temperature
    return (torch.logsumexp(torch.cat([own, others], 1), 1, keepdim=True) - own).mean()


def train_lightgcn(
    users: np.ndarray,
    items: np.ndarray,
    n_users: int,
    n_items: int,
    config: LightGCNConfig,
    seed: int,
    checkpoint: Path,
    validate: Callable[[LightGCN], float],
    label: str = "LightGCN",
) -> tuple[LightGCN, training.Curves]:
    """Learn from edges (users[e], items[e]); `validate(model)` is a retrieval hit-rate, and the best state is kept."""
    model = LightGCN(normalised_adjacency(users, items, n_users, n_items), n_users, config, seed)
    edge_users, edge_items = torch.from_numpy(users), torch.from_numpy(items)
    steps_an_epoch = max(1, -(-len(users) // config.batch))

    def step(index: int) -> torch.Tensor:
        epoch, part = divmod(index, steps_an_epoch)
        order = torch.randperm(len(users), generator=torch_generator(seed, "edges", epoch))
        rows = order[part * config.batch : (part + 1) * config.batch]
        draw = torch_generator(seed, "negatives", index)
        vectors = model()
        take = nn.functional.embedding  # its gradient is summed in a fixed order, that of an index is not
        user, item = edge_users[rows], edge_items[rows] + n_users
        if config.loss == "bpr":
            negative = torch.randint(n_items, (len(rows),), generator=draw) + n_users
            loss = bpr_loss(take(user, vectors), take(item, vectors), take(negative, vectors))
        else:
            negative = torch.randint(n_items, (config.negatives,), generator=draw) + n_users
            loss = sampled_softmax_loss(
                take(user, vectors), take(item, vectors), take(negative, vectors), config.temperature
            )
        start = model.embedding
        penalty = (take(user, start).square().sum() + take(item, start).square().sum()) / len(rows)
        return loss + config.l2 * penalty

    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    torch.manual_seed(derive(seed, "lightgcn"))
    curves = training.fit(
        label,
        config.epochs * steps_an_epoch,
        training.trainable_state(model),
        optimizer,
        step,
        checkpoint,
        validate=lambda: validate(model),
        validate_every=config.validate_every_epochs * steps_an_epoch,
        patience=config.patience,
        log_every=steps_an_epoch,
    )
    return model, curves

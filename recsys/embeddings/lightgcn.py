"""LightGCN (He et al. 2020, arXiv 2002.02126) and its training.

    e^(k+1) = D^-1/2 A D^-1/2 e^(k)          (eq. 3: no weights, no non-linearity)
    e       = (1 / (K+1)) Σ_k e^(k)           (eq. 4: the mean over the layers)

over the two-way user–item graph. Degrees and normalisation are torch-geometric's (`gcn_norm`). Eq. 3 is linear and its
matrix symmetric, so the gradient of eq. 4 is eq. 4 of the gradient: K products forward, K backward, by Horner's rule.
A product is an `embedding_bag` (a bag a row, the weights beside it), whose kernel reads ahead: 3 to 5 times as fast as
the CSR product on CPU. The tests hold both against PyG's `LightGCN` and its loss. Departures: sampled softmax beside
BPR, and dropout of nothing at all.

Edges may have weights. A holds then w_ui, of a pair that occurs several times the largest (a pair is one edge, as strong as its
strongest event), D its row sums, and an epoch draws its edges in proportion to their weights (`recsys.training.rows`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from recsys.embeddings.config import LightGCNConfig
from recsys.seeds import torch_generator
from recsys.training import loop
from recsys.training.devices import resolve_device
from recsys.training.parts import loss_in_parts
from recsys.training.rows import rows_of_epoch


def strongest_of_pairs(
    users: np.ndarray, items: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """The distinct pairs [2, P] of edges (users[e], items[e]), in order, and the largest of each pair's `weights` [P] (float64)."""
    width = int(np.max(items, initial=0)) + 1
    keys = np.asarray(users, np.int64) * width + items  # a pair as one number, in the order of pairs
    if weights is None:
        return np.stack(np.divmod(np.unique(keys), width)), None
    distinct, pair_of = np.unique(keys, return_inverse=True)
    largest = np.zeros(len(distinct))
    np.maximum.at(largest, pair_of, weights)
    return np.stack(np.divmod(distinct, width)), largest


def normalised_adjacency(
    users: np.ndarray,
    items: np.ndarray,
    n_users: int,
    n_items: int,
    weights: np.ndarray | None = None,
    others: Sequence[tuple[np.ndarray, float]] = (),
    n_others: int = 0,
) -> torch.Tensor:
    """D^-1/2 A D^-1/2 as CSR [n, n] (n = U + I + `n_others`) with int32 indices, users first; each distinct edge once in both ways.

    A is 1 where there is an edge, or the largest of its `weights` [E]. Only their ratios matter. `others`: nodes [2, E'] and weight
    w of edges of other types, each of which adds its own w D^-1/2 A D^-1/2 (`recsys.embeddings.heterogeneous`).
    """
    pairs, strengths = strongest_of_pairs(users, items, weights)
    n = n_users + n_items + n_others
    parts = [_normalised(pairs + np.array([[0], [n_users]]), strengths, n)]
    for nodes, weight in others:
        index, value = _normalised(nodes, None, n)
        parts.append((index, value * weight))
    index, value = (torch.cat(side, dim=-1) for side in zip(*parts, strict=True))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*[Ss]parse (CSR|invariant).*")  # torch says that CSR is new
        whole = torch.sparse_coo_tensor(index, value, (n, n)).coalesce().to_sparse_csr()
        crow, column = whole.crow_indices().int(), whole.col_indices().int()
        return torch.sparse_csr_tensor(crow, column, whole.values(), size=(n, n))


def _normalised(pairs: np.ndarray, strengths: np.ndarray | None, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices [2, 2P] and values [2P] of D^-1/2 A D^-1/2, of distinct edges `pairs` [2, P] between different nodes of n."""
    from torch_geometric.nn.conv.gcn_conv import gcn_norm

    edges = torch.from_numpy(np.ascontiguousarray(pairs))
    both = torch.cat([edges, edges.flip(0)], dim=1)
    given = None if strengths is None else torch.from_numpy(np.tile(strengths, 2)).float()
    return gcn_norm(both, given, num_nodes=n, add_self_loops=False, dtype=torch.float32)


def message_scales(users: np.ndarray, items: np.ndarray, n_items: int, weights: np.ndarray) -> torch.Tensor:
    """w̄_i / sqrt(d_i) [I] (float32), of edges with weights what 1 / sqrt(degree) is of others; 0 of an item without an edge.

    d_i is the sum of the item's weights and w̄_i their mean: what an edge of a history, whose own weight nobody knows, has.
    """
    pairs, strengths = strongest_of_pairs(users, items, weights)
    count, degree = (np.bincount(pairs[1], of, minlength=n_items) for of in (None, strengths))
    return torch.from_numpy(np.sqrt(degree) / np.maximum(count, 1)).float()


def product(adjacency: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """`adjacency @ x` for a CSR `adjacency` [n, n] and `x` [n, d];
    the order of a row's sum does not depend on threads.
    """
    return nn.functional.embedding_bag(
        adjacency.col_indices(),
        x,
        adjacency.crow_indices(),
        mode="sum",
        per_sample_weights=adjacency.values(),
        include_last_offset=True,
    )


def sum_of_layers(adjacency: torch.Tensor, x: torch.Tensor, layers: int) -> torch.Tensor:
    """x + A x + … + A^layers x [n, d], by Horner's rule: x + A (x + A (x + …)). No gradient."""
    x = x.detach().contiguous()
    total = x
    for _ in range(layers):
        total = product(adjacency, total).add_(x)
    return total


class MeanOfLayers(torch.autograd.Function):
    """Eq. 4 for a symmetric CSR `adjacency`; the gradient is the same sum, so nothing is transposed."""

    @staticmethod
    def forward(ctx, adjacency: torch.Tensor, x: torch.Tensor, layers: int) -> torch.Tensor:
        ctx.adjacency, ctx.layers = adjacency, layers
        return sum_of_layers(adjacency, x, layers).div_(layers + 1)

    @staticmethod
    def backward(ctx, *gradients: torch.Tensor) -> tuple[None, torch.Tensor, None]:
        return None, sum_of_layers(ctx.adjacency, gradients[0], ctx.layers).div_(ctx.layers + 1), None


class WeightedSquares(torch.autograd.Function):
    """Σ_n w_n ‖x_n‖² for `x` [n, d] and `weights` [n], with its gradient 2 w_n x_n in one pass."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weights)
        return torch.linalg.vecdot(x, x) @ weights

    @staticmethod
    def backward(ctx, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        x, weights = ctx.saved_tensors
        return x * (2 * gradients[0] * weights)[:, None], None


class LightGCN(nn.Module):
    """Rows 0..U−1 of the graph are users, U..U+I−1 items, and other nodes follow, if there are any;
    `embedding` holds the layer-0 vectors [n, dim].
    """

    def __init__(
        self,
        adjacency: torch.Tensor,
        n_users: int,
        config: LightGCNConfig,
        seed: int,
        scales: torch.Tensor | None = None,
        n_items: int | None = None,
    ):
        """`scales` [I]: `message_scales`, where edges have weights or types; None: 1 / sqrt(degree), which the graph tells.

        `n_items`: I; None: all nodes that are not users.
        """
        super().__init__()
        self.n_items = adjacency.shape[0] - n_users if n_items is None else n_items
        self.adjacency, self.n_users, self.config, self.scales = adjacency, n_users, config, scales
        start = torch.empty(adjacency.shape[0], config.dim)
        nn.init.normal_(start, std=0.1, generator=torch_generator(seed, "lightgcn", "start"))
        self.embedding = nn.Parameter(start)

    def forward(self) -> torch.Tensor:
        """The mean over the layers [n, dim]: transductive user and item vectors."""
        return MeanOfLayers.apply(self.adjacency, self.embedding, self.config.layers)

    def moved(self, device: torch.device) -> LightGCN:
        """This model, it and its graph on `device`."""
        graph = self.adjacency
        row, column, weight = (
            part.to(device) for part in (graph.crow_indices(), graph.col_indices(), graph.values())
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*[Ss]parse (CSR|invariant).*")
            self.adjacency = torch.sparse_csr_tensor(row, column, weight, size=graph.shape)
        return self.to(device)

    @torch.no_grad()
    def message_table(self) -> torch.Tensor:
        """What each item adds to a user's vector [I, dim]: Σ_{k<K} e_i^(k) / sqrt(degree_i) / (K+1).

        A user with history H then has the vector Σ_{i in H} message_i / sqrt(|H|): eq. 3 and 4 for a user node whose
        own layer-0 vector is zero, so it exists for anyone at any moment. Items without an edge have a zero row.
        Where edges have weights, a history (a list of items, without) has each item at its mean weight: `message_scales`.
        """
        total = sum_of_layers(self.adjacency, self.embedding, self.config.layers - 1)
        total = total[self.n_users : self.n_users + self.n_items]
        scale = self._scales().to(total)
        return total * scale[:, None] / (self.config.layers + 1)

    def _scales(self) -> torch.Tensor:
        if self.scales is not None:
            return self.scales
        row = self.adjacency.crow_indices()
        degree = (row[1:] - row[:-1])[self.n_users :].float()
        return torch.where(degree > 0, degree.clamp(min=1).rsqrt(), torch.zeros(()).to(degree))


def bpr_loss(users: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Bayesian personalised ranking (Rendle et al. 2009): −mean log σ(u·i − u·j); all [B, d]."""
    return -nn.functional.logsigmoid((users * (positive - negative)).sum(-1)).mean()


def sampled_softmax_loss(
    users: torch.Tensor, positive: torch.Tensor, negatives: torch.Tensor, temperature: float
) -> torch.Tensor:
    """−mean log of the positive's share among itself and M shared negatives, on cosines / temperature.

    users, positive [B, d]; negatives [M, d], drawn uniformly from the catalogue.
    """
    users, positive, negatives = (nn.functional.normalize(x, dim=-1) for x in (users, positive, negatives))
    users = users / temperature
    others = torch.logsumexp(users @ negatives.T, 1)
    return nn.functional.softplus(others - (users * positive).sum(-1)).mean()


def softmax_in_parts(
    vectors: torch.Tensor, batch: torch.Tensor, negatives: torch.Tensor, config: LightGCNConfig
) -> torch.Tensor:
    """`sampled_softmax_loss` of the edges `batch` [2, B] (rows of `vectors`), `config.batch` of them at a time: one propagation
    serves them all, and logits are of a part.
    """
    edges = batch.split(config.batch, 1)
    parts = [torch.cat([some.reshape(-1), negatives]).to(vectors.device) for some in edges]

    def loss(number: int, rows: torch.Tensor) -> torch.Tensor:
        own = edges[number].shape[1]
        user, positive, negative = rows.split([own, own, len(negatives)])
        return own / batch.shape[1] * sampled_softmax_loss(user, positive, negative, config.temperature)

    return loss_in_parts(vectors, parts, loss)


def step_of_training(
    model: LightGCN, users: np.ndarray, items: np.ndarray, seed: int, weights: np.ndarray | None = None
) -> Callable[[int], torch.Tensor]:
    """`step(index)` → the loss of that step, from edges (users[e], items[e]);
    an epoch is `steps_of_epoch` steps.

    What a step draws depends on `(seed, index)` alone. An epoch's edges, each once or in proportion to `weights` [E], are drawn
    once, with its first step.
    """
    config, n_users = model.config, model.n_users
    n_nodes, n_edges = len(model.embedding), len(users)
    most = edges_of_step(n_edges, config)
    edges = torch.from_numpy(np.stack([users, items + n_users]))  # [2, E], as nodes of the graph
    steps = steps_of_epoch(n_edges, config)
    current: tuple[int, torch.Tensor] | None = None

    def edges_of(epoch: int) -> torch.Tensor:
        nonlocal current
        if current is None or current[0] != epoch:
            current = epoch, edges[:, torch.from_numpy(rows_of_epoch(n_edges, weights, seed, "edges", epoch))]
        return current[1]

    def step(index: int) -> torch.Tensor:
        epoch, part = divmod(index, steps)
        batch = edges_of(epoch)[:, part * most : (part + 1) * most]
        size = batch.shape[1]
        drawn = size if config.loss == "bpr" else config.negatives
        negatives = torch.randint(
            n_users, n_users + model.n_items, (drawn,), generator=torch_generator(seed, "negatives", index)
        )
        # the gradient of index_select is summed in a fixed order, that of an index is not
        nodes = torch.cat([batch.reshape(-1), negatives]).to(model.embedding.device)
        if config.loss == "sampled_softmax" and size > config.batch:  # grown by `steps_per_epoch`
            loss = softmax_in_parts(model(), batch, negatives, config)
        else:
            user, positive, negative = model().index_select(0, nodes).split([size, size, drawn])
            if config.loss == "bpr":
                loss = bpr_loss(user, positive, negative)
            else:
                loss = sampled_softmax_loss(user, positive, negative, config.temperature)
        times = torch.bincount(nodes[: 2 * size], minlength=n_nodes).float()  # in the batch, of each node
        return loss + config.l2 / size * WeightedSquares.apply(model.embedding, times)

    return step


def edges_of_step(n_edges: int, config: LightGCNConfig) -> int:
    """`batch`, or as many as make an epoch of `steps_per_epoch` steps."""
    return max(config.batch, -(-n_edges // config.steps_per_epoch))


def steps_of_epoch(n_edges: int, config: LightGCNConfig) -> int:
    """⌈edges / edges of a step⌉, at least one."""
    return max(1, -(-n_edges // edges_of_step(n_edges, config)))


def optimizer_of(model: LightGCN) -> torch.optim.Optimizer:
    """Adam over the layer-0 vectors, fused: one pass over memory where the plain one takes ten."""
    return torch.optim.Adam(model.parameters(), lr=model.config.learning_rate, fused=True)


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
    weights: np.ndarray | None = None,
    start: LightGCN | None = None,
    others: Sequence[tuple[np.ndarray, float]] = (),
    n_others: int = 0,
) -> tuple[LightGCN, loop.Curves]:
    """Learn from edges (users[e], items[e]); `validate(model)` is a retrieval hit-rate, and the best state is kept.

    `weights` [E], all above 0, weigh the edges; None: all alike. `start`: a trained model to go on from. Over edges of `others` vectors
    spread too: `normalised_adjacency`.
    """
    graph = normalised_adjacency(users, items, n_users, n_items, weights, others, n_others)
    scales = None
    if weights is not None or others:
        scales = message_scales(users, items, n_items, np.ones(len(users)) if weights is None else weights)
    model = LightGCN(graph, n_users, config, seed, scales, n_items)
    if start is not None:
        model.embedding.data.copy_(start.embedding[: len(model.embedding)])  # users and items
    model = model.moved(resolve_device(config.device))
    steps_an_epoch = steps_of_epoch(len(users), config)
    curves = loop.fit(
        label,
        config.epochs * steps_an_epoch,
        loop.trainable_state(model),
        optimizer_of(model),
        step_of_training(model, users, items, seed, weights),
        checkpoint,
        validate=lambda: validate(model),
        validate_every=config.validate_every_epochs * steps_an_epoch,
        patience=config.patience,
        log_every=steps_an_epoch,
    )
    return model.moved(torch.device("cpu")), curves

"""An epoch of LightGCN: ours and the loop over torch-geometric's module, from the same start and draws.

The peer is the loop of torch-geometric's own example (examples/lightgcn.py): `LightGCN` over the whole
`edge_index`, `recommendation_loss`, Adam. Both sides train on BPR with the same start, edges and
negatives, so that they must end in the same vectors up to rounding; the notes hold them to that, and to
the same recall on held-out edges.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from recsys.data.config import EMBEDDED
from recsys.data.interactions import read_interactions
from recsys.data.loaders import load_amazon
from recsys.door.notices import Notices
from recsys.embeddings.lightgcn import (
    LightGCN,
    LightGCNConfig,
    normalised_adjacency,
    optimizer_of,
    product,
    step_of_training,
    steps_of_epoch,
)
from recsys.seeds import rng, torch_generator
from recsys.training.loop import keep_freed_memory
from serving.bench.case import Result, Timing, in_turn, timed

TARGET = 5.0
PEER = "torch-geometric LightGCN and recommendation_loss, plain loop"
SEED = 0
K = 20  # of the recall, as in torch-geometric's example
CONFIG = LightGCNConfig(dim=64, layers=2, loss="bpr", batch=8192)  # width, layers, batch of that example

Step = Callable[[int], torch.Tensor]


@dataclass(frozen=True)
class Graph:
    """Edges to train on, (users[e], items[e]), and those held out."""

    name: str
    n_users: int
    n_items: int
    users: np.ndarray
    items: np.ndarray
    held_users: np.ndarray
    held_items: np.ndarray


def lightgcn_epoch(quick: bool) -> list[Result]:
    """Seconds an epoch on ml-latest-small and on Amazon Beauty (under
    $PRELUDE_DATA; else a graph of its size).

    `quick` times three steps in place of an epoch of the larger graph:
    an epoch of the peer alone takes half a minute.
    """
    try:
        from torch_geometric.nn.models import LightGCN as _  # noqa: F401
    except ImportError as error:
        raise ValueError("this case needs torch-geometric: pip install 'prelude-recsys[bench]'") from error
    keep_freed_memory()  # as training does; it is the whole process's, so the peer has it too
    return [
        _measure(_movielens(), 0, 2 if quick else 9),
        _measure(_beauty(), 3 if quick else 0, 2 if quick else 5),
    ]


# -- graphs --------------------------------------------------------------------------------------------------


def _movielens() -> Graph:
    frame = read_interactions(
        EMBEDDED / "ratings.csv", {"user_id": "userId", "item_id": "movieId"}, Notices()
    ).frame
    return _split("ml-latest-small", frame["user_id"].to_numpy(), frame["item_id"].to_numpy())


def _beauty() -> Graph:
    folder = os.environ.get("PRELUDE_DATA")
    if not folder:
        return _split("a synthetic graph of Amazon Beauty's size", *_power_law(22_363, 12_101, 198_502))
    beauty = Path(folder) / "amazon2014" / "Beauty"
    paths = {"interactions": beauty / "user_sequence.txt", "items": beauty / "items.jsonl"}
    frame = load_amazon(paths, None, Notices()).interactions.frame
    return _split("Amazon Beauty", frame["user_id"].to_numpy(), frame["item_id"].to_numpy())


def _power_law(n_users: int, n_items: int, n_edges: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct edges between ends drawn by 1/√rank (users) and rank^-0.7 (items);
    every end has one at least.
    """
    draw = rng(SEED, "power law")
    pairs = [np.stack([np.arange(n_users), np.arange(n_users) % n_items])]
    for n, exponent in ((n_users, -0.5), (n_items, -0.7)):
        weight = (10.0 + np.arange(n)) ** exponent
        pairs.append(draw.choice(n, 2 * n_edges, p=weight / weight.sum()))
    drawn = np.concatenate([pairs[0], np.stack(pairs[1:])], axis=1)
    _, first = np.unique(drawn[0] * n_items + drawn[1], return_index=True)
    users, items = drawn[:, np.sort(first)[:n_edges]]
    return users, items


def _split(name: str, user_ids: np.ndarray, item_ids: np.ndarray) -> Graph:
    """Ids to integers; a tenth of the edges, drawn at random, is held out."""
    users, items = (np.unique(ids, return_inverse=True)[1] for ids in (user_ids, item_ids))
    held = rng(SEED, "held out").random(len(users)) < 0.1
    return Graph(
        name,
        int(users.max()) + 1,
        int(items.max()) + 1,
        users[~held],
        items[~held],
        users[held],
        items[held],
    )


# -- the two sides -------------------------------------------------------------------------------------------


def _peer(
    graph: Graph, start: torch.Tensor, csr: bool = False
) -> tuple[torch.nn.Module, Step, Callable[[], torch.Tensor]]:
    """torch-geometric's module, a step as in its example with the draws of ours, and what gives its vectors.

    The example's two-way edge index, or with `csr` the same edges as a sparse matrix,
    which the module takes too.
    """
    from torch_geometric.nn.models import LightGCN as PyGLightGCN
    from torch_geometric.utils import to_torch_csr_tensor

    model = PyGLightGCN(graph.n_users + graph.n_items, CONFIG.dim, CONFIG.layers)
    model.embedding.weight.data.copy_(start)
    edges = torch.from_numpy(np.stack([graph.users, graph.items + graph.n_users]))
    both = torch.cat([edges, edges.flip(0)], dim=1)
    if csr:
        both = to_torch_csr_tensor(both, size=(model.num_nodes, model.num_nodes))
    steps = steps_of_epoch(edges.shape[1], CONFIG)
    orders: dict[int, torch.Tensor] = {}

    def step(index: int) -> torch.Tensor:
        epoch, part = divmod(index, steps)
        if epoch not in orders:
            draw = torch_generator(SEED, "edges", epoch)
            orders[epoch] = torch.randperm(edges.shape[1], generator=draw)
        rows = orders[epoch][part * CONFIG.batch : (part + 1) * CONFIG.batch]
        positive = edges[:, rows]
        draw = torch_generator(SEED, "negatives", index)
        drawn = torch.randint(graph.n_users, model.num_nodes, (len(rows),), generator=draw)
        negative = torch.stack([positive[0], drawn])
        ranks = model(both, torch.cat([positive, negative], dim=1)).chunk(2)
        # the nodes of the positive edges, as the paper and our objective have it
        return model.recommendation_loss(*ranks, node_id=positive.reshape(-1), lambda_reg=CONFIG.l2)

    return model, step, lambda: model.get_embedding(both)


def _trainer(step: Step, optimizer: torch.optim.Optimizer, steps: int) -> Callable[[], None]:
    """A call trains the next `steps` steps."""
    done = 0

    def train() -> None:
        nonlocal done
        for index in range(done, done + steps):
            optimizer.zero_grad()
            loss = step(index)
            float(loss.detach())
            loss.backward()
            optimizer.step()
        done += steps

    return train


def _measure(graph: Graph, steps: int, repeats: int) -> Result:
    """Time `steps` steps (0: an epoch) of each side `repeats` times, after as many unmeasured,
    and compare the two.
    """
    adjacency = normalised_adjacency(graph.users, graph.items, graph.n_users, graph.n_items)
    ours = LightGCN(adjacency, graph.n_users, CONFIG, SEED)
    peer, peer_step, peer_vectors = _peer(graph, ours.embedding.data)
    epoch = steps_of_epoch(len(graph.users), CONFIG)
    steps = steps or epoch
    plain_adam = torch.optim.Adam(peer.parameters(), lr=CONFIG.learning_rate)
    our_step = step_of_training(ours, graph.users, graph.items, SEED)
    sides = _trainer(our_step, optimizer_of(ours), steps), _trainer(peer_step, plain_adam, steps)
    timing = in_turn(*sides, repeats)
    an_epoch = _scaled(timing, epoch / steps)
    with torch.no_grad():
        vectors = ours(), peer_vectors()
    floor, limit = _floor(adjacency, float(np.median(an_epoch.ours)) / epoch)
    against_csr = _against_csr(graph, ours)
    return timed(
        f"LightGCN epoch, {graph.name}",
        PEER,
        an_epoch,
        TARGET,
        limit,
        floor_s=floor * epoch,
        steps_timed=f"{steps} of the {epoch} of an epoch, {repeats} times",
        epochs_trained=(repeats + 1) * steps / epoch,
        **_agreement(graph, *vectors),
        ratio_against_csr=against_csr[0],
        spread_against_csr=against_csr[1],
        edges=len(graph.users),
        dim=CONFIG.dim,
        layers=CONFIG.layers,
        batch=CONFIG.batch,
        threads=torch.get_num_threads(),
        our_peak_bytes=timing.our_peak,
        peer_peak_bytes=timing.peer_peak,
    )


def _against_csr(graph: Graph, ours: LightGCN) -> tuple[float, tuple[float, float]]:
    """The ratio against the peer when it is given a CSR matrix and a fused Adam:
    not its example, but in its reach.
    """
    peer, peer_step, _ = _peer(graph, ours.embedding.data, csr=True)
    fused = torch.optim.Adam(peer.parameters(), lr=CONFIG.learning_rate, fused=True)
    our_step = step_of_training(ours, graph.users, graph.items, SEED)
    return in_turn(_trainer(our_step, optimizer_of(ours), 4), _trainer(peer_step, fused, 4), 4).speedup


def _scaled(timing: Timing, factor: float) -> Timing:
    return replace(
        timing,
        ours=[factor * value for value in timing.ours],
        peers=[factor * value for value in timing.peers],
    )


# -- what is said beside the ratio ---------------------------------------------------------------------------


def _agreement(graph: Graph, ours: torch.Tensor, peers: torch.Tensor) -> dict[str, float]:
    """How far the trained vectors are apart, and both sides' recall@20 on held-out edges."""
    recalls = [recall(graph, vectors) for vectors in (ours, peers)]
    difference = recalls[0] - recalls[1]
    return {
        "recall_at_20": float(recalls[0].mean()),
        "peer_recall_at_20": float(recalls[1].mean()),
        "recall_difference_standard_error": float(difference.std(ddof=1) / len(difference) ** 0.5),
        "vectors_relative_difference": float((ours - peers).norm() / peers.norm()),
    }


def recall(graph: Graph, vectors: torch.Tensor, most_users: int = 4000) -> np.ndarray:
    """Recall@20 of each user that has held-out edges (a seeded sample), training items left out [n]."""
    holders = np.unique(graph.held_users)
    chosen = np.sort(rng(SEED, "recall").permutation(holders)[:most_users])
    scores = (vectors[torch.from_numpy(chosen)] @ vectors[graph.n_users :].T).numpy()
    row_of = np.full(graph.n_users, -1)
    row_of[chosen] = np.arange(len(chosen))
    known = row_of[graph.users] >= 0
    scores[row_of[graph.users[known]], graph.items[known]] = -np.inf
    wanted = np.zeros(scores.shape, dtype=bool)
    held = row_of[graph.held_users] >= 0
    wanted[row_of[graph.held_users[held]], graph.held_items[held]] = True
    top = torch.from_numpy(scores).topk(K, dim=1).indices.numpy()
    return np.take_along_axis(wanted, top, 1).sum(1) / wanted.sum(1)


def _floor(adjacency: torch.Tensor, step_s: float) -> tuple[float, str]:
    """Seconds of a step's bytes at the rate of copying the vectors (in whatever cache they fit),
    and the sentence on it.

    A product reads an index, a weight and a row of `dim` numbers an edge and writes a row a node;
    there are 2 K of them. Adam reads four arrays of that size and writes three.
    """
    n, edges, dim = adjacency.shape[0], adjacency.values().numel(), CONFIG.dim
    of_a_product = edges * (4 + 4 + 4 * dim) + 4 * n * dim
    of_a_step = 2 * CONFIG.layers * of_a_product + 7 * 4 * n * dim
    x = torch.randn(n, dim)
    product_s = _median_seconds(lambda: product(adjacency, x))
    target = torch.empty_like(x)
    rate = 2 * x.nbytes / _median_seconds(lambda: target.copy_(x))
    floor = of_a_step / rate
    share = 2 * CONFIG.layers * product_s / step_s
    return floor, (
        f"memory bandwidth: the {2 * CONFIG.layers} sparse products are {share:.0%} of a step and gather at "
        f"{of_a_product / product_s / 1e9:.1f} GB/s; the bytes of a step, with Adam's, would take "
        f"{floor / step_s:.0%} of it at the rate of a copy of the vectors, {rate / 1e9:.1f} GB/s"
    )


def _median_seconds(call: Callable[[], object], repeats: int = 9) -> float:
    call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))

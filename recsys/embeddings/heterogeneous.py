"""A heterogeneous graph: user–item edges and typed ones beside them (friends, tags, attributes), in one embedding space.

    e^(k+1) = Σ_r w_r D_r^-1/2 A_r D_r^-1/2 e^(k)          r: user–item (w = 1), user–user, user–attribute, item–attribute

LightGCN (`recsys.embeddings.lightgcn`) over the union: each type has its own degrees, so that a hundred tags do not drown five
plays, and a weight. Loss and training are LightGCN's, over user–item edges alone.

A user's vector of a moment stays inductive: over the neighbours of each type that were there before it, Σ_j message_j / √(how many),
added to what the history gives. So who has no event has a vector where friends or tags are known. What a neighbour says comes of
the graph, and so of FIT events. An edge with a moment is learned from only if it is older than the first event of its user(s)
that is not FIT, and, where the split is at one moment for everybody, than the end of training; one without a moment is taken to have
been there always, which its setting must say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys.artifacts.arrays import map_arrays
from recsys.artifacts.user_rows import save_user_rows
from recsys.data.dataset import Dataset
from recsys.data.splits import FIT
from recsys.door.edges import read_edges
from recsys.door.tables import DataError
from recsys.door.times import Reading
from recsys.embeddings.config import EdgesConfig, EdgesKind
from recsys.embeddings.lightgcn import LightGCN, sum_of_layers
from recsys.embeddings.user_vectors import BroughtVectors, FadingVectors, HistoryVectors, NeighbourVectors

ALWAYS = np.iinfo(np.int64).min  # before every moment
NEVER = np.iinfo(np.int64).max
FILE = "neighbours.safetensors"


@dataclass(frozen=True)
class TypedEdges:
    """Distinct edges of a type: `nodes` [2, E] of the graph (users first of both that can be), `times` [E] since when, ascending."""

    kind: EdgesKind
    nodes: np.ndarray
    times: np.ndarray
    learned: np.ndarray  # bool [E]: may the graph hold it?
    weight: float


@dataclass(frozen=True)
class TypedGraph:
    """Edges by type over U users, then I items, then `n_others` attributes."""

    edges: tuple[TypedEdges, ...]
    n_users: int
    n_items: int
    n_others: int
    facts: tuple[dict[str, Any], ...]  # of each file, for the report

    def learned(self) -> list[tuple[np.ndarray, float]]:
        """Nodes [2, E] and weight of each type, as `lightgcn.normalised_adjacency` takes them."""
        return [(some.nodes[:, some.learned], some.weight) for some in self.edges]


def read_graph(configs: Sequence[EdgesConfig], dataset: Dataset, time: Reading = "auto") -> TypedGraph | None:
    """Read every file (None where there is none); rows of users or items that the run does not know are left out and counted, rows of one node with itself left out.

    An attribute is a node where the graph learns an edge of it; others say nothing, and are left out: that they are there may be told
    by what is held out. Raises `DataError` where a file has no row of known ids.
    """
    if not configs:
        return None
    users = dataset.user_numbers
    items = {name: dataset.n_users + number for number, name in enumerate(dataset.catalogue.item_ids)}
    first_not_fit = _first_not_fit(dataset)
    rows, named = [], set()
    for config in configs:
        read = read_edges(
            config.file, config.from_column, config.to_column, config.moment, config.delimiter, time
        )
        of: Mapping[str, int] = items if config.kind == "item_attribute" else users
        start = np.array([of.get(name, -1) for name in read.start], np.int64)
        times = np.full(len(start), ALWAYS) if read.times is None else read.times
        if config.kind != "user_user":
            learned = start >= 0
            if config.kind == "user_attribute":
                learned &= times < first_not_fit[start]
            named |= {(config.vocabulary, name) for name in read.end[learned]}
        if not (start >= 0).any() or (
            config.kind == "user_user" and not any(name in users for name in read.end)
        ):
            ours = next(iter(of), "nothing")
            raise DataError(
                f"{config.file}: no row of it is of ids that the run knows (the first is {read.start[0]!r}; the run's look like {ours!r})"
            )
        rows.append((start, read.end, times))
    attributes = {name: dataset.n_users + dataset.n_items + at for at, name in enumerate(sorted(named))}
    edges, facts = [], []
    for config, (start, names, times) in zip(configs, rows, strict=True):
        if config.kind == "user_user":
            end = np.array([users.get(name, -1) for name in names], np.int64)
            unknown = (start < 0) | (end < 0)
        else:
            end = np.array([attributes.get((config.vocabulary, name), -1) for name in names], np.int64)
            unknown = start < 0
        known = (start >= 0) & (end >= 0) & (start != end)
        found = _distinct(config, start[known], end[known], times[known], first_not_fit)
        edges.append(found)
        facts.append(
            {"file": config.file.name, "kind": config.kind, "dated": config.moment is not None,
             "learned": int(found.learned.sum()), "rows_of_unknown_ids": int(unknown.sum())}
        )  # fmt: skip
    return TypedGraph(tuple(edges), dataset.n_users, dataset.n_items, len(attributes), tuple(facts))


def _first_not_fit(dataset: Dataset) -> np.ndarray:
    """The moment [U] of each user's first event that is not FIT; of a user without one the end of training, which is `NEVER` where
    everybody has a moment of their own.
    """
    first = np.full(dataset.n_users, NEVER if dataset.learned_until is None else dataset.learned_until)
    later = dataset.roles != FIT
    np.minimum.at(first, dataset.users[later], dataset.times[later])
    return first


def _distinct(
    config: EdgesConfig, start: np.ndarray, end: np.ndarray, times: np.ndarray, first_not_fit: np.ndarray
) -> TypedEdges:
    """Each pair once (user–user in either order), since its earliest row."""
    if config.kind == "user_user":
        start, end = np.minimum(start, end), np.maximum(start, end)
    order = np.lexsort((times, end, start))
    start, end, times = start[order], end[order], times[order]
    new = np.ones(len(start), bool)
    new[1:] = (start[1:] != start[:-1]) | (end[1:] != end[:-1])
    nodes, times = np.stack([start[new], end[new]]), times[new]
    until = np.full(len(times), NEVER)
    for side in {"user_user": (0, 1), "user_attribute": (0,), "item_attribute": ()}[config.kind]:
        until = np.minimum(until, first_not_fit[nodes[side]])
    return TypedEdges(config.kind, nodes, times, times < until, config.weight)


@torch.no_grad()
def neighbour_sums(model: LightGCN, graph: TypedGraph) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What neighbours say of each user, as of each moment at which one was added: users [M], times [M], vectors [M, d].

    The row of a moment counts strictly after it. Σ_r w_r Σ_{j ∈ N_r} Σ_{k<K} e_j^(k) / √(d_j d_u) / (K + 1): the equation above for
    a user whose own layer-0 vector is zero. Nodes that the graph holds no edge of this type of say nothing.
    """
    total = sum_of_layers(model.adjacency, model.embedding, model.config.layers - 1).cpu().double().numpy()
    total /= model.config.layers + 1
    owners, moments, messages, types = [], [], [], []
    for number, some in enumerate(graph.edges):
        if some.kind == "item_attribute":
            continue
        degree = np.bincount(some.nodes[:, some.learned].reshape(-1), minlength=len(total))
        scale = some.weight * np.where(degree > 0, np.maximum(degree, 1) ** -0.5, 0)
        ways = [some.nodes, some.nodes[::-1]] if some.kind == "user_user" else [some.nodes]
        for user, node in ways:
            speaks = degree[node] > 0
            owners.append(user[speaks])
            moments.append(some.times[speaks])
            messages.append(total[node[speaks]] * scale[node[speaks], None])
            types.append(np.full(int(speaks.sum()), number))
    if not owners:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, total.shape[1]), np.float32)
    users, times, type_of = (np.concatenate(parts) for parts in (owners, moments, types))
    order = np.lexsort((times, users))
    users, times, type_of = users[order], times[order], type_of[order]
    said = np.concatenate(messages)[order]
    starts = np.searchsorted(users, users)  # the first row of the row's user
    vectors = np.zeros_like(said)
    for number in np.unique(type_of):
        of_type = type_of == number
        sums = _since(np.cumsum(np.where(of_type[:, None], said, 0), axis=0), starts)
        counts = _since(np.cumsum(of_type)[:, None], starts)
        vectors += sums / np.sqrt(np.maximum(counts, 1))
    last = np.ones(len(users), bool)
    last[:-1] = (users[1:] != users[:-1]) | (times[1:] != times[:-1])
    return users[last], times[last], vectors[last].astype(np.float32)


def _since(running: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Running sums [M, n] over all rows, made into running sums since row `starts` [M]."""
    before = np.where((starts > 0)[:, None], running[starts - 1], 0)
    return running - before


def save_neighbours(model: LightGCN, graph: TypedGraph, folder: Path) -> None:
    """Write what `read_users` reads: rows of users, which a deletion finds (`recsys.artifacts.user_rows`)."""
    users, times, vectors = neighbour_sums(model, graph)
    rows = {"times": torch.from_numpy(times), "vectors": torch.from_numpy(vectors)}
    save_user_rows(folder / FILE, rows, torch.from_numpy(users))


def users_of(model: LightGCN, graph: TypedGraph | None, history: HistoryVectors, reads: str) -> FadingVectors:
    """What `read_users` would read of `model`."""
    if graph is None:
        return history
    said = BroughtVectors(*neighbour_sums(model, graph), history.space)
    return NeighbourVectors(history, said, reads == "neighbours")


def read_users(path: Path, history: HistoryVectors, reads: str | None) -> FadingVectors:
    """User vectors of `history` and of neighbours (`reads`: all), of neighbours only (neighbours), or without any (None)."""
    if reads is None:
        return history
    arrays = map_arrays(path)
    said = BroughtVectors(arrays["users"], arrays["times"], arrays["vectors"], history.space)
    return NeighbourVectors(history, said, reads == "neighbours")

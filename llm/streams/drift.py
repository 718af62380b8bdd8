"""E2P over time: φ stays as it was trained, and the embeddings that it reads go on.

The setting of the E2P workshop paper.

The held-out stream is cut into chunks of each user's events, in order. For each chunk φ is given the vectors
of these conditions:

    stale        as of the end of training
    refreshed    as of each instance, in the space that φ was trained in
    retrained    as of each instance, by a LightGCN trained anew on everything before the chunk: an
                 arbitrarily rotated space
    aligned      the same, turned back by orthogonal Procrustes (Schönemann 1966) on the items that both have

Drift is the mean cosine distance between the vector that φ is given and the same user's stale one. A run
refuses vectors of another space than its prefix was trained in; here they are made on purpose, under names of
their own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from llm.decoding.scoring import log_probs_of
from llm.methods.stage2 import World
from llm.prompts.prefixes import UserPrefix
from llm.prompts.reading import Reading
from llm.streams.chunks import AsOf, chunks_of, last_of_each_user, starts_of
from llm.streams.config import DriftConfig
from llm.streams.online import hits
from recsys.data.splits import FIT, PERSONALIZE, TEST, VALIDATION
from recsys.embeddings.config import EmbedConfig
from recsys.embeddings.lightgcn import LightGCN, train_lightgcn
from recsys.embeddings.retrieval import retrieval_hits
from recsys.embeddings.user_vectors import HistoryVectors, UserVectors
from recsys.recommender import Request
from recsys.seeds import sample

STALE, REFRESHED, RETRAINED, ALIGNED, NOBODY = CONDITIONS = (
    "stale", "refreshed", "retrained", "retrained, aligned", "no vector",
)  # fmt: skip
K = 30


@dataclass(frozen=True)
class Drifted:
    """One condition on one chunk: rates [R], their users [R],
    the cosine distance [R] of each vector to the stale one.
    """

    condition: str
    chunk: int
    rates: np.ndarray
    users: np.ndarray
    distances: np.ndarray


def align(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """The rotation (or reflection) W [d, d] that brings `new` [N, d] nearest to `old`:
    min ‖new W − old‖ over orthogonal W.

    Rows count alike, by direction; rows that are zero in either space are left out. Raises `ValueError`
    without a shared row.
    """
    from scipy.linalg import orthogonal_procrustes

    norms = [np.linalg.norm(table, axis=1, keepdims=True) for table in (new, old)]
    both = ((norms[0] > 1e-12) & (norms[1] > 1e-12))[:, 0]
    if not both.any():
        raise ValueError("the two spaces have no item in common; they cannot be aligned")
    rotation, _ = orthogonal_procrustes(
        (new / np.maximum(norms[0], 1e-12))[both], (old / np.maximum(norms[1], 1e-12))[both]
    )
    return rotation.astype(np.float32)


def cosine_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 − cosine of rows [R, d]."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.maximum(1 - (a * b).sum(1) / np.maximum(lengths, 1e-12), 0)


def drift(
    world: World, config: DriftConfig, embed: EmbedConfig, reading: Reading, checkpoint: Path
) -> list[Drifted]:
    """Measure every condition on every chunk.

    `reading` is that of the trained φ; GNNs resume from `checkpoint`.

    Raises `ValueError` for vectors that are not LightGCN's: there is no GNN of theirs to be trained anew.
    """
    if not isinstance(world.users, HistoryVectors):
        raise ValueError(
            "drift trains the run's LightGCN anew on events; this run's user vectors are SASRec's, were brought from elsewhere, or read "
            "neighbours (embed.edges)"
        )
    data, old = world.dataset, world.users
    events, part = chunks_of(data, (VALIDATION, TEST), config.chunks)
    until = starts_of(data, events)
    learned = np.flatnonzero(np.isin(data.roles, (FIT, PERSONALIZE)))
    measured = []
    for chunk in range(1, config.chunks + 1):
        edges = np.union1d(learned, events[part < chunk])
        new = retrained_messages(world, embed, edges, config.seed + chunk, checkpoint / f"lightgcn-{chunk}")
        spaces: dict[str, UserVectors] = {
            STALE: AsOf(old, until),
            REFRESHED: old,
            RETRAINED: HistoryVectors(new, old.half_life, f"{old.space}, retrained before chunk {chunk}"),
            ALIGNED: HistoryVectors(
                new @ align(new, old.messages), old.half_life, f"{old.space}, aligned for chunk {chunk}"
            ),
        }
        measured += _measure(
            reading,
            data,
            sample(events[part == chunk], config.instances, config.seed, "drift", chunk),
            chunk,
            spaces,
        )
    return measured


def _measure(
    reading: Reading, data, events: np.ndarray, chunk: int, spaces: dict[str, UserVectors]
) -> list[Drifted]:
    """Every condition on the instances that all of them know."""
    events = data.askable(events)
    requests = data.block(events, data.exclude_seen)
    found = {name: users.vectors(requests) for name, users in spaces.items()}
    known = np.flatnonzero(np.logical_and.reduce([has for _, has in found.values()]))
    if not len(known):
        return []
    some: list[Request] = [requests[row] for row in known]
    targets, users, stale = data.items[events[known]], data.users[events[known]], found[STALE][0][known]
    rows = []
    for name, vectors in spaces.items():
        rates = hits(log_probs_of(given(reading, vectors), some, targets)[:, 0])
        rows.append(Drifted(name, chunk, rates, users, cosine_distance(found[name][0][known], stale)))
    nobody = hits(log_probs_of(replace(reading, personalizer=None), some, targets)[:, 0])
    return [*rows, Drifted(NOBODY, chunk, nobody, users, np.full(len(known), np.nan))]


def given(reading: Reading, users: UserVectors) -> Reading:
    """The same φ, fed other vectors."""
    assert isinstance(reading.personalizer, UserPrefix)
    return replace(reading, personalizer=UserPrefix(reading.personalizer.phi, users))


def retrained_messages(
    world: World, embed: EmbedConfig, edges: np.ndarray, seed: int, checkpoint: Path
) -> np.ndarray:
    """Message table [N, d] of a LightGCN trained from scratch on events `edges`;
    each user's last one validates.
    """
    path, data = checkpoint / "messages.safetensors", world.dataset
    if path.exists():
        return load_file(path)["messages"]
    held = data.askable(last_of_each_user(data, edges))
    held = sample(held, embed.check_instances, seed, "drift")
    graph = np.setdiff1d(edges, held)
    requests, targets = data.block(held, data.exclude_seen), data.items[held]

    def validate(model: LightGCN) -> float:
        items = model()[data.n_users :].detach().cpu().numpy()
        items = items / np.maximum(np.linalg.norm(items, axis=1, keepdims=True), 1e-12)
        vectors, _ = HistoryVectors(model.message_table().cpu().numpy(), None, "").vectors(requests)
        return float(retrieval_hits(vectors, items, requests, targets, K).mean())

    model, _ = train_lightgcn(
        data.users[graph], data.items[graph], data.n_users, data.n_items, embed.lightgcn, seed, checkpoint, validate,
        f"LightGCN on {len(graph):,} events", data.weighed(graph),
    )  # fmt: skip
    messages = model.message_table().numpy()
    save_file({"messages": messages}, path)
    return messages

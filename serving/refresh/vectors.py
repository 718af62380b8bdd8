"""Embeddings that a service brings for a night: laid onto the run's space, the newest of each item and user, and who has none."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys.artifacts.arrays import map_arrays
from recsys.artifacts.paths import RunError
from recsys.artifacts.user_rows import save_user_rows
from recsys.data.dataset import Dataset
from recsys.door.times import OF_RUN
from recsys.door.vectors import read_vectors
from recsys.embeddings.embed import load_item_vectors
from recsys.run import Run
from serving.answering.live import LiveState
from serving.refresh.changes import Changes
from serving.refresh.folder import Draft
from serving.refresh.spaces import SAME, Alignment, align

MOVED = 0.9  # cosine below which an item's vector is another than before
USERS = "brought_users.safetensors"


@dataclass
class Brought:
    """`vectors` [N, d] of all items in the run's space, zero where nothing (new) is said; `moved` [M] items whose vector changed."""

    vectors: np.ndarray | None = None
    moved: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    alignment: Alignment | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def brought_items(run: Run, changes: Changes, path: Path | None, most_residual: float) -> Brought:
    """Today's item vectors. Where the run's own graph made its items' vectors, those stay, and new items alone take what is brought."""
    if path is None:
        return Brought()
    before, n = load_item_vectors(run), len(changes.before)
    index = dict(zip(changes.after.item_ids.tolist(), range(len(changes.after)), strict=True))
    found = read_vectors(path, "item_id", index, OF_RUN[run.read_json("prepare", "prepare.json")["time"]])
    newest = np.argsort(found.times, kind="stable")  # the last of each item is written last
    vectors = np.zeros((len(changes.after), found.vectors.shape[1]), np.float32)
    vectors[found.ids[newest]] = found.vectors[newest]
    some = np.flatnonzero(np.abs(vectors).sum(1) > 0)
    shared = some[some < n]
    shared = shared[before["has_collaborative"][shared].astype(bool)]
    alignment = align(
        vectors[shared], before["collaborative"][shared], f"{path}: item embeddings", most_residual
    )
    aligned = np.zeros_like(vectors)
    aligned[some] = alignment.apply(vectors[some])
    cosine = (aligned[shared] * before["collaborative"][shared]).sum(1)
    moved = shared[cosine < MOVED]
    if run.read_json("embed", "embed.json").get("items") == "brought":
        same = shared[np.abs(aligned[shared] - before["collaborative"][shared]).max(1) <= SAME]
        aligned[same] = 0  # what did not change keeps its bits
    else:
        aligned[shared] = 0
    served = np.ones(len(changes.after), bool)
    served[changes.after.retired] = False
    lacking = int((served & (np.abs(vectors).sum(1) == 0)).sum())
    facts = {
        "items": {
            "alignment": alignment.told(),
            "residual": alignment.residual,
            "with_a_vector": len(some),
            "moved": len(moved),
            "served_without": lacking,
            "unknown_ids": found.unknown_ids,
        }
    }
    return Brought(aligned, moved, alignment, facts)


def add_users(
    draft: Draft, data: Dataset, path: Path, brought: Brought, most_residual: float
) -> dict[str, Any]:
    """Today's user vectors behind those that the run has: from their moment on the newest is read.

    Raises `RunError` for a run whose user vectors are of its own histories, which need no files.
    """
    run = draft.parent
    report = run.read_json("embed", "embed.json")
    if report["users"] != "brought":
        raise RunError(
            f"{run.path}: its user vectors are made of histories ({report['users']}), which go on by themselves; --user-embeddings are "
            "for a run that was trained on some (embed.user_embeddings)"
        )
    histories = LiveState(run, data).histories
    index = histories.numbers()
    found = read_vectors(path, "user_id", index, OF_RUN[run.read_json("prepare", "prepare.json")["time"]])
    old = map_arrays(run.artifact("embed", USERS))
    last = np.r_[old["users"][1:] != old["users"][:-1], True] if len(old["users"]) else np.zeros(0, bool)
    users, rows = old["users"][last], old["vectors"][last]
    newest = np.lexsort((found.times, found.ids))
    final = newest[np.r_[found.ids[newest][1:] != found.ids[newest][:-1], True]]
    alignment = brought.alignment
    if alignment is None:
        _shared, mine, theirs = np.intersect1d(users, found.ids[final], return_indices=True)
        alignment = align(found.vectors[final][theirs], rows[mine], f"{path}: user embeddings", most_residual)
    lengths = np.linalg.norm(found.vectors, axis=1, keepdims=True)
    vectors = found.vectors if alignment.rotation is None else alignment.apply(found.vectors) * lengths
    users = np.concatenate([old["users"], found.ids])
    times = np.concatenate([old["times"], found.times])
    whole = np.concatenate([old["vectors"], vectors.astype(old["vectors"].dtype)])
    order = np.lexsort((times, users))
    keys = np.stack([users[order], times[order]], 1)
    kept = order[np.r_[(keys[1:] != keys[:-1]).any(1), True]]  # of one user and moment the later file's
    tensors = {"times": torch.from_numpy(times[kept]), "vectors": torch.from_numpy(whole[kept])}
    owners = torch.from_numpy(users[kept])
    draft.write("embed", USERS, lambda target: save_user_rows(target, tensors, owners))
    known = len(index)
    return {
        "alignment": alignment.told(),
        "residual": alignment.residual,
        "rows": len(found.ids),
        "people": len(final),
        "people_without": int(known - len(np.unique(users))),
        "unknown_ids": found.unknown_ids,
    }

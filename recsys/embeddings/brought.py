"""Embeddings that a service brings: how much of the data they cover, and whether they can be of their own moments.

A vector is joined strictly before an instance, so a wrong date is what leaks: one export of today, stamped as if it had always been
there, knows every target. The comparison of training with validation targets cannot see that, for it knows both. What can be seen is
named here, and refused unless `embed.accept` says that it is meant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys.artifacts.user_rows import save_user_rows
from recsys.data.dataset import Dataset
from recsys.data.splits import PERSONALIZE, ROLE_NAMES, TEST, VALIDATION
from recsys.door.notices import Coverage, Notices
from recsys.door.sources import source_hash
from recsys.door.times import Reading
from recsys.door.vectors import Brought, read_vectors
from recsys.embeddings.config import Accepted
from recsys.embeddings.leaks import LeakError
from recsys.embeddings.retrieval import retrieval_hits
from recsys.embeddings.user_vectors import BroughtVectors, HistoryVectors
from recsys.recommender import Request

FAR = 2.0  # times what vectors of the history alone reach: more is named
ALPHA = 0.001  # one-sided, of that comparison


@dataclass(frozen=True)
class Suspicion:
    """Something that honest vectors would hardly do, and the word by which `embed.accept` lets it pass."""

    key: Accepted
    message: str


def brought_users(
    path: Path,
    time: Reading,
    space: str | None,
    least: float,
    accepted: tuple[Accepted, ...],
    dataset: Dataset,
    instances: Callable[[int], tuple[list[Request], np.ndarray]],
    items: np.ndarray,
    folder: Path,
) -> tuple[BroughtVectors, dict[str, Any]]:
    """The brought user vectors, once they cover enough and do nothing that vectors of their own moment would not; what to report of them.

    `space`, `least` and `accepted` are `embed.embedding_space`, `min_user_coverage` and `accept`; `instances(role)` are requests and
    targets; `items` [N, d]. Writes `brought_users.safetensors` into `folder`.
    """
    found = read_vectors(path, "user_id", dataset.user_numbers, time)
    order = np.argsort(found.ids, kind="stable")
    rows = {name: torch.from_numpy(getattr(found, name)[order]) for name in ("times", "vectors")}
    save_user_rows(folder / "brought_users.safetensors", rows, torch.from_numpy(found.ids[order]))
    (folder / "user_messages.safetensors").unlink(missing_ok=True)
    space = space or f"brought:{source_hash(path)[:16]}"
    users = BroughtVectors(found.ids, found.times, found.vectors, space)
    covered = user_coverage(users, found, dataset, path, least)
    requests, targets = instances(VALIDATION)
    hits = [np.zeros(0), np.zeros(0)]
    if users.dim == items.shape[1]:
        sides, sharp = (users, HistoryVectors(items, None, "")), sharp_cut(dataset.n_items)
        hits = [retrieval_hits(side.vectors(requests)[0], items, requests, targets, sharp) for side in sides]
    odd = refuse(suspicions(users, dataset, *hits), accepted)
    report = {
        "user_coverage": covered,
        "suspicions": odd,
        "users": "brought",
        "space": space,
        "dim": users.dim,
    }
    return users, report


def item_coverage(found: Brought, dataset: Dataset, path: object, least: float) -> dict[str, Any]:
    """How many of the run's items have a vector that is not all zeros. Raises `DataError` below a share of `least`."""
    some = found.ids[(found.vectors != 0).any(1)]  # a vector of zeros says nothing
    with_vector = len(np.unique(some))
    lacking = np.setdiff1d(np.arange(dataset.n_items), some)
    example = f"item '{dataset.catalogue.item_ids[lacking[0]]}'" if len(lacking) else None
    if found.unknown_ids:
        example = f"{example or 'none'} (and {found.unknown_ids} ids of the file are unknown, such as {found.first_unknown!r})"
    return _require(
        Coverage(f"{path}: items with a vector", with_vector, dataset.n_items, example),
        least,
        "embed.min_item_coverage",
    )


def user_coverage(
    users: BroughtVectors, found: Brought, dataset: Dataset, path: object, least: float
) -> list[dict[str, Any]]:
    """How many instances of each role have a vector before their moment. Raises `DataError` where a role has too few."""
    covered = []
    for role in (PERSONALIZE, VALIDATION, TEST):
        events = dataset.instances(role)
        if not len(events):
            continue
        rows = np.array([users.row(int(dataset.users[e]), int(dataset.times[e])) for e in events])
        lacking = events[rows < 0]
        example = None
        if len(lacking):
            user, time = dataset.users[lacking[0]], dataset.times[lacking[0]]
            own = found.times[found.ids == user]
            has = f"their first vector is of {own.min()}" if len(own) else "they have no vector"
            example = f"user '{dataset.user_ids[user]}' at {time}: {has}"
        what = f"{path}: {ROLE_NAMES[role]} instances with a vector from before their moment"
        covered.append(
            _require(
                Coverage(what, int((rows >= 0).sum()), len(events), example), least, "embed.min_user_coverage"
            )
        )
    return covered


def _require(found: Coverage, least: float, setting: str) -> dict[str, Any]:
    remedy = "a vector counts from the moment at which it became available, and for ids of the run's form."
    Notices().require(found, least, setting, remedy)
    return found.__dict__ | {"share": found.share}


def sharp_cut(n_items: int) -> int:
    """How many items a hit may be among when two kinds of vectors are compared: few, so that good ones do not look alike."""
    return max(1, min(10, n_items // 30))


def suspicions(
    users: BroughtVectors, dataset: Dataset, brought_hits: np.ndarray, history_hits: np.ndarray
) -> list[Suspicion]:
    """What honest vectors would hardly do; hits [I] of the same validation instances by brought vectors and by history alone."""
    from scipy import stats

    found = []
    first = dataset.times[dataset.offsets[:-1].clip(max=max(len(dataset.times) - 1, 0))]
    has_events = np.diff(dataset.offsets) > 0
    early = np.array([has_events[u] and t < first[u] for u, t in zip(users.users, users.times, strict=True)])
    if early.any():
        row = int(early.argmax())
        who = dataset.user_ids[users.users[row]]
        found.append(
            Suspicion(
                "before_first_event",
                f"{int(early.sum())} of {len(early)} user vectors are dated before their user's first event (user '{who}': "
                f"{users.times[row]}, first event {first[users.users[row]]}). Nothing was known of them then, unless the vectors come of "
                "another domain: stamp each with the moment at which it became available",
            )
        )
    rows, many = np.unique(users.users, return_counts=True)
    known = has_events[rows]
    if known.any() and (many[known] == 1).all():
        found.append(
            Suspicion(
                "constant",
                f"each of {int(known.sum())} users has one vector for all times, so training and test instances read the same; whether it "
                "knows their targets cannot be seen by comparing them. Bring vectors of several moments",
            )
        )
    if len(brought_hits) and len(np.unique(dataset.users)) > 1:
        difference = brought_hits - FAR * history_hits
        spread = float(difference.std(ddof=1) / np.sqrt(len(difference))) if len(difference) > 1 else 0.0
        low = float(difference.mean()) - float(stats.norm.isf(ALPHA)) * spread
        if low > 0:
            found.append(
                Suspicion(
                    "far_above_history",
                    f"brought user vectors find {brought_hits.mean():.4f} of the validation targets, and means of the same item vectors "
                    f"over the history before each {history_hits.mean():.4f}: more than {FAR:g} times as many. Such vectors have usually "
                    "seen the targets",
                )
            )
    return found


def refuse(found: list[Suspicion], accepted: tuple[Accepted, ...]) -> list[dict[str, Any]]:
    """The suspicions, for the report. Raises `LeakError` with all that `accepted` does not name; `constant` alone is said, not refused."""
    refused = [one for one in found if one.key not in accepted and one.key != "constant"]
    if refused:
        raise LeakError(
            ". ".join(one.message for one in refused)
            + f". If it is meant so, set embed.accept to [{', '.join(one.key for one in refused)}]; the report repeats it"
        )
    return [{"key": one.key, "message": one.message, "accepted": one.key in accepted} for one in found]

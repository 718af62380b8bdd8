"""Whole users held out before anything is learned: a random and an out-of-distribution part (P2P, 4).

Users are clustered by k-means on the normalised embeddings of their profile texts (titles and most frequent
column values of their events before their test part).

- `random` samples users in proportion to the clusters, so that the held-out users look like those who are
  left.
- `ood` takes whole clusters, the small and isolated ones first: by the mean distance of a cluster's centroid
  to the other centroids, divided by (1 + the cluster's size). Of the first cluster that is too large for what
  is still wanted, the users farthest from its centroid are taken, and the rest of it is dropped: nobody
  learns from a user of an out-of-distribution cluster.

A held-out user's events before the test part stay in histories and serve nothing else; their test events stay
test instances. So neither the graph, the semantic IDs, Stage 1, Stage 2 nor validation ever sees them.
Departures from the paper: users without a test event are not taken (nobody could be measured on them), the
number of clusters is a setting rather than the silhouette's choice, and both splits come from one clustering,
so that one run can have both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from recsys.data.config import UserSplitConfig
from recsys.data.dataset import Dataset
from recsys.data.splits import DROPPED, FIT, GROUPS, OOD, RANDOM, TEST, WARM, hold_out_users
from recsys.data.text_vectors import encode_texts
from recsys.door.tables import DataError
from recsys.seeds import derive, rng

PROFILE_TOKENS = 96  # cut of a profile text; about what the settings below write


def split_users(dataset: Dataset, config: UserSplitConfig) -> dict[str, Any]:
    """Give every user of `dataset` a group and take the held-out users' events out of learning, in place.

    Returns what a reader should know of it: users by group, and the clusters. Raises `DataError` when a group
    would be empty or nobody would be left to learn from.
    """
    texts = profile_texts(dataset, config)
    described = np.array([text is not None for text in texts])
    if described.sum() <= config.clusters:
        raise DataError(
            f"prepare.user_split.clusters is {config.clusters}, but only {described.sum()} users have events before "
            "their test part; lower it"
        )
    vectors = encode_texts([text for text in texts if text is not None], config.text_encoder, max_tokens=PROFILE_TOKENS,
                           label="user profiles")  # fmt: skip
    testable = np.zeros(dataset.n_users, bool)
    testable[dataset.users[dataset.events(TEST)]] = True
    clusters = cluster_users(vectors, config)
    groups = np.full(dataset.n_users, WARM, dtype=object)
    wanted = {
        name: _wanted(name, share, dataset.n_users)
        for name, share in (("ood", config.ood), ("random", config.random))
    }
    groups[described] = assign_groups(
        vectors, clusters, testable[described], wanted["ood"], wanted["random"], config.seed
    )
    roles = hold_out_users(dataset.users, dataset.roles, groups)
    if not (roles == FIT).any():
        raise DataError(
            f"prepare.user_split holds out {config.random + config.ood:.0%} of the users and leaves no event to learn "
            "from; lower random and ood, or raise clusters so that less is dropped"
        )
    dataset.roles, dataset.user_groups = roles, groups
    return {
        "users": {group: int((groups == group).sum()) for group in GROUPS},
        "clusters": _cluster_facts(vectors, clusters, groups[described]),
    }


def _wanted(name: str, share: float, n_users: int) -> int:
    count = round(share * n_users)
    if share and not count:
        raise DataError(
            f"prepare.user_split.{name} is {share}, which of {n_users} users is nobody; raise it, or set it to 0"
        )
    return count


def profile_texts(dataset: Dataset, config: UserSplitConfig) -> list[str | None]:
    """One text per user [U], from the events strictly before their first test event;
    None where there is none.

    `Drama, Crime. Heat; Fargo; …`: each text column's most frequent values, then the last titles, latest
    first.
    """
    end = dataset.offsets[1:].copy()
    test = dataset.events(TEST)
    first_of_user, at = np.unique(dataset.users[test], return_index=True)
    end[first_of_user] = dataset.history_end[test[at]]
    columns, titles = dataset.catalogue.columns.values(), dataset.catalogue.titles
    texts: list[str | None] = []
    for start, stop in zip(dataset.offsets[:-1], end, strict=True):
        items = dataset.items[start:stop]
        parts = [", ".join(_most_frequent(values, items, config.profile_values)) for values in columns]
        parts.append("; ".join(titles[item] for item in items[::-1][: config.profile_titles]))
        texts.append(". ".join(part for part in parts if part) if len(items) else None)
    return texts


def _most_frequent(values: Sequence[list[str]], items: np.ndarray, at_most: int) -> list[str]:
    counts = Counter(value for item in items for value in values[item])
    return sorted(counts, key=lambda value: (-counts[value], value))[:at_most]  # ties by name


def cluster_users(vectors: np.ndarray, config: UserSplitConfig) -> np.ndarray:
    """The cluster [n] of each row of `vectors` [n, d]:
    k-means, best of four starts, on one thread for repeatability.
    """
    from sklearn.cluster import KMeans

    with threadpool_limits(1):
        means = KMeans(config.clusters, n_init=4, random_state=derive(config.seed, "user clusters", bits=31))
        return means.fit_predict(vectors)


def isolation(vectors: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The clusters that have members [C], their centroids [C, d], and how isolated and small each one is [C].

    The last is the mean Euclidean distance to the other centroids / (1 + the cluster's size), P2P's appendix.
    """
    names, inverse, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    totals = np.zeros((len(names), vectors.shape[1]))
    np.add.at(totals, inverse, vectors)
    centroids = totals / sizes[:, None]
    distances = np.linalg.norm(centroids[:, None] - centroids[None], axis=-1)
    return names, centroids, distances.sum(axis=1) / max(1, len(names) - 1) / (1 + sizes)


def assign_groups(
    vectors: np.ndarray, clusters: np.ndarray, testable: np.ndarray, ood: int, random: int, seed: int
) -> np.ndarray:
    """The group [n] of users with `vectors` [n, d] in `clusters` [n]:
    `ood` of them out of distribution, `random` at random.

    Only `testable` [n] users are held out. Raises `DataError` where there are fewer than are wanted.
    """
    groups = np.full(len(clusters), WARM, dtype=object)
    if ood + random > testable.sum():
        raise DataError(
            f"prepare.user_split wants {ood + random} users, but only {testable.sum()} have a test event and something "
            "before it; lower random and ood, or split so that more users are tested"
        )
    _take_clusters(groups, vectors, clusters, testable, ood)
    left = np.flatnonzero(testable & (groups == WARM))
    if random > len(left):
        raise DataError(
            f"prepare.user_split.random wants {random} users, but {len(left)} are left beside the out-of-distribution "
            "clusters; lower random or ood, or raise clusters so that less is dropped"
        )
    names, counts = np.unique(clusters[left], return_counts=True)
    for name, quota in zip(names, proportional(counts, random), strict=True):
        members = left[clusters[left] == name]
        groups[rng(seed, "random users", int(name)).choice(members, quota, replace=False)] = RANDOM
    return groups


def _take_clusters(
    groups: np.ndarray, vectors: np.ndarray, clusters: np.ndarray, testable: np.ndarray, wanted: int
) -> None:
    """Mark `wanted` testable users of the most isolated clusters OOD,
    and everybody else in those clusters DROPPED.
    """
    names, centroids, score = isolation(vectors, clusters)
    for row in np.argsort(-score, kind="stable"):
        if not wanted:
            return
        members = np.flatnonzero(clusters == names[row])
        taken = members[testable[members]]
        distance = np.linalg.norm(vectors[taken] - centroids[row], axis=1)
        taken = taken[np.argsort(-distance, kind="stable")[:wanted]]  # all of them, where they fit
        if len(taken):  # a cluster that nobody could be measured on would only be lost
            groups[members] = DROPPED
            groups[taken] = OOD
            wanted -= len(taken)


def proportional(counts: np.ndarray, total: int) -> np.ndarray:
    """`total` split in proportion to `counts` [C] by the largest remainders; no share is above its count."""
    exact = counts * total / max(1, counts.sum())
    shares = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(-(exact - shares), kind="stable")
    shares[order[: total - shares.sum()]] += 1
    return shares


def _cluster_facts(vectors: np.ndarray, clusters: np.ndarray, groups: np.ndarray) -> list[dict[str, Any]]:
    """Each cluster's size, isolation and users by group, the most isolated first."""
    names, _, score = isolation(vectors, clusters)
    return [
        {"size": int((clusters == names[row]).sum()), "isolation": round(float(score[row]), 5)}
        | {group: int((groups[clusters == names[row]] == group).sum()) for group in GROUPS}
        for row in np.argsort(-score, kind="stable")
    ]

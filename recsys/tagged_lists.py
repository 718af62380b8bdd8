"""Labelled lists from tags: what a user gave one tag in one month, and what others had given it by then (`recsys.label_lists`)."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pandas as pd

from recsys.dataset import Dataset
from recsys.draft_lists import Drafts, EngagementConfig
from recsys.seeds import rng


def lists_from_tags(config: EngagementConfig, data: Dataset) -> Drafts:
    drafts = Drafts()
    queries = data.queries.sort_values(["timestamp", "user", "query", "item"], kind="stable")
    first = _first_events(data)
    taggings = _Taggings()
    months: Any = queries.groupby("timestamp", sort=True)
    for time, month in months:
        wanted = month[month["user"] >= 0]
        had = wanted.groupby("user")["item"].agg(set)
        asked: Any = wanted.groupby(["user", "query"], sort=True)
        for (user, query), group in asked:
            generator = rng(config.seed, "lists", int(user), int(time), query)
            engaged = [item for item in group["item"].unique().tolist() if first.get((user, item)) == time]
            engaged = engaged[: max(1, config.max_shown // 2)]
            if not engaged:
                continue
            refused = taggings.draw(query, len(engaged), taggings.of_user[user] | had[user], generator)
            shown = np.array([*engaged, *refused])
            order = generator.permutation(len(shown))
            drafts.add(user, time, query, shown[order], order < len(engaged))
        taggings.add(month)
    return drafts


def _first_events(data: Dataset) -> dict[tuple[int, int], int]:
    """(user, item) -> the time of their first event; but not of one that something earlier in the user's month has learned from.

    Where a month holds events of several roles, only those of the latest may be answers (`recsys.label_lists`).
    """
    moment = np.unique(np.stack([data.users, data.times]), axis=1, return_inverse=True)[1].reshape(-1)
    latest = np.zeros(moment.max(initial=-1) + 1, np.int8)
    np.maximum.at(latest, moment, data.roles)
    first: dict[tuple[int, int], int] = {}
    for event in range(len(data.users)):
        key = (int(data.users[event]), int(data.items[event]))
        answers = data.roles[event] == latest[moment[event]]
        first.setdefault(key, int(data.times[event]) if answers else -1)
    return first


class _Taggings:
    """What has been tagged up to now: how often each item got each tag, and what each user has tagged."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        self.of_user: dict[int, set[int]] = defaultdict(set)

    def add(self, rows: pd.DataFrame) -> None:
        for user, item, query in zip(rows["user"], rows["item"], rows["query"], strict=True):
            self.counts[str(query)][int(item)] += 1
            if user >= 0:
                self.of_user[int(user)].add(int(item))

    def draw(self, tag: str, n: int, known: set[int], generator: np.random.Generator) -> list[int]:
        """Up to `n` items that have the tag and are not `known`, in proportion to how often they got it, none twice."""
        found = sorted((item, count) for item, count in self.counts[tag].items() if item not in known)
        if not found:
            return []
        items, counts = np.array(found).T
        n = min(n, len(items))
        return generator.choice(items, n, replace=False, p=counts / counts.sum()).tolist()

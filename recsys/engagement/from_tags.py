"""Labelled lists from tags: what a user gave one tag in one month, and what others had given it by then."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pandas as pd

from recsys.data.dataset import Dataset
from recsys.engagement.config import Drafts, EngagementConfig
from recsys.seeds import rng

ALIKE = 0.25  # standard deviation of log(1 + users) between an engaged item and the refused one beside it


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
            refused = taggings.draw(query, engaged, taggings.of_user[user] | had[user], generator)
            shown = np.array([*engaged, *refused])
            order = generator.permutation(len(shown))
            drafts.add(user, time, query, shown[order], order < len(engaged))
        taggings.add(month)
    return drafts


def _first_events(data: Dataset) -> dict[tuple[int, int], int]:
    """(user, item) -> the time of their first event;
    but not of one that something earlier in the user's month has learned from.

    Where a month holds events of several roles, only those of the latest may be answers
    (`recsys.engagement.label_lists`).
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
    """What has been tagged up to now: the items of each tag, how many users tagged each item,
    and what each user tagged.
    """

    def __init__(self) -> None:
        self.items: dict[str, set[int]] = defaultdict(set)
        self.taggers: dict[int, set[int]] = defaultdict(set)
        self.of_user: dict[int, set[int]] = defaultdict(set)

    def add(self, rows: pd.DataFrame) -> None:
        for user, item, query in zip(rows["user"], rows["item"], rows["query"], strict=True):
            self.items[str(query)].add(int(item))
            self.taggers[int(item)].add(int(user))
            if user >= 0:
                self.of_user[int(user)].add(int(item))

    def draw(
        self, tag: str, engaged: list[int], known: set[int], generator: np.random.Generator
    ) -> list[int]:
        """For each engaged item another one that has the tag and is not `known`, about as popular by then;
        none twice.

        Fewer where the tag has fewer.
        """
        found = np.array(sorted(self.items[tag] - known), dtype=np.int64)
        size = np.log1p([len(self.taggers[item]) for item in found.tolist()])
        left, drawn = np.ones(len(found), bool), []
        for item in engaged:
            if not left.any():
                break
            apart = (size - np.log1p(len(self.taggers[item]))) / ALIKE
            weights = np.where(
                left, np.exp(-0.5 * (np.abs(apart) - np.abs(apart[left]).min()) ** 2) + 1e-12, 0.0
            )
            at = int(generator.choice(len(found), p=weights / weights.sum()))
            left[at] = False
            drawn.append(int(found[at]))
        return drawn

"""Shown lists over a small data set, and a copy of a run that holds them."""

from __future__ import annotations

import shutil

import numpy as np

from recsys.config import StageConfig
from recsys.data.dataset import Dataset
from recsys.engagement.shown_lists import GENERATOR, GENERATOR_VALIDATION, NONE, TEST_LISTS, ShownLists
from recsys.run import Run
from recsys.seeds import rng


def shown_lists(data: Dataset, seed: int = 0, wanted: int = 5) -> ShownLists:
    """Lists of items of both halves, asked for from event 16 on; a user engages with their own half, now and then not."""
    generator = rng(seed, "shown")
    users, times, parts, items, labels = [], [], [], [], []
    for user in range(data.n_users):
        events = np.arange(data.offsets[user], data.offsets[user + 1])
        for number, event in enumerate(events[16:19]):
            own = data.items[event] % 2
            some = generator.choice(data.n_items, wanted, replace=False)
            users.append(user)
            times.append(int(data.times[event]) + 1)
            parts.append((GENERATOR, GENERATOR_VALIDATION, TEST_LISTS)[number] if user % 5 else NONE)
            items.append(some)
            labels.append((some % 2 == own) ^ (generator.random(wanted) < 0.1))
    first = parts.index(GENERATOR)
    users[first], times[first] = 2, int(data.times[data.offsets[2]])  # nothing before it: no vector
    n = len(users)
    return ShownLists(
        users=np.array(users), times=np.array(times), queries=["even things", "odd things"] * (n // 2) + [""] * (n % 2),
        parts=np.array(parts, np.int8), held_out=np.zeros(n, bool), offsets=np.arange(n + 1) * wanted,
        items=np.concatenate(items).astype(np.int64), labels=np.concatenate(labels),
    )  # fmt: skip


class Hand(StageConfig):
    """Lists made by hand."""


def with_lists(run: Run, folder, lists: ShownLists | None = None) -> Run:
    """A copy of what `align` reads of a run, with shown lists."""
    copy = Run.create(folder)
    for name in ("prepare", "embed", "tokenize", "adapt"):
        shutil.copytree(run.path / name, copy.path / name)
    lists = shown_lists(Dataset.load(copy)) if lists is None else lists
    with copy.stage("engagement", Hand(), needs=["prepare"]).writing() as made:
        lists.save(made)
    return copy

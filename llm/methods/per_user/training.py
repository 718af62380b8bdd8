"""Training each user's own parameters, many users at once, to what separate runs would give.

The loss of a step is the sum over users of the mean over the user's own batch, so a user's row gets the
gradient of a run of their own; AdamW works number by number, and nothing is clipped across users. A user's
batches are keyed by seed, user and epoch, and everybody starts from the same row: a result does not depend on
who is trained beside whom (but for the last bits of a float). A user's run is `epochs` passes over their own
instances at a constant rate, so users of one group end at different steps: a row is put aside at its last
step.

Users are taken in groups that fit into a budget of bytes, the longest histories first; a finished group is a
shard on disk.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llm.backbone.conditions import NOTHING, Condition
from llm.methods.per_user.adapters import ROWS, Form, UserAdapters, UserTable, gather, write_rows
from llm.methods.stage2 import World
from llm.prompts.builder import Context
from llm.prompts.reading import Reading
from recsys.data.dataset import Dataset
from recsys.progress import Progress
from recsys.training import loop
from recsys.training.rows import rows_of_epoch

# of a user's row while it is trained: itself, gradient, two of Adam, the one put aside, a part of a batch
COPIES = 6
SAMPLE = 64  # instances whose longest prompt stands for all when groups are made


@dataclass(frozen=True)
class Course:
    """What is trained for each user, and how."""

    form: Form
    learning_rate: float
    epochs: int
    batch: int  # a user's own instances a step
    seed: int
    weight_decay: float = 0.0
    base: Condition = NOTHING  # what every request is told besides
    context: Context | None = None

    def reading(self, world: World, table: UserTable) -> Reading:
        """How requests are read with what was trained."""
        adapters = UserAdapters(self.form, table, world.model.device, self.base)
        return Reading(world.model, world.builder, adapters.eval(), self.context)


@dataclass(frozen=True)
class Diaries:
    """Which events each of some users learns from:
    those of `users[u]` are events[offsets[u] : offsets[u + 1]].
    """

    users: np.ndarray  # [U] ascending
    events: np.ndarray
    offsets: np.ndarray  # [U + 1]

    @classmethod
    def of(cls, dataset: Dataset, events: np.ndarray, at_most: int | None = None) -> Diaries:
        """`events` by user; of each only the latest `at_most`."""
        users, counts = np.unique(dataset.users[events], return_counts=True)
        ends = np.cumsum(counts)
        if at_most is not None:
            events = events[np.repeat(ends, counts) - np.arange(len(events)) <= at_most]
            ends = np.cumsum(np.minimum(counts, at_most))
        return cls(users, events, np.concatenate([[0], ends]).astype(np.int64))

    @property
    def counts(self) -> np.ndarray:
        return np.diff(self.offsets)

    def some(self, places: np.ndarray) -> Diaries:
        """The diaries of the users at `places` (ascending)."""
        parts = [self.events[self.offsets[at] : self.offsets[at + 1]] for at in places]
        offsets = np.concatenate([[0], np.cumsum(self.counts[places])]).astype(np.int64)
        return Diaries(self.users[places], np.concatenate([np.zeros(0, np.int64), *parts]), offsets)


class Lessons:
    """The instances of G users, laid one user after the other, with their prompts."""

    def __init__(self, world: World, diaries: Diaries, context: Context | None):
        data = world.dataset
        self.users, self.offsets = diaries.users, diaries.offsets
        self.requests = data.block(diaries.events, data.exclude_seen)
        self.targets = data.items[diaries.events]
        self.weights = data.weighed(diaries.events)
        self.prompts = [world.builder.prompt(request, context) for request in self.requests]

    def steps(self, course: Course) -> np.ndarray:
        """How many steps each user's run takes [G]."""
        return course.epochs * -(-np.diff(self.offsets) // course.batch)

    def batch(self, user: int, course: Course, step: int) -> np.ndarray:
        """Instances of step `step` of the user at place `user`: every epoch is a fresh permutation of their own, or a draw in
        proportion to their weights.
        """
        start, end = self.offsets[user], self.offsets[user + 1]
        epoch, part = divmod(step, -(-(end - start) // course.batch))
        weights = None if self.weights is None else self.weights[start:end]
        keys = ("own instances", int(self.users[user]), int(epoch))
        order = rows_of_epoch(int(end - start), weights, course.seed, *keys)
        return start + order[part * course.batch : (part + 1) * course.batch]


def train_group(label: str, world: World, course: Course, lessons: Lessons, checkpoint: Path) -> Tensor:
    """Train the rows [G, P] of G users side by side; each as it is after the user's own last step."""
    model, form, steps = world.model, course.form, lessons.steps(course)
    start = form.start(course.seed).to(model.device)
    rows = torch.nn.Parameter(start.repeat(len(lessons.users), 1))
    kept = rows.detach().clone()

    def put_aside(step: int) -> None:
        done = torch.from_numpy(np.flatnonzero(steps == step)).to(model.device)
        kept.index_copy_(0, done, rows.detach().index_select(0, done))

    def loss(step: int) -> Tensor:
        put_aside(step)
        going_on = np.flatnonzero(steps > step).tolist()
        batches = [(user, lessons.batch(user, course, step)) for user in going_on]
        at = np.concatenate([batch for _, batch in batches])
        owner = np.repeat([user for user, _ in batches], [len(batch) for _, batch in batches])
        weight = np.concatenate([np.full(len(batch), 1 / len(batch)) for _, batch in batches])
        known = np.ones(len(at), bool)
        own = form.condition(gather(rows, owner), known, lessons.users[owner])
        condition = course.base.beside(own)
        soft = condition.soft_tokens(len(at)).tolist()
        prompts = [
            world.builder.with_soft_tokens(lessons.prompts[index], count)
            for index, count in zip(at, soft, strict=True)
        ]
        log_p = model.item_log_probs(prompts, lessons.targets[at], condition)
        return -(log_p * torch.from_numpy(weight).to(log_p)).sum()

    optimizer = torch.optim.AdamW([rows], lr=course.learning_rate, weight_decay=course.weight_decay)
    loop.fit(label, int(steps.max()), {"rows": rows, "kept": kept}, optimizer, loss, checkpoint, quiet=True)
    put_aside(int(steps.max()))
    return kept


def groups(
    world: World, course: Course, diaries: Diaries, budget: int, batch: int | None = None
) -> list[np.ndarray]:
    """Places of users in `diaries`, each array ascending:
    as many as `budget` bytes can hold, alike histories together.

    `batch`: of a user's instances, how many are forwarded at once; None: the course's.
    Counted are the copies of a row and what a step keeps for the way back: a layer's working numbers for
    every token.
    """
    model = world.model
    first = world.dataset.block(diaries.events[:SAMPLE], False)
    tokens = course.form.soft_tokens + model.head.states
    tokens += max(len(world.builder.prompt(request, course.context)) for request in first)
    layers = model.inner.config.num_hidden_layers
    instance = tokens * layers * model.footprint.working + 4 * 4 * course.form.size
    nodes = model.trie.n_levels * model.footprint.node
    taken = COPIES * 4 * course.form.size + np.minimum(diaries.counts, batch or course.batch) * (
        instance + nodes
    )
    order = np.argsort(-diaries.counts, kind="stable")
    total = np.concatenate([[0], np.cumsum(taken[order])])
    found, start = [], 0
    while start < len(order):
        end = int(np.searchsorted(total, total[start] + budget, side="right")) - 1
        end = max(end, start + 1)  # a user whose own run is above the budget is trained alone
        found.append(np.sort(order[start:end]))
        start = end
    return found


def train_users(
    label: str, world: World, course: Course, diaries: Diaries, budget: int, folder: Path, quiet: bool = False
) -> list[Path]:
    """Train every user of `diaries`; returns the shards in `folder`, which `UserTable.open` reads together.

    Call it again after a kill: finished groups are kept, and the group that was at work goes on from its
    checkpoint.
    """
    if not len(diaries.events):
        raise ValueError(f"{label}: nobody has own events to learn from")
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    with Progress(total=len(diaries.users), desc=label, unit="user", disable=quiet, mininterval=1.0) as bar:
        for number, places in enumerate(groups(world, course, diaries, budget)):
            path, checkpoint = folder / f"{number:05d}.safetensors", folder / f".group-{number}"
            if not path.exists():
                lessons = Lessons(world, diaries.some(places), course.context)
                rows = train_group(f"{label}, group {number}", world, course, lessons, checkpoint)
                write_rows(path, lessons.users, {ROWS: rows})
            shutil.rmtree(checkpoint, ignore_errors=True)
            shards.append(path)
            bar.update(len(places))
    return shards

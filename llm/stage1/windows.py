"""Stage 1's training sequences: windows of consecutive items of one user, in which every item is a target.

Events of the same second are not in each other's history (the one rule for ties). So each epoch draws one
event of every tie group, after which times rise strictly and "what stands before" is "what came before".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from llm.prompts.builder import PromptBuilder
from llm.prompts.contexts import Joined, Profile, Records, RecordSearch
from recsys.data.dataset import Dataset
from recsys.data.phrases import Phrases
from recsys.embeddings.sequences import one_of_each_tie
from recsys.seeds import rng
from recsys.training import distributed
from recsys.training.rows import in_proportion

RECORD_COUNTS = (1, 2, 4)  # k of the windows that carry retrieved records: the papers'


@dataclass(frozen=True)
class Window:
    """Token row and its targets: `items` [n] whose first code is predicted at column `starts[i] − 1` of `tokens`.

    `weights` [n] of the targets' losses; None: all are 1.
    """

    tokens: list[int]
    items: np.ndarray
    starts: np.ndarray
    weights: np.ndarray | None = None


def windows_of_epoch(dataset: Dataset, role: int, size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Event indices of each window, shuffled: at most `size` consecutive events of one user,
    times strictly rising.

    The cut points move from epoch to epoch. Events of `role` and of no other are used. Where events have weights, a window comes as
    often as its events weigh on average (`WindowBuilder` weighs them within it), so that each target counts in proportion.
    """
    generator = rng(seed, "windows", epoch)
    events = dataset.events(role)
    events = events[one_of_each_tie(dataset.users[events], dataset.times[events], generator)]
    users = dataset.users[events]
    starts = np.searchsorted(users, users)
    place = np.arange(len(events)) - starts + generator.integers(0, size, dataset.n_users)[users]
    chunk = users * (place.max(initial=0) // size + 2) + place // size
    cuts = np.flatnonzero(np.diff(chunk)) + 1
    windows, weights = np.split(events, cuts), dataset.weighed(events)
    if weights is None:
        return [windows[index] for index in generator.permutation(len(windows))]
    means = np.array([dataset.weighed(window).mean() for window in windows])  # type: ignore[union-attr]
    return [windows[index] for index in in_proportion(means, generator)]


@dataclass(frozen=True)
class Shares:
    """Which shares of the windows carry what; each is drawn apart."""

    profile: float  # a text profile
    query: float  # a query about the last item
    records: float  # retrieved records (RAG)


class WindowBuilder:
    """Turns windows into token rows, some with a text profile, a query about their last item,
    or retrieved records.

    A query speaks of one item, and records are retrieved for one, so in a window that carries either only the
    last item is a target; one with records is the very prompt of its instance.
    """

    def __init__(
        self,
        dataset: Dataset,
        builder: PromptBuilder,
        shares: Shares,
        seed: int,
        phrases: Phrases | None = None,
    ):
        self.dataset, self.builder, self.shares, self.seed = dataset, builder, shares, seed
        self.phrases = phrases or Phrases(dataset)
        self.search = RecordSearch(dataset.catalogue) if shares.records else None

    def window(self, events: np.ndarray, epoch: int) -> Window:
        """The token row of a window's `events`; its targets weigh as their events do, over the mean of the window."""
        made, weights = self._window(events, epoch), self.dataset.weighed(events)
        if weights is None:
            return made
        return replace(made, weights=(weights / weights.mean())[-len(made.items) :])

    def _window(self, events: np.ndarray, epoch: int) -> Window:
        shares = (self.shares.profile, self.shares.query, self.shares.records)
        # nothing to draw: a generator takes three times as long as the rest of a plain window
        if not any(shares):
            return self._many_targets(events, False, None)
        first = int(events[0])  # by user and moment: an event's number counts other users' test events
        moment = int(self.dataset.users[first]), int(self.dataset.times[first])
        generator = rng(self.seed, "window", epoch, *moment)
        with_profile, with_query, with_records = generator.random(3) < shares
        items = self.dataset.items[events]
        query = self.phrases.query(int(items[-1]), generator) if with_query else None
        if with_records and self.search is not None:
            records = Records(self.search, RECORD_COUNTS[generator.integers(len(RECORD_COUNTS))])
            context = Joined((Profile(), records)) if with_profile else records
            request = replace(self.dataset.request(int(events[-1]), False), query=query)
            return self._one_target(self.builder.prompt(request, context), int(items[-1]))
        return self._many_targets(events, with_profile, query)

    def _one_target(self, prompt: list[int], item: int) -> Window:
        target = np.array([item])
        return Window(prompt + self.builder.target_tokens[item].tolist(), target, np.array([len(prompt)]))

    def _many_targets(self, events: np.ndarray, with_profile: bool, query: str | None) -> Window:
        data, builder = self.dataset, self.builder
        items, context = data.items[events], []
        if with_profile:
            past = slice(data.offsets[data.users[events[0]]], data.history_end[events[0]])
            first = data.request(int(events[0]), False)
            context = Profile().tokens(builder, first, items[:0], data.items[past])
        head, asked = builder.head(context), builder.asked(query)
        width, before = builder.item_tokens.shape[1], builder.item_tokens[items[:-1]].reshape(-1).tolist()
        last = builder.target_tokens[items[-1]].tolist()
        if asked:
            start = len(head) + len(before) + len(asked)
            return Window(head + before + asked + last, items[-1:], np.array([start]))
        starts = len(head) + width * np.arange(len(items))
        return Window(head + before + last, items, starts)


class WindowBatches:
    """`batches[step]`: this process's share of the windows of an optimiser step, epoch after epoch.

    Only the current epoch is in memory.
    """

    def __init__(self, builder: WindowBuilder, role: int, size: int, batch: int):
        self.builder, self.role, self.size, self.batch = builder, role, size, batch
        self._counts: list[int] = []  # batches an epoch
        self._epoch, self._windows = -1, [np.zeros(0, np.int64)]

    def __getitem__(self, step: int) -> list[Window]:
        epoch = 0
        while True:
            if epoch == len(self._counts):
                self._load(epoch)
                self._counts.append(-(-len(self._windows) // self.batch))
            if step < self._counts[epoch]:
                break
            step -= self._counts[epoch]
            epoch += 1
        self._load(epoch)
        chosen = self._windows[step * self.batch : (step + 1) * self.batch]
        return [self.builder.window(events, epoch) for events in chosen[distributed.share(len(chosen))]]

    def _load(self, epoch: int) -> None:
        if epoch != self._epoch:
            data, seed = self.builder.dataset, self.builder.seed
            self._windows, self._epoch = windows_of_epoch(data, self.role, self.size, seed, epoch), epoch
            if not self._windows:
                raise ValueError("there is no training event for this stage; check the split's fractions")

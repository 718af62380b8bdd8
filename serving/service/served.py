"""A loaded run as a service answers from it: its data, and on top of it the events that the state has taken in.

Where an event is: in the state, whether it came through HTTP or through `prelude update`; by default that is the run's own, RUN/live. With
another `--state` histories are the data, then RUN/live, then the state, each event once. Nothing of it is read before somebody is asked about.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from recsys.data.later_events import LiveHistories
from recsys.door.times import one_moment
from recsys.door.values import one_id
from recsys.embeddings.embed import load_conditioning_items
from recsys.run import Run
from serving.answering.kept.trained_rows import key_of
from serving.answering.known import KnownItems, checked_id, known_items
from serving.answering.live import AHEAD_S, FAR_DAYS
from serving.answering.methods import Methods
from serving.answering.recommender import Recommender
from serving.config.truth import config_of
from serving.service.settings import ServiceConfig
from serving.state.events import Event, events_after, last_event
from serving.state.lists import changes_after, get_list, last_change
from serving.state.store import State

MOST_MINE = 100_000  # events whose coming is waited for, and that wait to be learned


class Before(NamedTuple):
    """The run that was served before: its name, and against it (id, title) of items that are new or have other codes."""

    name: str
    new: list[tuple[str, str]]
    moved: list[tuple[str, str]]
    gone: int


class Served:
    """One run, loaded, and the state on top of it. One thread at a time may ask it (`serving.service.batches`)."""

    def __init__(self, run: Path, state: State, settings: ServiceConfig, until: int | None = None):
        """`until`: read events up to that one; default: all. Raises `RunError` for an unknown or broken run."""
        self.path, self.state, self.settings = run, state, settings
        # up to which change is read, from before the run is: who is deleted while it is loaded is heard of
        self.change = last_change(state)
        self.said: set[int] = set()  # changes that are this run's own taking over
        opened = Run.serving(run)
        self.recommender = Recommender(
            Methods(opened, config_of(opened)), state=state, taken=tuple(settings.taken)
        )
        self.data = self.recommender.methods.dataset
        self.histories = self.recommender.live.histories
        self.is_clock = (
            self.recommender.methods.run.read_json("prepare", "prepare.json")["time"] == "unix_seconds"
        )
        # people are gone ("") or the run is another (its name): it is loaded again before anything is answered
        self.outdated: str | None = None
        self.gone = False  # is it so for people, whatever else?
        self.before: Before | None = None  # how items differ from those of the run that was served before
        self._lists: dict[str, KnownItems] = {}
        # ids of events that this process took in, and those of them that rows of P_u have not learned: user id, item, time
        self.mine: set[str] = set()
        self.to_learn: list[tuple[str, int, int]] = []
        self.recommender.live.replay(until)

    @property
    def methods(self) -> Methods:
        return self.recommender.methods

    @property
    def seq(self) -> int:
        """Up to which event the state is read."""
        return self.recommender.live.seq

    @cached_property
    def conditioning_items(self) -> np.ndarray:
        """Vectors of items of length 1 in the space of users' vectors, [N, d]."""
        vectors = load_conditioning_items(self.methods.run)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)

    @cached_property
    def state_key(self) -> str:
        """What trained rows of P_u are of."""
        return key_of(self.methods.run, self.methods.config.online.method)

    def codes(self) -> np.ndarray:
        """The codes of every item, [N, L]."""
        trie = self.methods.model.trie
        return trie.codes(trie.path(torch.arange(len(self.data.catalogue)))).cpu().numpy()

    def succeed(self, other: Served) -> None:
        """Keep how items differ from those of the run that was served before: `other`'s, or, of the same run read again, those that it kept."""
        if self.path == other.path:
            self.before = other.before
            return
        ours, theirs = self.data.catalogue, other.data.catalogue
        mine, old = self.codes(), other.codes()
        there = np.array([-1 if (at := theirs.number(id_)) is None else at for id_ in ours.item_ids])
        moved = there >= 0
        if mine.shape[1] == old.shape[1]:
            moved = moved & (mine != old[there]).any(axis=1)

        def named(which: np.ndarray) -> list[tuple[str, str]]:
            return [(str(ours.item_ids[at]), ours.titles[at]) for at in np.flatnonzero(which).tolist()]

        gone = len(theirs) - int((there >= 0).sum())
        self.before = Before(other.path.name, named(there < 0), named(moved), gone)

    def catch_up(self, until: int | None = None) -> None:
        """See what this or another process has stored since (`until`: up to that event)."""
        moved = last_event(self.state) if until is None else until
        fresh = self._to_learn(moved) if self.mine and self.settings.learn else []
        changes = changes_after(self.state, self.change)
        trained = any(change.kind == "state" and change.name == self.state_key for change in changes)
        if moved != self.seq or trained:
            self.recommender.live.replay(moved)
        if trained:
            self.recommender.forget_sessions()
        if fresh:  # the oldest go where more come than are learned
            self.to_learn = [*self.to_learn, *fresh][-MOST_MINE:]
        for change in changes:
            self.change = change.seq
            if change.kind == "list":
                self._lists.pop(change.name, None)
            elif change.kind == "gone" or (change.kind == "run" and change.seq not in self.said):
                self.outdated = change.name or self.outdated or ""
                self.gone |= change.kind == "gone"

    def named(self, name: str, what: str) -> KnownItems:
        """A stored list, looked at once. Raises `ValueError` where there is none of that name."""
        if name not in self._lists:
            ids = get_list(self.state, name)
            if ids is None:
                raise ValueError(f"{what} names the list {name!r}, and there is none of that name")
            numbers = [self._number(item_id) for item_id in ids]
            known = np.array([number for number in numbers if number is not None], np.int64)
            first = next((i for i, number in zip(ids, numbers, strict=True) if number is None), None)
            self._lists[name] = KnownItems(known, len(ids), len(ids) - len(known), first)
        return self._lists[name]

    def _number(self, item_id: str) -> int | None:
        """An item however its id is spelled: most are written as the run writes them, and letters and digits are in one way only."""
        number = self.data.catalogue.number(item_id)
        if number is not None or (item_id.isascii() and item_id.isalnum()):
            return number
        try:
            found = one_id(item_id)
        except ValueError:  # of millions of ids one that is none is an unknown one
            return None
        return None if found is None else self.data.catalogue.number(found)

    def items_of(self, ids: Sequence | str | None, what: str) -> KnownItems:
        """A list by its name, or of ids. Raises `ValueError`."""
        return self.named(ids, what) if isinstance(ids, str) else known_items(self.data.catalogue, ids, what)

    def values_of(self, item: int) -> list[str]:
        """The values of an item in the catalogue's columns, each with its column."""
        columns = self.data.catalogue.columns
        return [f"{name}: {value}" for name, column in columns.items() for value in column[item]]

    @cached_property
    def values(self) -> Counter[str]:
        """How many items have each value."""
        return Counter(value for item in range(len(self.data.catalogue)) for value in self.values_of(item))

    def event(self, place: str, given) -> Event:
        """A form's event (`serving.service.forms.EventForm`) with ids as the run writes them and its moment.

        Any thread may ask it. Raises `ValueError` naming the place of a blank or wrong id, or of a time that cannot be.
        """
        user_id = checked_id(given.user_id, f"{place}.user_id")
        item_id = checked_id(given.item_id, f"{place}.item_id")
        for name, value in (("user_id", user_id), ("item_id", item_id)):
            if value is None or len(value) > 200:
                raise ValueError(f"{place}.{name} is blank or longer than 200 characters")
        assert user_id is not None
        assert item_id is not None
        if given.timestamp is None:
            moment = int(time.time()) if self.is_clock else self._now_of(user_id)
        else:
            moment = one_moment(given.timestamp, f"{place}.timestamp", self.is_clock)
            if self.is_clock and moment > time.time() + AHEAD_S:
                raise ValueError(f"{place}.timestamp is more than a day ahead of this machine's clock")
            if not self.is_clock and moment > self.data.end + FAR_DAYS * 86_400:
                raise ValueError(f"{place}.timestamp is far beyond the run's last")
        is_timed = given.timestamp is not None
        return Event(given.event_id, user_id, item_id, given.type, moment, given.recommendation_id, is_timed)

    def _now_of(self, user_id: str) -> int:
        """The moment after all that somebody did, read anew: whoever asks is not the thread that has the histories."""
        histories = LiveHistories(self.data, self.histories.later)
        return histories.moment(histories.user_index(user_id))

    def _to_learn(self, until: int) -> list[tuple[str, int, int]]:
        """What of this process' own events is new history, for rows of P_u; ids of events that were met are let go."""
        found: list[tuple[str, int, int]] = []
        held: dict[str, set[tuple[int, int]]] = {}
        at = self.seq
        while some := events_after(self.state, at, until):
            at = some[-1].seq
            for kept in some:
                event, item = kept.event, self.data.catalogue.number(kept.event.item_id)
                if item is None or event.event_id not in self.mine or event.type not in self.settings.taken:
                    continue
                if item >= (self.data.catalogue.n_trained or len(self.data.catalogue)):
                    continue  # the generator can be asked for no newcomer
                user = self.histories.user_index(event.user_id)
                if event.user_id not in held:
                    items, times = ((), ()) if user is None else self.histories.events(user)
                    held[event.user_id] = set(zip(map(int, items), map(int, times), strict=True))
                if (item, event.time) not in held[event.user_id]:
                    held[event.user_id].add((item, event.time))
                    found.append((event.user_id, item, event.time))
            self.mine -= {kept.event.event_id for kept in some}
        if (
            len(self.mine) > MOST_MINE
        ):  # sent again, they never come; what is forgotten here is not learned by P_u
            self.mine.clear()
        return found

"""What every later stage reads: events as integers, their roles, and histories that cannot see the future."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.artifacts.arrays import read_columns
from recsys.data.catalogue import TOTALS, Catalogue, ItemTotals
from recsys.data.splits import FIT, PERSONALIZE, WARM, begins_moment, had_before, is_sorted
from recsys.recommender import Request
from recsys.requests import Requests, made
from recsys.run import Run

AGAINST = "against.parquet"  # where the data has events that are against an item


@dataclass(frozen=True)
class Against:
    """What people turned down, by (user, time): users, items, times [A] (int64). Never a positive, nor part of a history."""

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray

    def before(self, user: int, time: int) -> np.ndarray:
        """Items that the user had turned down strictly before `time`."""
        mine = slice(*np.searchsorted(self.users, [user, user + 1]))
        return self.items[mine][self.times[mine] < time]

    def without(self, user: int) -> Against:
        keep = self.users != user
        return Against(self.users[keep], self.items[keep], self.times[keep])

    @classmethod
    def load(cls, path: Path) -> Against:
        columns = read_columns(path)
        return cls(*(columns[name] for name in ("user", "item", "time")))

    def save(self, folder: Path) -> None:
        pq.write_table(
            pa.table({"user": self.users, "item": self.items, "time": self.times}), folder / AGAINST
        )


@dataclass(eq=False)
class Dataset:
    """E events of U users, sorted by (user, time); within a moment in an order drawn by names (`recsys.data.build.TieBreak`).

    The history of event e is events `offsets[users[e]] : history_end[e]`: those strictly earlier than
    `times[e]`. That is the one rule for ties: events of the same second are not in each other's history.
    """

    # [U] str (object); "" where a person was deleted: the place stays, so that others keep theirs
    user_ids: np.ndarray
    catalogue: Catalogue  # N items
    users: np.ndarray  # [E] int64
    items: np.ndarray  # [E] int64
    times: np.ndarray  # [E] int64: unix seconds (an ordinal where the data has order but no time)
    weights: np.ndarray  # [E] float32; read as `relative_weights`
    roles: np.ndarray  # [E] int8: FIT, PERSONALIZE, VALIDATION, TEST or UNUSED of recsys.data.splits
    queries: pd.DataFrame  # user (int, -1: nobody known), item (int), timestamp, query (str)
    ratings: np.ndarray | None = None  # [E] float32, NaN where there is none; None: the data has no ratings
    kinds: np.ndarray | None = None  # [E] str (object): the `event` column; None: the data has none
    against: Against | None = None  # what people turned down; None: the data has no such events
    # [U] str (object): WARM, or what a user split made of the user (recsys.data.user_splits); None: all are WARM
    user_groups: np.ndarray = None  # type: ignore[assignment]
    held_out_queries: float = 0.0  # share of query texts that no training reads (recsys.data.phrases)
    exclude_seen: bool = True  # the protocol's answer to: may what a user has had be recommended again?
    exclude_against: bool = True  # is what a user has turned down kept from what is recommended to them?
    # of data whose events were left out (serving.export.folder); None: counted
    totals: ItemTotals | None = None
    one_clock: bool = False  # is the split at one moment for everybody (global_time)?
    end: int = 0  # the moment after all that was read (unix seconds or an ordinal); 0: after the last event
    offsets: np.ndarray = field(init=False)  # [U + 1] int64: events of user u are offsets[u] : offsets[u + 1]

    def __post_init__(self) -> None:
        if self.user_groups is None:
            self.user_groups = np.full(self.n_users, WARM, dtype=object)
        assert is_sorted(self.users, self.times), "events must be sorted by user and time"
        self.end = self.end or int(self.times.max(initial=-1)) + 1
        self.offsets = np.searchsorted(self.users, np.arange(self.n_users + 1)).astype(np.int64)

    @classmethod
    def load(cls, run: Run) -> Dataset:
        """Read what the `prepare` stage of `run` left. Raises `RunError` where it is missing or damaged."""
        columns = read_columns(run.artifact("prepare", "events.parquet"))
        users = pq.ParquetFile(run.artifact("prepare", "users.parquet")).read()
        queries = pq.ParquetFile(run.artifact("prepare", "queries.parquet")).read()
        report = run.read_json("prepare", "prepare.json")
        record = run.record("prepare") or {"artifacts": {}}
        return cls(
            user_ids=np.array(users["user_id"].to_pylist(), dtype=object),
            catalogue=Catalogue.load(run.artifact("prepare", "items.parquet").parent),
            users=columns["user"],
            items=columns["item"],
            times=columns["time"],
            weights=columns["weight"],
            roles=columns["role"],
            queries=queries.to_pandas(),
            ratings=columns.get("rating"),
            kinds=columns.get("event"),
            user_groups=np.array(users["group"].to_pylist(), dtype=object)
            if "group" in users.column_names
            else None,  # type: ignore[arg-type]
            against=Against.load(run.artifact("prepare", AGAINST))
            if AGAINST in record["artifacts"]
            else None,
            held_out_queries=report.get("held_out_queries", 0.0),
            exclude_seen=report["exclude_seen"],
            exclude_against=report.get("exclude_against", True),
            one_clock=report.get("split", {}).get("kind") == "global_time",
            totals=ItemTotals.load(run.artifact("prepare", TOTALS))
            if TOTALS in record["artifacts"]
            else None,
            end=report["time_range"][1] + 1,  # not of the events: a deletion must not set the clock back
        )

    def save(self, folder: Path) -> None:
        """Write `events.parquet`, `users.parquet`, `items.parquet` and `queries.parquet`."""
        self.save_users(folder)
        self.catalogue.save(folder)

    def save_users(self, folder: Path) -> None:
        """Write `events.parquet`, `users.parquet` and `queries.parquet`: all that speaks of users."""
        events: dict[str, Any] = {
            "user": self.users,
            "item": self.items,
            "time": self.times,
            "weight": self.weights,
            "role": self.roles,
        }
        if self.ratings is not None:
            events["rating"] = self.ratings
        if self.kinds is not None:
            events["event"] = pa.array(self.kinds, pa.string())
        queries = pa.Table.from_pandas(self.queries, preserve_index=False).replace_schema_metadata(None)
        pq.write_table(pa.table(events), folder / "events.parquet")
        people = {"user_id": pa.array(self.user_ids, pa.string())}
        if (self.user_groups != WARM).any():  # a run without a user split keeps the bytes it always had
            people["group"] = pa.array(self.user_groups, pa.string())
        pq.write_table(pa.table(people), folder / "users.parquet")
        pq.write_table(queries, folder / "queries.parquet")
        if self.against is not None:
            self.against.save(folder)

    def without(self, user: int) -> Dataset:
        """The same data without a user's events, queries and id; every user keeps their integer."""
        keep = self.users != user
        user_ids = self.user_ids.copy()
        user_ids[user] = ""
        groups = self.user_groups.copy()
        groups[user] = WARM
        return replace(
            self,
            user_ids=user_ids,
            user_groups=groups,
            users=self.users[keep],
            items=self.items[keep],
            times=self.times[keep],
            weights=self.weights[keep],
            roles=self.roles[keep],
            queries=self.queries[self.queries["user"] != user].reset_index(drop=True),
            ratings=None if self.ratings is None else self.ratings[keep],
            kinds=None if self.kinds is None else self.kinds[keep],
            against=None if self.against is None else self.against.without(user),
        )

    def without_users(self) -> Dataset:
        """The same items, and nobody: one empty place for a user, no event, no query; totals of items stay."""
        no_events: dict[str, Any] = {
            name: None if (values := getattr(self, name)) is None else values[:0]
            for name in ("users", "items", "times", "weights", "roles", "ratings", "kinds")
        }
        return replace(
            self,
            user_ids=np.array([""], dtype=object),
            user_groups=None,  # type: ignore[arg-type]
            queries=self.queries[:0],
            against=None,
            totals=self.item_totals,
            **no_events,
        )

    @cached_property
    def item_totals(self) -> ItemTotals:
        """Of the training events; see `ItemTotals`."""
        if self.totals is not None:
            return self.totals
        training = np.isin(self.roles, (FIT, PERSONALIZE))
        return ItemTotals.of(self.items[training], self.times[training], self.n_items, self.weighed(training))

    @cached_property
    def relative_weights(self) -> np.ndarray | None:
        """Weights [E] (float64) over their mean on the training events; None where those are alike, and so weigh nothing.

        They weigh what is learned from: edges, counts, and how often an event is a target. A history is a list of items, as a
        service sends it, without weights; a held-out target is measured as one.
        """
        training = self.weights[np.isin(self.roles, (FIT, PERSONALIZE))].astype(np.float64)
        if not len(training) or training.min() == training.max():
            return None
        return self.weights / training.mean()

    def weighed(self, events: np.ndarray) -> np.ndarray | None:
        """The `relative_weights` of some events (indices, or a mask); None where events weigh nothing."""
        return None if self.relative_weights is None else self.relative_weights[events]

    @cached_property
    def learned_until(self) -> int | None:
        """After the last training event: of later moments nothing is learned, whoever it is of. None: everybody has a moment of their own."""
        training = np.isin(self.roles, (FIT, PERSONALIZE))
        return int(self.times[training].max(initial=-1)) + 1 if self.one_clock else None

    @cached_property
    def history_end(self) -> np.ndarray:
        """Int64 [E]: where the history of each event ends."""
        ends = np.arange(len(self.users), dtype=np.int64)
        ends[~self.begins_moment] = 0
        return np.maximum.accumulate(ends, out=ends)

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        return len(self.catalogue)

    @cached_property
    def user_numbers(self) -> dict[str, int]:
        """User id -> the integer that stands for it. A deleted person's place has no id, and is not reachable."""
        return {user_id: number for number, user_id in enumerate(self.user_ids) if user_id}

    def user_index(self, user_id: str) -> int | None:
        """The integer of a user id, or None for a user the run has never seen."""
        return self.user_numbers.get(user_id)

    def events(self, role: int) -> np.ndarray:
        """Indices of the events of one role, ascending."""
        return np.flatnonzero(self.roles == role)

    def instances(self, role: int) -> np.ndarray:
        """The events of one role that can be asked for, ascending: where what was had may not come again, repeats cannot.

        The one answer to "may what a user has had come again?" for Stage 2, validation, temperatures, weights, checks and test.
        """
        return self.askable(self.events(role))

    def askable(self, events: np.ndarray) -> np.ndarray:
        """Those of `events` that can be asked for; see `instances`. What was turned down before does not come again either."""
        if self.exclude_seen:
            events = events[~self.is_repeat[events]]
        return events[~self.was_turned_down(events)] if self.exclude_against else events

    def was_turned_down(self, events: np.ndarray) -> np.ndarray:
        """Bool, the shape of `events`: had the user turned the item down strictly before the event's moment?"""
        if self.against is None:
            return np.zeros(len(events), bool)
        first = (
            pd.Series(self.against.times).groupby(self._pairs(self.against.users, self.against.items)).min()
        )
        pairs = pd.Series(self._pairs(self.users[events], self.items[events]))
        return np.asarray(pairs.map(first) < self.times[events], bool)  # NaN, of what never was, is not

    def not_again(self, user: int | None, time: int, history: np.ndarray, exclude_seen: bool) -> np.ndarray:
        """Items that may not be recommended at a moment, each once: the one rule of `Dataset.request` and of all who ask.

        What the user has had (`history`), where `exclude_seen` says so; what they had turned down before, with `exclude_against`;
        what is retired.
        """
        parts = [history if exclude_seen else history[:0], self.catalogue.retired]
        if self.exclude_against and self.against is not None and user is not None:
            parts.append(self.against.before(user, time))
        return np.unique(np.concatenate(parts))

    @cached_property
    def is_repeat(self) -> np.ndarray:
        """Bool [E]: had the user had the item strictly before the event's moment?"""
        return had_before(self.items, self.times, self.users, self.offsets[1:])

    @property
    def begins_moment(self) -> np.ndarray:
        """Bool [E]: is it the first event of its user and moment?"""
        return begins_moment(self.users, self.times)

    def _pairs(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """A number for each pair of a user and an item."""
        return users * max(self.n_items, 1) + items

    def before(self, user: int, time: int) -> tuple[np.ndarray, np.ndarray]:
        """Items and times of the user's events strictly earlier than `time`, oldest first."""
        start, stop = self.offsets[user], self.offsets[user + 1]
        end = start + np.searchsorted(self.times[start:stop], time, side="left")
        return self.items[start:end], self.times[start:end]

    def request(self, event: int, exclude_seen: bool) -> Request:
        """The request whose answer event `event` is. It can exclude seen items, but never the answer."""
        return self.block(np.array([event]), exclude_seen)[0]

    def requests(self, events: np.ndarray, exclude_seen: bool) -> Requests:
        """The requests of `events`, made in blocks as they are looked at."""
        return Requests(events, lambda some: self.block(some, exclude_seen))

    def block(self, events: np.ndarray, exclude_seen: bool) -> list[Request]:
        """The requests of `events`, made together; see `request`."""
        users, against = self.users[events], self.against if self.exclude_against else None
        histories = self.offsets[users], self.history_end[events]
        turned_down = None if against is None else (against.users, against.items, against.times)
        return made(events, users, histories, self.items, self.times, self.n_items, exclude_seen, turned_down)

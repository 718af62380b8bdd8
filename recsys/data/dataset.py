"""What every later stage reads: events as integers, their roles, and histories that cannot see the future."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data.catalogue import Catalogue
from recsys.data.splits import FIT, PERSONALIZE, ROLE_NAMES, TEST, VALIDATION, WARM
from recsys.recommender import Request
from recsys.run import Run

TOTALS = "item_totals.parquet"  # in place of the events, where a run was exported without users


@dataclass(frozen=True)
class ItemTotals:
    """What is known of each item [N] from everybody's training events (FIT and PERSONALIZE),
    and of nobody in particular.
    """

    counts: np.ndarray  # int64: how many events
    # int64: the place of its last event among all in time, a later row winning ties; −1: none
    last: np.ndarray

    @classmethod
    def of(cls, items: np.ndarray, times: np.ndarray, n_items: int) -> ItemTotals:
        """Counted from events [E]: `items` and `times` (unix seconds)."""
        last = np.full(n_items, -1, np.int64)
        # the last write of an item wins
        last[items[np.argsort(times, kind="stable")]] = np.arange(len(items))
        return cls(np.bincount(items, minlength=n_items), last)

    @classmethod
    def load(cls, path: Path) -> ItemTotals:
        table = pq.ParquetFile(path).read()
        return cls(np.array(table["events"].to_numpy()), np.array(table["last"].to_numpy()))

    def save(self, folder: Path) -> None:
        """Write `item_totals.parquet`; `last` as ranks, from which no number of events can be told."""
        touched = np.flatnonzero(self.last >= 0)
        ranks = self.last.copy()
        ranks[touched[np.argsort(self.last[touched], kind="stable")]] = np.arange(len(touched))
        pq.write_table(pa.table({"events": self.counts, "last": ranks}), folder / TOTALS)


@dataclass(eq=False)
class Dataset:
    """E events of U users, sorted by (user, time, row of the file).

    The history of event e is events `offsets[users[e]] : history_end[e]`: those strictly earlier than
    `times[e]`. That is the one rule for ties: events of the same second are not in each other's history.
    """

    # [U] str (object); "" where a person was deleted: the place stays, so that others keep theirs
    user_ids: np.ndarray
    catalogue: Catalogue  # N items
    users: np.ndarray  # [E] int64
    items: np.ndarray  # [E] int64
    times: np.ndarray  # [E] int64: unix seconds (an ordinal where the data has order but no time)
    weights: np.ndarray  # [E] float32
    roles: np.ndarray  # [E] int8: FIT, PERSONALIZE, VALIDATION, TEST or UNUSED of recsys.data.splits
    queries: pd.DataFrame  # user (int, -1: nobody known), item (int), timestamp, query (str)
    ratings: np.ndarray | None = None  # [E] float32, NaN where there is none; None: the data has no ratings
    kinds: np.ndarray | None = None  # [E] str (object): the `event` column; None: the data has none
    # [U] str (object): WARM, or what a user split made of the user (recsys.data.user_splits); None: all are
    # WARM
    user_groups: np.ndarray = None  # type: ignore[assignment]
    held_out_queries: float = 0.0  # share of query texts that no training reads (recsys.data.phrases)
    exclude_seen: bool = True  # the protocol's answer to: may what a user has had be recommended again?
    # of data whose events were left out (serving.export.folder); None: counted
    totals: ItemTotals | None = None
    end: int = 0  # the moment after all that was read (unix seconds or an ordinal); 0: after the last event
    offsets: np.ndarray = field(init=False)  # [U + 1] int64: events of user u are offsets[u] : offsets[u + 1]
    history_end: np.ndarray = field(init=False)  # [E] int64

    def __post_init__(self) -> None:
        if self.user_groups is None:
            self.user_groups = np.full(self.n_users, WARM, dtype=object)
        order = np.lexsort((self.times, self.users))
        assert (order == np.arange(len(order))).all(), "events must be sorted by user and time"
        self.end = self.end or int(self.times.max(initial=-1)) + 1
        self.offsets = np.searchsorted(self.users, np.arange(self.n_users + 1)).astype(np.int64)
        starts = np.ones(len(self.users), dtype=bool)  # the first event of each (user, time)
        starts[1:] = (self.users[1:] != self.users[:-1]) | (self.times[1:] != self.times[:-1])
        self.history_end = np.maximum.accumulate(np.where(starts, np.arange(len(starts)), 0)).astype(np.int64)

    @classmethod
    def load(cls, run: Run) -> Dataset:
        """Read what the `prepare` stage of `run` left. Raises `RunError` where it is missing or damaged."""
        events = pq.ParquetFile(run.artifact("prepare", "events.parquet")).read()
        columns = {name: np.array(events[name].to_numpy()) for name in events.column_names}  # writable copies
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
            user_groups=np.array(
                users["group"].to_pylist() if "group" in users.column_names else [WARM] * len(users),
                dtype=object,
            ),
            held_out_queries=report.get("held_out_queries", 0.0),
            exclude_seen=report["exclude_seen"],
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
        )

    def without_users(self) -> Dataset:
        """The same items, and nobody: one empty place for a user, no event, no query;
        totals of items stay.
        """
        no_events: dict[str, Any] = {
            name: None if (values := getattr(self, name)) is None else values[:0]
            for name in ("users", "items", "times", "weights", "roles", "ratings", "kinds")
        }
        return replace(
            self,
            user_ids=np.array([""], dtype=object),
            user_groups=None,  # type: ignore[arg-type]
            queries=self.queries[:0],
            totals=self.item_totals,
            **no_events,
        )

    @cached_property
    def item_totals(self) -> ItemTotals:
        """Of the training events; see `ItemTotals`."""
        training = np.isin(self.roles, (FIT, PERSONALIZE))
        return self.totals or ItemTotals.of(self.items[training], self.times[training], self.n_items)

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        return len(self.catalogue)

    @cached_property
    def user_numbers(self) -> dict[str, int]:
        """User id -> the integer that stands for it.
        A deleted person's place has no id, and is not reachable.
        """
        return {user_id: number for number, user_id in enumerate(self.user_ids) if user_id}

    def user_index(self, user_id: str) -> int | None:
        """The integer of a user id, or None for a user the run has never seen."""
        return self.user_numbers.get(user_id)

    def events(self, role: int) -> np.ndarray:
        """Indices of the events of one role, ascending."""
        return np.flatnonzero(self.roles == role)

    def before(self, user: int, time: int) -> tuple[np.ndarray, np.ndarray]:
        """Items and times of the user's events strictly earlier than `time`, oldest first."""
        start, stop = self.offsets[user], self.offsets[user + 1]
        end = start + np.searchsorted(self.times[start:stop], time, side="left")
        return self.items[start:end], self.times[start:end]

    def request(self, event: int, exclude_seen: bool) -> Request:
        """The request whose answer event `event` is. It can exclude seen items, but never the answer."""
        user = int(self.users[event])
        past = slice(self.offsets[user], self.history_end[event])
        history = self.items[past]
        exclude = (
            np.unique(history[history != self.items[event]]) if exclude_seen else np.zeros(0, dtype=np.int64)
        )
        return Request(
            request_id=f"e{event}",
            user=user,
            time=int(self.times[event]),
            history=history,
            history_times=self.times[past],
            exclude=exclude,
        )

    def requests(self, events: Iterable[int], exclude_seen: bool) -> list[Request]:
        return [self.request(int(event), exclude_seen) for event in events]

    def held_out_facts(self, role: int) -> dict[str, Any]:
        """What the reader of a result must know about the targets of one role: how many were already in their
        history, have no history, or share their second with another event of the same user."""
        events = self.events(role)
        times = pd.Series(self.times)
        first_time = times.groupby(self.users * self.n_items + self.items).transform("min").to_numpy()
        same_second = times.groupby([self.users, self.times]).transform("size").to_numpy()
        tied = int((same_second[events] > 1).sum())
        return {
            "events": len(events),
            "users": len(np.unique(self.users[events])),
            "already_in_history": int((first_time[events] < self.times[events]).sum()),
            "without_history": int((self.history_end[events] == self.offsets[self.users[events]]).sum()),
            "tied_in_time": tied,
            "tied_share": round(tied / len(events), 4) if len(events) else None,
        }

    def facts(self) -> dict[str, Any]:
        """`prepare.json`'s counts: of events, users, items and queries, of each role,
        and of what is held out.
        """
        by_role = np.bincount(self.roles, minlength=len(ROLE_NAMES))
        return {
            "counts": {
                "events": len(self.users),
                "users": len(self.user_numbers),
                "items": self.n_items,
                "queries": len(self.queries),
                "users_without_test_event": len(self.user_numbers)
                - len(np.unique(self.users[self.events(TEST)])),
            },
            "roles": {name: int(n) for name, n in zip(ROLE_NAMES, by_role, strict=True)},
            "held_out": {ROLE_NAMES[role]: self.held_out_facts(role) for role in (VALIDATION, TEST)},
        }

"""The nights of a data set: a cut in time, spans after it, and what was known on each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from recsys.seeds import rng

DAY_S = 86_400
LEAST = 5  # events before the cut that an item of then needs; one that comes later needs one


@dataclass(frozen=True, eq=False)
class Nights:
    """Events (user_id, item_id, timestamp; ids are text) by time, items (item_id, title, genres), and the nights' borders.

    Night k begins at `edges[k]`: a refresh then knows all events before it, and the items that come out by `edges[k + 1]` (a film
    is in the catalogue before somebody has seen it). What is asked is the events from `edges[k]` to `edges[k + 1]`.
    """

    events: pd.DataFrame
    items: pd.DataFrame
    edges: np.ndarray  # [K + 1] unix seconds; the first is the cut
    out: pd.Series  # item_id -> unix seconds from which on it is there
    vectors: Callable[[int], pd.DataFrame] | None = (
        None  # the items' vectors (item_id, vector) of a night; None: there are none
    )

    @classmethod
    def of_movielens(cls, folder: Path, nights: int, days: float, share: float) -> Nights:
        """ratings.csv and movies.csv; the cut is where a `share` of all events is over, and a film comes out with its first event.
        Films of before the cut with fewer than `LEAST` ratings then are left out, everywhere.
        """
        events = pd.read_csv(folder / "ratings.csv").sort_values("timestamp", kind="stable")
        items = pd.read_csv(folder / "movies.csv").rename(columns={"movieId": "item_id"})
        cut = int(events["timestamp"].quantile(share))
        edges = cut + (np.arange(nights + 1) * days * DAY_S).astype(np.int64)
        events = events[events["timestamp"] < edges[-1]]
        events = events.rename(columns={"userId": "user_id", "movieId": "item_id"})[
            ["user_id", "item_id", "timestamp"]
        ]
        events = events.astype({"user_id": str, "item_id": str})
        before = events[events["timestamp"] < cut]["item_id"].value_counts()
        rare = before[before < LEAST].index
        events = events[~events["item_id"].isin(rare)].reset_index(drop=True)
        items = items.astype({"item_id": str})[["item_id", "title", "genres"]]
        items = items[items["item_id"].isin(events["item_id"])].reset_index(drop=True)
        return cls(events, items, edges, events.groupby("item_id")["timestamp"].min())

    def __len__(self) -> int:
        return len(self.edges) - 1

    def is_new(self, item_ids: pd.Series) -> np.ndarray:
        """Which items the first training has not seen."""
        return (item_ids.map(self.out) >= self.edges[0]).to_numpy()

    def known(self, night: int) -> pd.DataFrame:
        """All events before a night."""
        return self.events[self.events["timestamp"] < self.edges[night]]

    def during(self, night: int) -> pd.DataFrame:
        """The events of a night; of night −1 none."""
        if night < 0:
            return self.events[:0]
        times = self.events["timestamp"]
        return self.events[(times >= self.edges[night]) & (times < self.edges[night + 1])]

    def catalogue(self, night: int) -> pd.DataFrame:
        """The items of a night; of night −1 those of before the cut."""
        return self.items[(self.items["item_id"].map(self.out) < self.edges[night + 1]).to_numpy()]

    def asked(self, night: int, each: int, people: int | None = None) -> pd.DataFrame:
        """Of each user of a night (or of so many, drawn) at most `each` events, drawn without looking at what they are, with a column
        `is_new`.
        """
        events = self.during(night)
        if people is not None and len(users := np.sort(events["user_id"].unique())) > people:
            drawn = rng(0, "nights", night, "people").choice(users, people, replace=False)
            events = events[events["user_id"].isin(drawn)]
        kept = []
        for user_id, mine in events.groupby("user_id"):
            places = rng(0, "nights", night, str(user_id)).permutation(len(mine))[:each]
            kept.append(mine.iloc[np.sort(places)])
        some = pd.concat(kept) if kept else events
        return some.assign(is_new=self.is_new(some["item_id"]))


def write(frame: pd.DataFrame, path: Path) -> Path:
    """A file that the door reads: CSV, or Parquet by its name."""
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, index=False)
    return path

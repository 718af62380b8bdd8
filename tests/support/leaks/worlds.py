"""A small world with one clock, and what is done to it that must not matter.

Forty users walk through one half of 120 items each. Cuts in time are fixed, so replacing or deleting an event
moves the role of no other. A query that led to an event is a part of it, and goes with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

USERS, ITEMS, STEPS = 40, 120, 24
START, STEP = 1_600_000_000, 1000
PERSONALIZE_FROM, VALIDATION_FROM, TEST_FROM = 13, 18, 21  # steps at which the roles of the split begin
WINDOW_AT = 8  # a step that Stage 1 learns
ASKED = (3, 15, 19, 22)  # steps that a query led to: one of each role
TAGS = 14  # an item of another taste has another one
WORDS = ("amber", "brisk", "coral", "dusky")


@dataclass(frozen=True)
class World:
    """`events`: user, item, step, in order of (user, step); `asked` [E]: did a query lead to it?"""

    events: pd.DataFrame
    asked: np.ndarray

    def rows(self, first: int, last: int) -> np.ndarray:
        """Places of the events of steps `first` to `last` − 1."""
        return np.flatnonzero((self.events["step"] >= first) & (self.events["step"] < last))

    def with_items(self, rows: np.ndarray, items: np.ndarray) -> World:
        events = self.events.copy()
        events.iloc[rows, events.columns.get_loc("item")] = items
        return World(events, self.asked)

    def without(self, rows: np.ndarray) -> World:
        keep = np.ones(len(self.events), bool)
        keep[rows] = False
        return World(self.events[keep].reset_index(drop=True), self.asked[keep])

    def write(self, folder: Path) -> None:
        """The files of the world."""
        folder.mkdir(parents=True, exist_ok=True)
        users, items = (self.events[name].map(f"{name[0]}{{:03}}".format) for name in ("user", "item"))
        times = START + STEP * self.events["step"] + self.events["user"]
        rows = pd.DataFrame({"user_id": users, "item_id": items, "timestamp": times})
        rows.to_csv(folder / "events.csv", index=False)
        places = (self.events["item"] + self.events["step"]) % len(WORDS)
        word = [
            f"{WORDS[place]} {_taste(item)}" for place, item in zip(places, self.events["item"], strict=True)
        ]
        rows.assign(query=word)[self.asked].to_csv(folder / "queries.csv", index=False)
        # every event leaves a tag of its moment; friends have no moment
        tags = rows.assign(tag=(self.events["item"] % TAGS).map("t{}".format))
        tags[["user_id", "tag", "timestamp"]].to_csv(folder / "tags.csv", index=False)
        friends = [(f"u{user:03}", f"u{(user + 2) % USERS:03}") for user in range(USERS)]
        pd.DataFrame(friends, columns=["user_id", "friend"]).to_csv(folder / "friends.csv", index=False)
        catalogue = [(f"i{item:03}", f"Title {item}", _taste(item)) for item in range(ITEMS)]
        pd.DataFrame(catalogue, columns=["item_id", "title", "kind"]).to_csv(
            folder / "items.csv", index=False
        )


def _taste(item: int) -> str:
    return ("Even", "Odd")[item % 2]


def world(seed: int = 0) -> World:
    """The honest world. Nobody has an item twice, and a held-out item follows from the one before it."""
    generator, rows = np.random.default_rng(seed), []
    for user in range(USERS):
        place = int(generator.integers(0, ITEMS // 2))
        skips = np.sort(generator.choice(np.arange(1, STEPS), 4, replace=False))
        for step in range(STEPS):
            walked = place + step + int(np.searchsorted(skips, step, side="right"))
            rows.append((user, 2 * (walked % (ITEMS // 2)) + user % 2, step))
    events = pd.DataFrame(rows, columns=["user", "item", "step"])
    return World(events, events["step"].isin(ASKED).to_numpy())


# -- what must not matter ------------------------------------------------------------------------------------


def other_items(it: World, first: int, last: int) -> World:
    """The items of these steps replaced, each by one of the other taste."""
    rows = it.rows(first, last)
    return it.with_items(rows, (it.events["item"].to_numpy()[rows] + 17 + 2 * (rows % 5)) % ITEMS)


def other_test_targets(it: World) -> World:
    return other_items(it, TEST_FROM, STEPS)


def shuffled_test_events(it: World) -> World:
    """Each user's test events in another order: every one at the moment of another."""
    rows = it.rows(TEST_FROM, STEPS)
    items = it.events["item"].to_numpy()[rows].reshape(USERS, -1)
    return it.with_items(rows, np.roll(items, 1, axis=1).reshape(-1))


def deleted_test_events(it: World) -> World:
    """No test event but of every fourth user, from the second on: all other events move up in the file."""
    rows = it.rows(TEST_FROM, STEPS)
    return it.without(rows[it.events["user"].to_numpy()[rows] % 4 != 1])


def other_validation_targets(it: World) -> World:
    return other_items(it, VALIDATION_FROM, TEST_FROM)


def other_stage_2_targets(it: World) -> World:
    return other_items(it, PERSONALIZE_FROM, VALIDATION_FROM)


Change = Callable[[World], World]
TEST_CHANGES: dict[str, Change] = {
    "other test targets": other_test_targets,
    "shuffled test events": shuffled_test_events,
    "deleted test events": deleted_test_events,
}
CHANGES: dict[str, Change] = TEST_CHANGES | {
    "other validation targets": other_validation_targets,
    "other Stage 2 targets": other_stage_2_targets,
}


def other_events_of(it: World, users: Iterable[int]) -> World:
    """All events of these users before the test replaced by others of the same taste."""
    rows = it.rows(0, TEST_FROM)
    rows = rows[np.isin(it.events["user"].to_numpy()[rows], list(users))]
    return it.with_items(rows, (it.events["item"].to_numpy()[rows] + 14) % ITEMS)

"""What people call items: phrases, those kept from all training, and the items that carry a query.

A query text is held out if the hash of its words says so: a fixed part of all texts, the same in every stage
and every run, whoever asks. Words in another order are the same text ("drama comedy"). Titles and the single
values of the catalogue's own columns (a genre) are never held out. What was held out stands in no training
prompt, so an answer to it shows what the model has understood.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property

import numpy as np

from recsys.data.dataset import Dataset
from recsys.data.splits import PERSONALIZE, TEST, VALIDATION, WARM
from recsys.door.times import YEAR_1990

HOUR_S, DAY_S = 3_600, 86_400


def words(text: str) -> list[str]:
    """The words of a text, case folded: letters and digits of any script (`sci-fi` is one word)."""
    return re.findall(r"\w+(?:[-'’&+]\w+)*", text.casefold())


def normal(text: str) -> str:
    """The text's words in alphabetical order: what makes two texts the same query."""
    return " ".join(sorted(words(text)))


def hash_share(text: str) -> float:
    """A number in [0, 1) that depends on the text's words alone, whatever their order."""
    digest = hashlib.blake2b(normal(text).encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


class Phrases:
    """The phrases of each item of a data set: its column values, and queries that led to it.

    `of[item]` may be read in Stage 1: a query of a user about an item of their own later events (those that Stage 2, validation and
    test ask about) is left out, one at the moment of anybody's later event of the item too (the user may be written otherwise), and so
    are those of held-out users, those of after the training where the split is at one moment for everybody, and every held-out text. Of a query of nobody known the hour before the event
    counts (the day, of a time that is a day), for people ask before they choose; one whose time is no time of the events may be of any. `matching(query)` knows all of them, for it judges answers.
    """

    def __init__(self, dataset: Dataset):
        self.dataset, self.share = dataset, dataset.held_out_queries
        values = [
            [value for column in dataset.catalogue.columns.values() for value in column[item]]
            for item in range(dataset.n_items)
        ]
        named = [*(value for some in values for value in some), *dataset.catalogue.titles]
        self.values = {normal(text) for text in named}
        self.of: list[list[str]] = [
            list(dict.fromkeys([*some, *asked])) for some, asked in zip(values, self._asked(), strict=True)
        ]

    def is_held_out(self, text: str) -> bool:
        """True if no training may read this query."""
        return hash_share(text) < self.share and normal(text) not in self.values

    def query(self, item: int, generator: np.random.Generator) -> str | None:
        """One or two of the item's phrases as somebody would ask for it, a text that may be trained on;
        None if it has none.
        """
        phrases = self.of[item]
        if not phrases:
            return None
        count = min(len(phrases), int(generator.integers(1, 3)))
        chosen = [phrases[at] for at in generator.choice(len(phrases), count, replace=False)]
        text = " ".join(chosen).lower()
        return chosen[0].lower() if self.is_held_out(text) else text

    def _asked(self) -> list[list[str]]:
        """Queries that led to each item and that Stage 1 may read, in alphabetical order."""
        data = self.dataset
        barred = self._about(PERSONALIZE, VALIDATION, TEST) | self._unseen() | self._too_late()
        asked: list[set[str]] = [set() for _ in range(data.n_items)]
        for item, query, not_read in zip(data.queries["item"], data.queries["query"], barred, strict=True):
            if item >= 0 and not not_read and not self.is_held_out(query):
                asked[int(item)].add(query)
        return [sorted(some) for some in asked]

    def _about(self, *roles: int) -> np.ndarray:
        """Bool [Q]: is the query about an event of one of `roles`, by user and item, or by item and moment?"""
        data = self.dataset
        users, items, times = (
            data.queries[name].to_numpy(np.int64) for name in ("user", "item", "timestamp")
        )
        those = np.isin(data.roles, roles)
        first, last = (int(data.times.min()), int(data.times.max())) if len(data.times) else (0, 0)
        span = last + 1 - first
        assert data.n_items * max(span, data.n_users) < 2**63
        within = (times >= first) & (times <= last) & (items >= 0)
        pairs = np.isin(users * data.n_items + items, data.users[those] * data.n_items + data.items[those])
        moments = np.isin(
            items * span + (times - first) * within, data.items[those] * span + data.times[those] - first
        )
        return (pairs & (users >= 0) & (items >= 0)) | (moments & within) | self._near(those)

    def _near(self, those: np.ndarray) -> np.ndarray:
        """Bool [Q]: was the query asked by nobody known, in the hour (or on the day) of one of `those` events [E] of its item, or out of
        all time?
        """
        data = self.dataset
        users, items, times = (
            data.queries[name].to_numpy(np.int64) for name in ("user", "item", "timestamp")
        )
        near = np.zeros(len(users), bool)
        unknown = np.flatnonzero(users < 0)
        if not len(unknown) or not those.any() or data.end < YEAR_1990:  # an order has no days
            return near
        first, last = int(data.times.min()), int(data.times.max())
        order = np.lexsort((data.times[those], data.items[those]))
        of_item, moments = data.items[those][order], data.times[those][order]
        for query in unknown.tolist():
            mine = moments[slice(*np.searchsorted(of_item, [items[query], items[query] + 1]))]
            later, span = mine - times[query], DAY_S if times[query] % DAY_S == 0 else HOUR_S
            outside = not first - DAY_S < times[query] <= last
            near[query] = len(mine) > 0 and (outside or bool(((later >= 0) & (later < span)).any()))
        return near

    def _unseen(self) -> np.ndarray:
        """Bool [Q]: was the query asked by a user who is held out of learning?"""
        users = self.dataset.queries["user"].to_numpy(np.int64)
        return (users >= 0) & (self.dataset.user_groups[users] != WARM)

    def _too_late(self) -> np.ndarray:
        """Bool [Q]: was the query asked after the training of everybody, whatever it is about?"""
        times, until = self.dataset.queries["timestamp"].to_numpy(np.int64), self.dataset.learned_until
        return np.zeros(len(times), bool) if until is None else times >= until

    def before_test(self) -> Phrases:
        """The same without queries about TEST events or of held-out users: what a stage before the test looks at."""
        queries = self.dataset.queries[~(self._about(TEST) | self._unseen())].reset_index(drop=True)
        return Phrases(replace(self.dataset, queries=queries))

    def of_anyone(self, item: int) -> list[str]:
        """The item's column values and every query of anyone that led to it, each once: for judging answers alone, as `matching`."""
        columns = self.dataset.catalogue.columns.values()
        return list(
            dict.fromkeys([*(value for column in columns for value in column[item]), *self._queries_of[item]])
        )

    @cached_property
    def _queries_of(self) -> dict[int, list[str]]:
        found: dict[int, list[str]] = defaultdict(list)
        queries = self.dataset.queries
        for item, query in zip(queries["item"], queries["query"], strict=True):
            found[int(item)].append(query)
        return found

    @cached_property
    def _items_of_word(self) -> dict[str, np.ndarray]:
        """word -> items, ascending, of which a column value or a query of anyone has it."""
        found: dict[str, set[int]] = defaultdict(set)
        for column in self.dataset.catalogue.columns.values():
            for item, some in enumerate(column):
                for word in _all_words(some):
                    found[word].add(item)
        queries = self.dataset.queries
        for item, query in zip(queries["item"], queries["query"], strict=True):
            for word in words(query):
                found[word].add(int(item))
        return {word: np.array(sorted(items), dtype=np.int64) for word, items in found.items()}

    def matching(self, query: str) -> np.ndarray | None:
        """Bool [N]: which items carry every word of `query`, in any column value or query of anyone;
        None if no item does.

        For judging answers alone: it looks at what anyone has called an item at any time (`before_test`: in no test event).
        """
        mask = np.ones(self.dataset.n_items, bool)
        for word in set(words(query)):
            has = np.zeros_like(mask)
            has[self._items_of_word.get(word, [])] = True
            mask &= has
        return mask if words(query) and mask.any() else None


def _all_words(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in words(text)}

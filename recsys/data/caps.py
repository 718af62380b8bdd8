"""Caps: at most m items of a list that share a value of a catalogue column, such as three of a genre.

An item with several values counts for each of them; an item without one is never capped. A list that its caps
cut short is short: nothing is put in to fill it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from recsys.data.catalogue import Catalogue
from recsys.recommender import Ranked

if TYPE_CHECKING:
    from scipy import sparse

WIDEN = 4  # a ranked list that caps leave too short is asked for again, so many times as long


class Caps:
    """Which items share a value, and how many of them a list may hold.
    V values, of all capped columns side by side.
    """

    def __init__(self, catalogue: Catalogue, limits: Mapping[str, int]):
        """`limits`: column -> at most so many items a value.
        Raises `ValueError` for a column that is not there.
        """
        from scipy import sparse

        parts, counts = [], []
        for column, limit in limits.items():
            if column not in catalogue.columns:
                there = ", ".join(catalogue.columns) or "no column besides the title"
                raise ValueError(f"caps name the column {column!r}; this catalogue has {there}")
            if not isinstance(limit, int | np.integer) or isinstance(limit, bool) or limit < 1:
                raise ValueError(
                    f"caps[{column!r}] is {limit!r}; expected a whole number of items, at least 1 "
                    "(to keep a value out altogether, exclude its items)"
                )
            parts.append(_membership(catalogue.columns[column]))
            counts.append(np.full(parts[-1].shape[1], limit, np.int64))
        self.n_items = len(catalogue)
        self.limits = np.concatenate([*counts, np.zeros(0, np.int64)])  # [V]
        self._by_item = sparse.hstack([*parts, sparse.csr_array((self.n_items, 0))], format="csr")  # [N, V]
        self._by_value = self._by_item.tocsc()

    def values_of(self, item: int) -> np.ndarray:
        """The values of an item [k], as numbers below V."""
        table = self._by_item
        return table.indices[table.indptr[item] : table.indptr[item + 1]]

    def items_of(self, value: int) -> np.ndarray:
        """The items that have a value [k]."""
        table = self._by_value
        return table.indices[table.indptr[value] : table.indptr[value + 1]].astype(np.int64)

    def start(self) -> CappedList:
        """The count of an empty list."""
        return CappedList(self)


class CappedList:
    """How full the values of one list in the making are."""

    def __init__(self, caps: Caps):
        self._caps, self._counts = caps, np.zeros(len(caps.limits), np.int64)

    def fits(self, item: int) -> bool:
        """May the item be added?"""
        values = self._caps.values_of(item)
        return bool((self._counts[values] < self._caps.limits[values]).all())

    def add(self, item: int) -> np.ndarray:
        """Count an item. Returns the items [k] of the values that it filled, one perhaps twice:
        none fits any more.
        """
        values = self._caps.values_of(item)
        self._counts[values] += 1
        filled = values[self._counts[values] == self._caps.limits[values]]
        return np.concatenate([np.zeros(0, np.int64), *map(self._caps.items_of, filled)])


def within(ranked: Ranked, caps: Caps, n: int) -> Ranked:
    """The first n items of a ranked list that fit, walking down: an item that does not is passed over."""
    counts, places = caps.start(), list[int]()
    for place, item in enumerate(ranked.items.tolist()):
        if len(places) == n:
            break
        if counts.fits(item):
            counts.add(item)
            places.append(place)
    return Ranked(ranked.items[places], ranked.scores[places])


def best_within(ranking: Callable[[int], Ranked], caps: Caps, n: int) -> Ranked:
    """`within` of a ranking as long as it takes;
    `ranking(k)` is its first k items, fewer where there are no more.
    """
    k = n
    while True:
        ranked = ranking(k)
        found = within(ranked, caps, n)
        if len(found.items) == n or len(ranked.items) < k:
            return found
        k *= WIDEN


def _membership(column: Sequence[Sequence[str]]) -> sparse.csr_array:
    """[N, values of the column], 1 where an item has the value; values in order of their names."""
    from scipy import sparse

    names = {name: number for number, name in enumerate(sorted({name for some in column for name in some}))}
    values = [sorted({names[name] for name in some}) for some in column]
    offsets = np.concatenate([[0], np.cumsum([len(some) for some in values], dtype=np.int64)])
    flat = np.array([value for some in values for value in some], dtype=np.int64)
    return sparse.csr_array((np.ones(len(flat)), flat, offsets), shape=(len(column), len(names)))

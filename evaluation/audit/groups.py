"""Groups of people and of items that an audit looks at apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

ACTIVITY = (0, 5, 20, 50, 200)  # least events before the moment; below 5 is cold
TASTES = ("niche", "mixed", "mainstream")  # a third of the people each
POPULARITY = ("head", "middle", "tail", "new")
NOBODY = "not given"  # of people whom a users file does not name, and of items without a value
MOST_VALUES = 10  # of a column that are groups of their own, the largest; the rest are one
OTHERS = "others"


def by_activity(lengths: np.ndarray) -> np.ndarray:
    """Labels [R] by how many events people had before: cold below 5, then 5-19 and so on."""
    names = [
        "cold (0-4)",
        *(f"{low}-{high - 1}" for low, high in pairwise(ACTIVITY[1:])),
        f"{ACTIVITY[-1]}+",
    ]
    return np.array(names, dtype=object)[np.searchsorted(ACTIVITY, lengths, side="right") - 1]


def by_taste(values: np.ndarray) -> np.ndarray:
    """Labels [R] by how popular on average is what people have had, `values` [R]: a third of them each.

    Abdollahpouri et al. 2020 call them niche, diverse and blockbuster-focused. Who has had nothing (NaN) is `NOBODY`'s.
    """
    known = ~np.isnan(values)
    labels = np.full(len(values), NOBODY, dtype=object)
    places = np.argsort(np.argsort(values[known], kind="stable"), kind="stable")
    labels[known] = np.array(TASTES, dtype=object)[places * len(TASTES) // max(int(known.sum()), 1)]
    return labels


def by_popularity(counts: np.ndarray) -> np.ndarray:
    """Labels [N] by training events: the most popular items that have a third of all events, the next third, the rest (tail), and
    items without an event (new).
    """
    order = np.argsort(-np.asarray(counts, float), kind="stable")
    before = np.cumsum(counts[order]) - counts[order]  # events of items that are more popular
    third = np.floor(3 * before / max(counts.sum(), 1)).astype(int).clip(max=2)
    labels = np.empty(len(counts), dtype=object)
    labels[order] = np.array(POPULARITY[:3], dtype=object)[third]
    labels[np.asarray(counts) == 0] = POPULARITY[3]
    return labels


def shares_of_labels(labels: Sequence[str] | np.ndarray) -> tuple[list[str], np.ndarray]:
    """Names of the groups and membership [N, G], 1 where an item is of the group."""
    order = {name: place for place, name in enumerate((*POPULARITY, *TASTES))}
    names = sorted(set(labels), key=lambda name: (order.get(name, len(order)), str(name)))
    return list(names), (np.asarray(labels, dtype=object)[:, None] == np.array(names, dtype=object)).astype(
        float
    )


def shares_of_values(
    cells: Sequence[Sequence[str]], weights: np.ndarray | None = None
) -> tuple[list[str], np.ndarray]:
    """Names of a column's values and p(value | item) [N, G]: an item with several is of each in equal parts, one without of none.

    With `weights` [N] (training events) the `MOST_VALUES` heaviest are kept, and what is left is `OTHERS`; an item without is `NOBODY`'s.
    """
    names = sorted({name for some in cells for name in some})
    number = {name: place for place, name in enumerate(names)}
    shares = np.zeros((len(cells), len(names)))
    for row, some in zip(shares, cells, strict=True):
        for name in set(some):
            row[number[name]] = 1 / len(set(some))
    if weights is None:
        return names, shares
    heavy = np.argsort(-(weights @ shares), kind="stable")[:MOST_VALUES]
    kept, rest, none = shares[:, heavy], 1 - shares[:, heavy].sum(axis=1), shares.sum(axis=1) == 0
    columns = [kept, np.where(none, 0, rest)[:, None], none[:, None].astype(float)]
    found, everything = [*(names[at] for at in heavy), OTHERS, NOBODY], np.concatenate(columns, axis=1)
    there = everything.sum(axis=0) > 1e-9
    return [name for name, one in zip(found, there, strict=True) if one], everything[:, there]

"""What the engagement predictor looks at: lists before a user who asked something, as numbers with a meaning.

    order-free   is there a user vector, u·v, cos(u, v), cos(q, text of v), log popularity, has the item a
                 vector; u ⊙ v; and in a few principal directions of the catalogue q ⊙ text, user, item, item
                 text and query
    order-aware  those, and: first in the list, log of the place, cosine to the item before, and to the mean
                 of all before (collaborative and text)

Nothing here reads a label, so the features of what was shown and of what was generated are the same function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from recsys.engagement.shown_lists import ShownLists

MATCH_DIRECTIONS = 32  # of q ⊙ text: what a query and an item may agree on
MAIN_DIRECTIONS = 16  # of user, item, item text and query each
SCALARS = (
    "user known", "user · item", "cos(user, item)", "cos(query, text)", "log popularity", "item known"
)  # fmt: skip
ORDER = ("first", "log place", "cos to previous", "cos to those before", "text cos to those before")


@dataclass(frozen=True, eq=False)
class ItemSpace:
    """What is known of the N items: `collaborative` [N, d] (the user vectors' space), `text` [N, e] (the
    queries' space) and `popularity` [N], events in training alone. Zero rows are items without a vector.
    """

    collaborative: np.ndarray
    text: np.ndarray
    popularity: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.collaborative) == len(self.text) == len(self.popularity):
            raise ValueError(
                f"an item space needs one row an item everywhere, got {len(self.collaborative)} "
                f"collaborative vectors, {len(self.text)} text vectors and {len(self.popularity)} counts"
            )


@dataclass(frozen=True, eq=False)
class AskedLists:
    """Q lists of items, each before one user with one query. List q holds
    items[offsets[q] : offsets[q + 1]] in order.
    """

    user_vectors: np.ndarray  # [Q, d] as of the moment of asking
    known: np.ndarray  # [Q] bool: False is a user without a vector; the row is not read
    query_vectors: np.ndarray  # [Q, e]
    offsets: np.ndarray  # [Q + 1]; a list may be empty
    items: np.ndarray  # [S]

    def __post_init__(self) -> None:
        rows = {len(self.user_vectors), len(self.known), len(self.query_vectors), len(self.offsets) - 1}
        if len(rows) > 1 or self.offsets[-1] != len(self.items):
            raise ValueError(
                f"lists need one user vector, flag and query vector each: got {len(self.user_vectors)}, "
                f"{len(self.known)} and {len(self.query_vectors)} for {len(self.offsets) - 1} lists"
            )

    def __len__(self) -> int:
        return len(self.known)

    def list_of_item(self) -> np.ndarray:
        """The list [S] that each item stands in."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def with_user_vectors(self, user_vectors: np.ndarray, known: np.ndarray) -> Self:
        """The same lists before users with other vectors."""
        return replace(self, user_vectors=user_vectors, known=known)


@dataclass(frozen=True, eq=False)
class Shown(AskedLists):
    """Lists that were shown: `users` [Q] (−1: unknown) and `labels` [S] (bool: engaged)."""

    users: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(
        cls,
        lists: ShownLists,
        part: int,
        user_vectors: np.ndarray,
        known: np.ndarray,
        query_vectors: np.ndarray,
    ) -> Shown:
        """The lists of one part of the data (`recsys.engagement.shown_lists.PARTS`),
        with a row of vectors for each list of that part, in order.
        """
        every = cls(
            user_vectors=np.zeros((len(lists), 0)),
            known=np.zeros(len(lists), bool),
            query_vectors=np.zeros((len(lists), 0)),
            offsets=lists.offsets,
            items=lists.items,
            users=lists.users,
            labels=lists.labels,
        )
        chosen = every.take(lists.of(part))
        return replace(
            chosen, user_vectors=user_vectors, known=np.asarray(known, bool), query_vectors=query_vectors
        )

    def take(self, indices: np.ndarray) -> Shown:
        """Some of the lists, in the order of `indices`; a list may be taken twice."""
        lengths = np.diff(self.offsets)[indices]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[indices] - offsets[:-1], lengths)
        return Shown(
            user_vectors=self.user_vectors[indices],
            known=self.known[indices],
            query_vectors=self.query_vectors[indices],
            offsets=offsets,
            items=self.items[rows],
            users=self.users[indices],
            labels=self.labels[rows],
        )

    def units(self) -> np.ndarray:
        """Whose each list [Q] is, as 0 … U−1: what is averaged, resampled and split.
        Each list of an unknown user is its own unit.
        """
        names = np.where(self.users < 0, -1 - np.arange(len(self)), self.users)
        return np.unique(names, return_inverse=True)[1]


@dataclass(frozen=True, eq=False)
class FeatureMaker:
    """Features of items in lists. The principal directions [d, ≤16] and [e, ≤32] are the catalogue's,
    kept so that a predictor that is loaded computes what it was fitted on.
    """

    collaborative_directions: np.ndarray
    text_directions: np.ndarray

    @classmethod
    def of(cls, space: ItemSpace) -> FeatureMaker:
        return cls(
            _directions(space.collaborative, MAIN_DIRECTIONS), _directions(space.text, MATCH_DIRECTIONS)
        )

    def names(self, order_aware: bool) -> list[str]:
        """One name a column of `features`."""
        d, k = self.collaborative_directions.shape
        m = self.text_directions.shape[1]
        blocks = {"user ⊙ item": d, "query ⊙ text": m, "user": k, "item": k} | dict.fromkeys(
            ("text", "query"), min(m, MAIN_DIRECTIONS)
        )
        columns = [f"{name} {at}" for name, width in blocks.items() for at in range(width)]
        return [*SCALARS, *columns, *(ORDER if order_aware else ())]

    def features(self, lists: AskedLists, space: ItemSpace, order_aware: bool) -> np.ndarray:
        """Features [S, F] (float64) of every item of every list; `names` says what the columns are."""
        place, items = lists.list_of_item(), lists.items
        users = np.where(lists.known[:, None], lists.user_vectors, 0).astype(float)
        user, query = users[place], lists.query_vectors.astype(float)[place]
        item, text = space.collaborative.astype(float)[items], space.text.astype(float)[items]
        match = (query @ self.text_directions) * (text @ self.text_directions)
        main = self.text_directions[:, :MAIN_DIRECTIONS]
        scalars = (
            lists.known[place], (user * item).sum(1), cosine(user, item), cosine(query, text),
            np.log1p(space.popularity.astype(float)[items]), np.abs(item).sum(1) > 0,
        )  # fmt: skip
        found = [
            np.stack(scalars, axis=1),
            user * item,
            match,
            user @ self.collaborative_directions,
            item @ self.collaborative_directions,
            text @ main,
            query @ main,
        ]
        if order_aware:
            found.append(_order_features(lists.offsets, item, text))
        return np.concatenate(found, axis=1)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines [S] of the rows of a and b [S, d]; 0 where a row is zero."""
    return (unit_rows(a) * unit_rows(b)).sum(axis=1)


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; zero rows stay zero."""
    vectors = np.asarray(vectors, dtype=float)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 1e-12)


def flat_lists(lists: Sequence[np.ndarray] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lists [R, n] that are filled up with −1 -> offsets [R + 1] and items [S], in order, without the −1."""
    lists = np.asarray(lists)
    there = lists >= 0
    return np.concatenate([[0], np.cumsum(there.sum(axis=1))]), lists[there]


def _directions(vectors: np.ndarray, most: int) -> np.ndarray:
    """The first principal directions [d, ≤ most] of the rows (uncentred: zero stays zero),
    each with its largest entry positive.
    """
    _, along = np.linalg.eigh(vectors.astype(float).T @ vectors.astype(float))
    along = along[:, ::-1][:, :most]
    largest = np.take_along_axis(along, np.abs(along).argmax(axis=0)[None], axis=0)
    return np.ascontiguousarray(along * np.sign(largest))


def _order_features(offsets: np.ndarray, item: np.ndarray, text: np.ndarray) -> np.ndarray:
    """[S, 5]: first, log of the place (from 1), cosine to the item before,
    to the mean of those before, and by text.
    """
    lengths = np.diff(offsets)
    start = np.repeat(offsets[:-1], lengths)
    place = np.arange(len(item)) - start
    later = place > 0
    item, text = unit_rows(item), unit_rows(text)
    previous = np.zeros(len(item))
    previous[later] = (item[later] * item[np.flatnonzero(later) - 1]).sum(axis=1)
    before = [np.where(later, cosine(_sum_before(vectors, start), vectors), 0.0) for vectors in (item, text)]
    return np.stack([~later, np.log1p(place), previous, *before], axis=1)


def _sum_before(vectors: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Sum [S, d] of the rows of the same list that stand before each row."""
    total = np.concatenate([np.zeros((1, vectors.shape[1])), np.cumsum(vectors, axis=0)])
    return total[:-1] - total[start]

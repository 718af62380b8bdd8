"""Made worlds of shown lists in which it is known what engagement depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from evaluation.engagement.features import ItemSpace, Shown, cosine
from recsys.engagement.shown_lists import GENERATOR, PREDICTOR, PREDICTOR_VALIDATION, TEST_LISTS, ShownLists

D, E, ITEMS = 8, 12, 400
LogOdds = Callable[[dict[str, np.ndarray]], np.ndarray]


def rows(generator: np.random.Generator, n: int, d: int, shift: float = 0.0) -> np.ndarray:
    """Unit rows [n, d], around the direction of (1, …, 1) if shifted."""
    vectors = generator.normal(size=(n, d)) + shift
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


class World:
    """Lists of three parts, with disjoint users in each; `log_odds` says what makes a user engage."""

    def __init__(
        self,
        log_odds: LogOdds,
        seed: int = 0,
        users: int = 288,
        lists_each: int = 6,
        length: int = 6,
        shift: float = 0.0,
    ):
        generator = np.random.default_rng(seed)
        n = users * lists_each
        self.space = ItemSpace(
            rows(generator, ITEMS, D, shift), rows(generator, ITEMS, E), generator.integers(0, 90, ITEMS)
        )
        owners = np.repeat(np.arange(users), lists_each)
        self.user_vectors, self.known = rows(generator, users, D, shift)[owners], np.ones(n, bool)
        self.query_vectors = rows(generator, n, E)
        items = generator.integers(0, ITEMS, n * length)
        offsets = np.arange(n + 1) * length
        of = np.repeat(np.arange(n), length)
        previous = np.where(np.arange(n * length) % length == 0, -1, np.roll(items, 1))
        user, item = self.user_vectors[of], self.space.collaborative[items]
        self.p = 1 / (1 + np.exp(-log_odds({
            "user·item": (user * item).sum(1),
            "query·text": cosine(self.query_vectors[of], self.space.text[items]),
            "popularity": np.log1p(self.space.popularity[items]),
            "previous": np.where(previous < 0, 0, cosine(item, self.space.collaborative[previous])),
        })))  # fmt: skip
        in_turn = (PREDICTOR, PREDICTOR, PREDICTOR_VALIDATION, TEST_LISTS, TEST_LISTS, GENERATOR)
        parts = np.array(in_turn, np.int8)[owners % len(in_turn)]
        self.lists = ShownLists(
            users=owners, times=np.arange(n), queries=[f"q{at}" for at in range(n)], parts=parts,
            held_out=np.zeros(n, bool), offsets=offsets, items=items, labels=generator.random(n * length) < self.p,
        )  # fmt: skip

    def shown(self, part: int, labels: np.ndarray | None = None) -> Shown:
        """The part's lists; `labels` [S] in place of the world's own."""
        lists = self.lists if labels is None else replace(self.lists, labels=labels)
        rows = lists.of(part)
        return Shown.of(lists, part, self.user_vectors[rows], self.known[rows], self.query_vectors[rows])

    def of_part(self, part: int) -> np.ndarray:
        """The shown items [S] that belong to a part."""
        return np.repeat(self.lists.parts == part, np.diff(self.lists.offsets))

"""One judge for all rows of the music table: a row's lists for the test requests -> every figure of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.engagement.features import ItemSpace, Shown
from evaluation.engagement.predictor import EngagementPredictor
from evaluation.music import metrics

FIGURES = (
    "engagement", "affinity", "above", "sharpened", "precision", "held_out", "liked", "disliked", "diversity",
    "novelty", "popularity",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class PlaylistRow:
    """What one row listed, `lists` [K, R, n] (K replicas, filled up with −1), and its `figures`:
    name -> [R, K], NaN where it cannot be said, None where it is not asked.
    """

    lists: np.ndarray
    figures: Mapping[str, np.ndarray | None]


@dataclass(frozen=True, eq=False)
class PlaylistJudge:
    """R test requests, and what is known of them that no generator has read.

    `test` are the labelled TEST lists, one a request. The affinity space is one that neither prefix nor
    predictor reads: `affinity_users` [R, a] as of the moment of asking, `affinity_known` [R],
    `affinity_items` [N, a] (None: there is no such space). `carriers[r]` are the items that carry request r's
    phrase, `held_out` [R] says which queries no training has read.
    """

    predictor: EngagementPredictor
    space: ItemSpace
    test: Shown
    affinity_users: np.ndarray
    affinity_known: np.ndarray
    affinity_items: np.ndarray | None
    carriers: Sequence[np.ndarray]
    held_out: np.ndarray

    def row(
        self,
        replicas: Sequence[np.ndarray],
        with_affinity: bool = True,
        above: Sequence[np.ndarray] | None = None,
        sharpened: Sequence[np.ndarray] | None = None,
    ) -> PlaylistRow:
        """The figures of one row's `replicas`, each lists [R, n].

        `with_affinity=False` leaves affinity blank, for rows that rank by a user–item similarity themselves.
        `above`: each replica's own chance [R] to put an engaged item above one that was not. `sharpened`:
        each replica's lists at the temperature that validation chose, of which engagement alone is asked.
        """
        each = [self.figures(np.asarray(lists)) for lists in replicas]
        figures: dict[str, np.ndarray | None] = {
            name: np.stack([one[name] for one in each], axis=1) for name in each[0]
        }
        figures["above"] = None if above is None else np.stack(list(above), axis=1)
        figures["sharpened"] = (
            None if sharpened is None else np.stack([self._engagement(lists) for lists in sharpened], axis=1)
        )
        if not with_affinity or self.affinity_items is None:
            figures["affinity"] = None
        return PlaylistRow(np.stack(replicas), figures)

    def figures(self, lists: np.ndarray) -> dict[str, np.ndarray]:
        """Every figure [R] of lists [R, n] that can be told from them."""
        test = self.test
        if len(lists) != len(test):
            raise ValueError(f"the judge has {len(test)} test requests, and got lists for {len(lists)}")
        matches = np.stack([np.isin(row, items) for row, items in zip(lists, self.carriers, strict=True)])
        precision = metrics.query_precision(lists, matches)
        found = {
            "engagement": self._engagement(lists),
            "precision": precision,
            "held_out": np.where(self.held_out, precision, np.nan),
            "liked": metrics.shown_recall(lists, test.offsets, test.items, test.labels),
            "disliked": metrics.shown_recall(lists, test.offsets, test.items, ~test.labels),
            "diversity": metrics.diversity(lists, self.space.collaborative),
            "novelty": metrics.novelty(lists, self.space.popularity),
            "popularity": metrics.popularity_percentile(lists, self.space.popularity),
        }
        if self.affinity_items is not None:
            found["affinity"] = metrics.affinity(
                lists, self.affinity_users, self.affinity_known, self.affinity_items
            )
        return found

    def _engagement(self, lists: np.ndarray) -> np.ndarray:
        test = self.test
        return self.predictor.predict_lists(
            test.user_vectors, test.known, test.query_vectors, lists, self.space
        )

"""Baselines, the methods that a run answers with beside those of Stage 2: one table, an entry each.

It is known without loading torch: what a baseline is built from comes with the run's `Methods`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from evaluation.baselines import Popularity, Recency
from recsys.recommender import Recommender
from recsys.run import Run

if TYPE_CHECKING:
    from llm.prompts.reading import Reading
    from recsys.data.dataset import Dataset

Temperatures = Sequence[float]


class Parts(Protocol):
    """What a baseline is built from: parts of a run, loaded when they are asked for (`Methods`)."""

    @property
    def dataset(self) -> Dataset: ...

    @property
    def item_knn(self) -> Recommender: ...

    @property
    def retrieval(self) -> Recommender: ...

    @property
    def sasrec(self) -> Recommender: ...

    @property
    def text_search(self) -> Recommender: ...

    def reading(self, key: str) -> Reading: ...

    def recommender(self, name: str, reading: Reading) -> Recommender: ...


@dataclass(frozen=True)
class Baseline:
    """One method that needs no training of its own."""

    key: str
    name: str  # of its row
    reads: str  # of a test user's history before the instance
    trained: str | None  # what the table says of its training; None: it answers, but has no row
    # T0 from which validation chooses for a softmax over its scores, given `evaluate.temperature_grid`;
    # None: no such row
    grid: Callable[[Temperatures], list[float]] | None
    build: Callable[[Parts], Recommender]


def _sharper(temperatures: Temperatures) -> list[float]:
    """Cosines and shares of votes lie in [−1, 1] or little above; a softmax over them wants it sharper."""
    return sorted({t / by for t in temperatures for by in (10, 100)})


def _recency(parts: Parts) -> Recency:
    totals = parts.dataset.item_totals
    touched = np.flatnonzero(totals.last >= 0)
    return Recency(touched, totals.last[touched], parts.dataset.n_items)


NO_CONTEXT = "no_context"  # the generator itself, without a word of Stage 2; every row is compared with it

# in the order of the table
BASELINES = {
    one.key: one
    for one in (
        Baseline(
            "popularity", "Popularity", reads="nothing", trained="counts", grid=None,
            build=lambda parts: Popularity(parts.dataset.item_totals.counts),
        ),
        Baseline("recency", "Recency", reads="nothing", trained=None, grid=None, build=_recency),
        Baseline(
            "item_knn", "Item-kNN", reads="history before t", trained="counts", grid=_sharper,
            build=lambda parts: parts.item_knn,
        ),
        Baseline(
            "embedding_retrieval", "Embedding Retrieval", reads="history before t (vector)",
            trained="LightGCN", grid=_sharper, build=lambda parts: parts.retrieval,
        ),
        Baseline(  # its scores are the logits that it was trained by, so the grid is as it stands
            "sasrec", "SASRec", reads="history before t", trained="its own transformer", grid=list,
            build=lambda parts: parts.sasrec,
        ),
        Baseline(
            "text_search", "BM25", reads="the query alone", trained=None, grid=None,
            build=lambda parts: parts.text_search,
        ),
        Baseline(
            NO_CONTEXT, "No Context", reads="recent items", trained="Stage 1: LoRA and rows", grid=None,
            build=lambda parts: parts.recommender("No Context", parts.reading(NO_CONTEXT)),
        ),
    )
}  # fmt: skip

# The similarities are not exported in the events' place:
# of an item that one person alone had they are that person's history
NEEDS_USERS = "item_knn"
WHY_USERS = (
    "item-kNN is counted from users' events, and what it counts spells out histories; "
    "it needs a run with its users"
)


def untrained(has_sasrec: bool, has_item_knn: bool, of_nobody: bool) -> dict[str, str]:
    """Those of one run: SASRec and item-kNN answer where `embed.sasrec` and `embed.item_knn` are given,
    item-kNN where the run has users besides (`is_of_nobody`).
    """
    lacking = (("sasrec", not has_sasrec), ("item_knn", not has_item_knn), (NEEDS_USERS, of_nobody))
    gone = {key for key, is_gone in lacking if is_gone}
    return {key: one.name for key, one in BASELINES.items() if key not in gone}


def is_of_nobody(run: Run) -> bool:
    """Was the run exported without users?"""
    return bool((run.exported() or {}).get("without_users"))


def no_such_method(key: str, available: Sequence[str], of_nobody: bool) -> str:
    """What is said of a method that a run does not have."""
    why = f". {WHY_USERS}" if of_nobody and key == NEEDS_USERS else ""
    return f"this run has no method {key!r}; it has {', '.join(available)}{why}"

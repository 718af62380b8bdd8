"""Ranked lists of a peer, judged: R@10 and NDCG@10 by Prelude's evaluator, with intervals over users."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from evaluation.metrics import ndcg_at_k, pad_lists, recall_at_k
from evaluation.statistics import mean_interval, user_means
from serving.bench.peers.contract import LISTS, REPORT, K, Requests
from serving.bench.peers.split import TARGETS


@dataclass(frozen=True)
class Question:
    """The test: requests, their targets [R], and how many items there are."""

    requests: Requests
    targets: np.ndarray
    n_items: int

    @classmethod
    def read(cls, folder: Path) -> Question:
        requests = Requests.read(folder / "split" / "test.parquet")
        table = pq.read_table(folder / TARGETS)
        facts = json.loads((folder / "split" / "split.json").read_text())
        return cls(requests, table["target"].to_numpy(), facts["items"])


def judge(question: Question, folder: Path) -> dict[str, Any]:
    """What a peer left in `folder`: its report, and the figures of its lists with and without seen items set aside.

    A list that is short or missing is a miss where its target is not in it, and is counted. Raises `ValueError`
    for lists that are not of this test, hold what is no item, or hold an item twice.
    """
    report = json.loads((folder / REPORT).read_text())
    table = pq.read_table(folder / LISTS)
    if not np.array_equal(table["user"].to_numpy(), question.requests.users):
        raise ValueError(f"{folder / LISTS} answers other requests than the test's; remove {folder}")
    for column in ("set_aside", "all"):
        lists = [np.asarray(one, np.int64) for one in table[column].to_pylist()]
        report[column] = figures(question, lists, f"{folder / LISTS}, column {column}")
    return report


def figures(question: Question, lists: list[np.ndarray], place: str) -> dict[str, Any]:
    """Recall and NDCG at K of lists [R], each the mean over users and its 95 % interval; what else there is to say of them."""
    ranked = pad_lists(lists, K)
    real = ranked >= 0
    if ranked.max(initial=-1) >= question.n_items:
        raise ValueError(f"{place} holds item {ranked.max()}; there are {question.n_items:,} items")
    ordered = np.sort(ranked, axis=1)
    twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1)
    if twice.any():
        raise ValueError(f"{place} holds an item twice in list {int(np.flatnonzero(twice)[0])}")
    seen = [np.isin(ranked[row], question.requests.history(row)) & real[row] for row in range(len(ranked))]
    result: dict[str, Any] = {
        "short_lists": int((real.sum(1) < min(K, question.n_items)).sum()),
        "seen_items": int(np.sum(seen)),
    }
    measures = {"recall": recall_at_k, "ndcg": ndcg_at_k}
    for name, measure in measures.items():
        _, means = user_means(measure(ranked, question.targets, K), question.requests.users)
        result[name], result[f"{name}_interval"] = float(means.mean()), mean_interval(means)
    return result


def seconds_to(curve: list[dict[str, float]], recall: float) -> dict[str, float] | None:
    """The first row of a validation curve that reaches `recall`; None: it never did."""
    return next((row for row in curve if row["recall"] >= recall), None)

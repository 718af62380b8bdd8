"""Figures of each test instance, kept as one Parquet file: what runs are compared on afterwards, instance by instance.

Of a row every figure that comparisons are made on, averaged over its replicas (float32). An instance is named by raw ids, so that
files of runs with other integers can be held against each other; the column `user_id` lets a person's rows be deleted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.table.comparisons import Measured
from evaluation.table.instances import Question

NAME = "instances.parquet"
FIGURES = ("top", "expected", "expected_matched", "log_p_matched")  # and Recall and NDCG at their depths
INSTANCE = ("user_id", "item_id", "time", "events", "history")
BETWEEN = "|"  # of a row's name and a figure, in a column's name


@dataclass(frozen=True)
class Kept:
    """R instances (a frame with the columns of `INSTANCE`), and of each row its figures [R] by name."""

    instances: pd.DataFrame
    rows: Mapping[str, Mapping[str, np.ndarray]]


def save_instances(
    folder: Path,
    names: Sequence[str],
    measured: Sequence[Measured],
    asked: Question,
    user_ids: np.ndarray,
    item_ids: np.ndarray,
) -> None:
    """Write `instances.parquet`. `user_ids` [U] and `item_ids` [N] are the raw ids of the integers in `asked`.

    `events` is how many events a history has, and `history` a hash of their items in their order.
    """
    columns: dict[str, pa.Array] = {
        "user_id": pa.array(user_ids[asked.users], pa.string()),
        "item_id": pa.array(item_ids[asked.targets], pa.string()),
        "time": pa.array([request.time for request in asked.requests], pa.int64()),
        "events": pa.array([len(request.history) for request in asked.requests], pa.int64()),
        "history": pa.array(_hashes(asked, item_ids), pa.uint64()),
    }
    for name, figures in zip(names, measured, strict=True):
        for figure, values in figures.items():
            if figure in FIGURES or figure.startswith(("recall@", "ndcg@")):
                columns[f"{name}{BETWEEN}{figure}"] = pa.array(values.mean(axis=1).astype(np.float32))
    pq.write_table(pa.table(columns), folder / NAME)


def _hashes(asked: Question, item_ids: np.ndarray) -> np.ndarray:
    """Of each history [R] (uint64): Σ_k hash(item_k) · g^k modulo 2^64, oldest item first."""
    of_items = pd.util.hash_array(np.asarray(item_ids, dtype=object))
    longest = max((len(request.history) for request in asked.requests), default=0)
    with np.errstate(over="ignore"):
        powers = np.cumprod(np.full(longest + 1, 0x9E3779B97F4A7C15, np.uint64))
        sums = [
            (of_items[request.history] * powers[: len(request.history)]).sum(dtype=np.uint64)
            for request in asked.requests
        ]
    return np.array(sums, np.uint64)


def read_instances(path: Path) -> Kept:
    """What `save_instances` wrote."""
    frame = pq.ParquetFile(path).read().to_pandas()
    rows: dict[str, dict[str, np.ndarray]] = {}
    for column in frame.columns:
        name, between, figure = str(column).rpartition(BETWEEN)
        if between:
            rows.setdefault(name, {})[figure] = frame[column].to_numpy()
    return Kept(frame[list(INSTANCE)], rows)

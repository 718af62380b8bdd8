"""One replica on one chunk of instances: draws lists, asks for probabilities, applies the metrics; and the checkpoint that lets a killed evaluation continue.

A figure depends only on the instance, the replica and the seeds, so chunks may be measured in any order, or
twice.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from evaluation.calibration import LEAST_NATS
from evaluation.metrics import entropy_from_draws, expected_hit, hits, ndcg_at_k, pad_lists, recall_at_k
from evaluation.softmax import SoftmaxOver
from recsys.artifacts.rewrite import write_text_atomically
from recsys.recommender import ProbabilisticRecommender, Recommender, Request
from recsys.seeds import derive

Columns = dict[str, np.ndarray]  # name -> [R], one value per instance


@dataclass(frozen=True)
class Plan:
    """What to measure of one replica."""

    row: str
    replica: int
    n: int  # candidates
    cuts: tuple[int, ...]  # depths of Recall and NDCG
    temperature: float
    chosen_temperature: float | None  # the second temperature column
    draw_seeds: tuple[int, ...]
    lists: bool  # ranked and distinct columns too
    matched_temperature: float | None = None  # that of matched calibration


def measure(
    recommender: Recommender, requests: Sequence[Request], targets: np.ndarray, plan: Plan
) -> Columns:
    """Every figure of one replica on these instances; a name is absent where the figure does not exist.

    A recommender that cannot hold them all at once says which it does (`together`); it is asked all about those first, so
    that it reads a request once.
    """
    try:
        return _measure_together(recommender, requests, targets, plan)
    finally:
        if isinstance(recommender, SoftmaxOver):
            recommender.forget()  # a chunk is asked about once, and its scores of every item are large


def _measure_together(
    recommender: Recommender, requests: Sequence[Request], targets: np.ndarray, plan: Plan
) -> Columns:
    together = getattr(recommender, "together", None)
    groups = [] if together is None else together(requests, plan.n)
    if len(groups) > 1:
        parts = [_measure(recommender, [requests[at] for at in rows], targets[rows], plan) for rows in groups]
        order = np.argsort(np.concatenate(groups))
        columns = {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
        if "context_tokens" in columns:
            assert isinstance(recommender, ProbabilisticRecommender)
            columns["context_tokens"][:] = recommender.context_tokens(requests)
        return columns
    return _measure(recommender, requests, targets, plan)


def _measure(
    recommender: Recommender, requests: Sequence[Request], targets: np.ndarray, plan: Plan
) -> Columns:
    if not isinstance(recommender, ProbabilisticRecommender):
        return _ranked(recommender, requests, targets, plan)
    columns = _drawn(recommender, requests, targets, plan) | _scored(recommender, requests, targets, plan)
    columns["context_tokens"] = np.full(len(requests), float(recommender.context_tokens(requests)))
    if plan.lists:
        columns |= _ranked(recommender, requests, targets, plan)
        distinct = recommender.recommend(requests, plan.n, plan.temperature, _seed(plan, plan.draw_seeds[0]))
        columns["distinct"] = hits(_lists(distinct, requests, plan, plan.n), targets)
    return columns


def _drawn(
    method: ProbabilisticRecommender, requests: Sequence[Request], targets: np.ndarray, plan: Plan
) -> Columns:
    hit, entropy = [], []
    for seed in plan.draw_seeds:
        items, log_p = method.draw(requests, plan.n, plan.temperature, _seed(plan, seed))
        _refuse_excluded(requests, list(items), plan)
        hit.append(hits(items, targets))
        entropy.append(entropy_from_draws(log_p))
    return {"hit": np.mean(hit, axis=0), "entropy": np.mean(entropy, axis=0)}


def _scored(
    method: ProbabilisticRecommender, requests: Sequence[Request], targets: np.ndarray, plan: Plan
) -> Columns:
    wanted = (plan.temperature, plan.chosen_temperature, plan.matched_temperature)
    temperatures = list(dict.fromkeys(one for one in wanted if one is not None))
    at = dict(zip(temperatures, _log_probs(method, requests, targets, temperatures), strict=True))
    log_p = at[plan.temperature]
    bad = np.flatnonzero(np.isnan(log_p))
    if bad.size:
        raise ValueError(
            f"row '{plan.row}': the target of request {requests[bad[0]].request_id!r} scores NaN"
        )
    columns = {"log_p": log_p, "expected": expected_hit(log_p, plan.n)}
    if plan.chosen_temperature is not None:
        columns["expected_at_temperature"] = expected_hit(at[plan.chosen_temperature], plan.n)
    if plan.matched_temperature is not None:
        matched = np.maximum(at[plan.matched_temperature], LEAST_NATS)
        columns |= {"log_p_matched": matched, "expected_matched": expected_hit(matched, plan.n)}
    return columns


def _log_probs(
    method: ProbabilisticRecommender,
    requests: Sequence[Request],
    targets: np.ndarray,
    temperatures: list[float],
) -> list[np.ndarray]:
    """log p [R] at each temperature, for the price of one where the method can."""
    together = getattr(method, "log_prob_at", None)
    if together is not None:
        return list(np.asarray(together(requests, targets, temperatures), dtype=float).T)
    return [np.asarray(method.log_prob(requests, targets, t), dtype=float) for t in temperatures]


def _ranked(method: Recommender, requests: Sequence[Request], targets: np.ndarray, plan: Plan) -> Columns:
    depth = max(plan.n, *plan.cuts)
    ranked = _lists(method.recommend(requests, depth, 0.0), requests, plan, depth)
    columns = {"top": hits(ranked[:, : plan.n], targets)}
    for k in plan.cuts:
        columns |= {
            f"recall@{k}": recall_at_k(ranked, targets, k),
            f"ndcg@{k}": ndcg_at_k(ranked, targets, k),
        }
    return columns


def _lists(answers: Sequence, requests: Sequence[Request], plan: Plan, n: int) -> np.ndarray:
    lists = [np.asarray(answer.items, np.int64) for answer in answers]
    row, item = _flat(lists)
    order = np.lexsort((item, row))
    twice = (np.diff(row[order]) == 0) & (np.diff(item[order]) == 0)
    wrong = [*row[order][1:][twice], *(at for at, one in enumerate(lists) if len(one) > n)]
    if wrong:
        raise ValueError(
            f"row '{plan.row}' answered request {requests[min(wrong)].request_id!r} with repeats or over {n} items"
        )
    _refuse_excluded(requests, lists, plan)
    return pad_lists(lists, n)


def _refuse_excluded(requests: Sequence[Request], lists: list[np.ndarray], plan: Plan) -> None:
    row, item = _flat(lists)
    of, excluded = _flat([request.exclude for request in requests])
    width = max(int(some.max(initial=0)) for some in (item, excluded)) + 1
    bad = [*row[np.isin(row * width + item, of * width + excluded)]]
    bad += [
        at
        for at, request in enumerate(requests)
        if request.allow is not None and not request.available(lists[at]).all()
    ]
    if bad:
        raise ValueError(
            f"row '{plan.row}' returned an item that request {requests[min(bad)].request_id!r} excludes or does not "
            "allow"
        )


def _flat(lists: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Lists laid one after the other: whose each item is, and the items."""
    return (
        np.repeat(np.arange(len(lists)), [len(one) for one in lists]),
        np.concatenate([np.zeros(0, np.int64), *lists]),
    )


def _seed(plan: Plan, seed: int) -> int:
    """Replicas draw independently; rows share their draws' seeds, which only steadies the differences between
    rows.
    """
    return derive(seed, "replica", plan.replica)


class Checkpoint:
    """Finished chunks as parquet files, renamed into place; dropped when the inputs are not those they were
    made from.
    """

    def __init__(self, folder: Path, inputs: str):
        self.folder = Path(folder)
        stamp = self.folder / "inputs.sha256"
        if not stamp.exists() or stamp.read_text() != inputs:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            write_text_atomically(stamp, inputs)

    @classmethod
    def join(cls, folder: Path, inputs: str) -> Checkpoint:
        """The checkpoint that another process has opened. Raises `ValueError` if
        it was made from other inputs.
        """
        stamp = Path(folder) / "inputs.sha256"
        if not stamp.exists() or stamp.read_text() != inputs:
            raise ValueError(f"{folder} is of other rows or instances than this process has built")
        return cls(folder, inputs)

    def load(self, row: int, replica: int, start: int, size: int) -> Columns | None:
        """A finished chunk, or None if it has to be measured (also when its file is damaged)."""
        path = self._path(row, replica, start)
        try:
            frame = pd.read_parquet(path)
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowInvalid):  # cut short by a failing disk: measuring it again is always right
            return None
        return {str(name): frame[name].to_numpy() for name in frame} if len(frame) == size else None

    def save(self, row: int, replica: int, start: int, columns: Columns) -> None:
        path = self._path(row, replica, start)
        temporary = path.with_suffix(f".{uuid.uuid4().hex}.tmp")  # two workers may be at the same chunk
        pd.DataFrame(columns).to_parquet(temporary, index=False)
        os.replace(temporary, path)

    def _path(self, row: int, replica: int, start: int) -> Path:
        return self.folder / f"row{row:02d}-replica{replica:02d}-from{start:07d}.parquet"


def digest(parts: Iterable[str | np.ndarray]) -> str:
    """Hex sha256 over the parts, each with its length so that no two lists of parts run together."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else np.ascontiguousarray(part).tobytes()
        whole.update(len(data).to_bytes(8, "little") + data)
    return whole.hexdigest()

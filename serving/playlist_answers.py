"""What a worker of `prelude playlists` does: answer one part of one shard, and leave one Parquet file."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.caps import Caps
from recsys.recommender import Ranked, Request
from recsys.recommender import Recommender as AnyRecommender
from recsys.run import Run, RunError
from serving.asking import answer, caps_of, request_of
from serving.config import load_config
from serving.engines import Task
from serving.memory import peak_bytes
from serving.methods import Methods
from serving.playlist_plan import Settings, identity_of
from serving.playlist_shards import name_of, rejected_rows, write_parquet
from serving.recommender import PREFERRED, Recommender

PLAYLISTS = pa.schema(
    [("request_id", pa.string()), ("rank", pa.int32()), ("item_id", pa.string()), ("score", pa.float32())]
)
NOTHING_LEFT = "nothing is left to recommend: every item is excluded, seen, or not among the allowed ones that the catalogue has"


@dataclass
class Asked:
    """The requests of a part that can be answered, as they stand in it."""

    requests: list[Request] = field(default_factory=list)
    ns: list[int] = field(default_factory=list)
    rejected: list[int] = field(default_factory=list)  # rows of the part
    counts: Counter[str] = field(default_factory=Counter)


def start(run: str, identity: str, work: str, names: list[str], settings: dict) -> Callable[[Task], dict]:
    """A worker, the model loaded: a function of a task (shard, part). Raises `RunError` if the run is not that of the plan."""
    opened = Run.open(run)
    if identity_of(opened) != identity:
        raise RunError(f"{run} has changed since these playlists were begun; begin them again with --restart")
    chosen = Settings(**settings)
    service = service_of(opened, chosen)
    recommender = service.method(method_of(service, chosen))
    caps, folder = caps_of(service.methods.dataset, chosen.caps), Path(work)

    def do(task: Task) -> dict[str, Any]:
        shard, part = int(task[0]), int(task[1])
        table = pq.ParquetFile(folder / "requests" / f"shard-{shard:03d}.parquet").read_row_group(part)
        asked = requests_of(service, table)
        if asked.rejected:
            bad = table.take(asked.rejected)
            bad = bad.append_column("reason", pa.array([NOTHING_LEFT] * len(bad), pa.string()))
            path = folder / "done" / "rejected" / f"shard-{shard:03d}-part-{part:05d}.parquet"
            write_parquet(path, rejected_rows(bad, names), folder / "drafts")
        ranked = answers_of(recommender, asked.requests, asked.ns, chosen, caps)
        playlists = _table(service, asked.requests, ranked)
        facts = {name: str(count) for name, count in sorted(asked.counts.items())}
        path = (
            folder / "done" / "playlists" / name_of(shard, part)
        )  # the commit: this file says that the task is done
        write_parquet(path, playlists.replace_schema_metadata(facts), folder / "drafts")
        return {
            "requests": len(table),
            "worker": f"{platform.node()}:{os.getpid()}",
            "peak_bytes": peak_bytes(),
        }

    return do


def service_of(run: Run, settings: Settings) -> Recommender:
    """The run's recommender, its batches within `settings.memory_mb`."""
    config = load_config(None, base=run.read_config())
    budget = config.evaluate.model_copy(update={"memory_mb": settings.memory_mb})
    return Recommender(Methods(run, config.model_copy(update={"evaluate": budget})))


def method_of(service: Recommender, settings: Settings) -> str:
    return settings.method or next(name for name in PREFERRED if name in service.methods.available())


def requests_of(service: Recommender, table: pa.Table) -> Asked:
    """Rows of a part as requests. Ids of items that the catalogue lacks are left out and counted: lists go stale."""
    catalogue = service.methods.dataset.catalogue
    asked = Asked()
    known = _known_ids(catalogue)
    every = len(catalogue)
    for row, line in enumerate(table.to_pylist()):
        exclude, unknown = known(tuple(line["exclude"] or ()))
        asked.counts["unknown_items_excluded"] += unknown
        allow = None
        if line["allow"] is not None:
            allow, unknown = known(tuple(line["allow"]))
            asked.counts["unknown_items_allowed"] += unknown
        request = request_of(
            service.methods.dataset,
            service.live.histories,
            line["user_id"],
            line["query"],
            line["time"],
            exclude=exclude,
            allow=allow,
            request_id=line["request_id"],
        )
        asked.counts["requests"] += 1
        if request.user is None:
            asked.counts["nobody" if line["user_id"] is None else "unknown_users"] += 1
        left = every - len(request.exclude)
        if request.allow is not None:
            left = len(np.setdiff1d(request.allow, request.exclude))
        if left:
            asked.requests.append(request)
            asked.ns.append(min(line["n"], every))
        else:
            asked.rejected.append(row)
    asked.counts["rejected"] = len(asked.rejected)
    return asked


def _known_ids(catalogue) -> Callable[[tuple], tuple[list[str], int]]:
    """Which of some item ids the catalogue has, and how many it has not; a list that many requests share is looked at once."""
    every = set(catalogue.item_ids)

    @lru_cache(maxsize=64)
    def known(ids: tuple) -> tuple[list[str], int]:
        found = [id_ for id_ in ids if id_ in every]
        return found, len(ids) - ids.count(None) - len(found)

    return known


def answers_of(
    recommender: AnyRecommender,
    requests: Sequence[Request],
    ns: Sequence[int],
    settings: Settings,
    caps: Caps | None = None,
) -> list[Ranked]:
    """`ns[r]` items for each request, in micro-batches that the requests alone decide: those of one n, in their order."""
    answers: dict[int, Ranked] = {}
    for n, rows in micro_batches(ns, settings.batch):
        some = [requests[row] for row in rows]
        ranked = answer(recommender, some, n, settings.temperature, settings.seed, settings.sequence, caps)
        answers.update(zip(rows, ranked, strict=True))
    return [answers[row] for row in range(len(requests))]


def micro_batches(ns: Sequence[int], size: int) -> Iterator[tuple[int, list[int]]]:
    """(n, rows): at most `size` consecutive ones of the rows that ask for n items."""
    for n in sorted(set(ns)):
        rows = [row for row, wanted in enumerate(ns) if wanted == n]
        for at in range(0, len(rows), size):
            yield n, rows[at : at + size]


def _table(service: Recommender, requests: Sequence[Request], ranked: Sequence[Ranked]) -> pa.Table:
    """Answers as rows, by request and rank (1 is the first)."""
    lengths = [len(answer.items) for answer in ranked]
    items = np.concatenate([answer.items for answer in ranked]) if ranked else np.zeros(0, np.int64)
    scores = np.concatenate([answer.scores for answer in ranked]) if ranked else np.zeros(0)
    ids = service.methods.dataset.catalogue.item_ids
    return pa.table(
        [
            pa.array(
                [request.request_id for request, k in zip(requests, lengths, strict=True) for _ in range(k)],
                pa.string(),
            ),
            pa.array([rank for k in lengths for rank in range(1, k + 1)], pa.int32()),
            pa.array([str(ids[item]) for item in items], pa.string()),
            pa.array(scores.astype(np.float32)),
        ],
        schema=PLAYLISTS,
    )

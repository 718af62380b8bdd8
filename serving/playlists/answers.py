"""What a worker of `prelude playlists` does: answer one part of one shard, and leave one Parquet file."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from recsys.artifacts.paths import RunError
from recsys.data.catalogue import Catalogue
from recsys.recommender import Ranked, Request
from recsys.run import Run
from serving.answering.defaults import PREFERRED
from serving.answering.known import KnownItems, known_items
from serving.answering.methods import Methods
from serving.answering.ordering import ordered
from serving.answering.recommender import Recommender
from serving.answering.requests import answer, asked_of, caps_of
from serving.config.truth import config_of
from serving.engines.base import Task
from serving.engines.memory import peak_bytes
from serving.playlists.plan import Settings, identity_of
from serving.playlists.requests import BUFFER_BYTES
from serving.playlists.shards import groups_of, name_of, rejected_rows, write_parquet

PLAYLISTS = pa.schema(
    [("request_id", pa.string()), ("rank", pa.int32()), ("item_id", pa.string()), ("score", pa.float32())]
)
NOTHING_LEFT = (
    "nothing is left to recommend: every item is excluded, seen, or not among the allowed ones that the "
    "catalogue has"
)
ROWS = 32  # that are made into Python's objects at once
# what no row is to blame for, and no other row would be spared
NOT_OF_A_ROW = (MemoryError, OSError, ImportError, torch.OutOfMemoryError, torch.AcceleratorError)


class Row(NamedTuple):
    """A request that can be asked: its place in the part, and how many items are wanted."""

    place: int
    request: Request
    n: int


def start(
    run: str,
    identity: str,
    absorbed: int,
    row: int | None,
    work: str,
    names: list[str],
    part_requests: int,
    settings: dict,
) -> Callable[[Task], dict]:
    """A worker, the model loaded: a function of a task (shard, part).

    Raises `RunError` if the run is not that of the plan.
    """
    opened = Run.serving(run)
    if identity_of(opened, absorbed, row) != identity:
        raise RunError(f"{run} has changed since these playlists were begun; begin them again with --restart")
    chosen = Settings(**settings)
    service = service_of(opened, chosen, absorbed, row)
    ask, reply = door(service), answerer(service, chosen)
    catalogue_ids = pa.array([str(id_) for id_ in service.methods.dataset.catalogue.item_ids], pa.string())
    folder = Path(work)

    def do(task: Task) -> dict[str, Any]:
        shard, number = int(task[0]), int(task[1])
        path = folder / "requests" / f"shard-{shard:03d}.parquet"
        file = pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)
        part = Part()
        part.fill(
            file.iter_batches(ROWS, groups_of(file.metadata, part_requests)[number]), ask, reply, chosen.batch
        )
        if part.reasons:
            path = folder / "done" / "rejected" / f"shard-{shard:03d}-part-{number:05d}.parquet"
            write_parquet(path, part.rejected(names), folder / "drafts")
        path = folder / "done" / "playlists" / name_of(shard, number)
        write_parquet(path, part.playlists(catalogue_ids), folder / "drafts")  # the commit: the task is done
        return {
            "requests": len(part.rows),
            "worker": f"{platform.node()}:{os.getpid()}",
            "peak_bytes": peak_bytes(),
        }

    return do


def service_of(
    run: Run, settings: Settings, absorbed: int | None = None, row: int | None = None
) -> Recommender:
    """The run's recommender as it was after the event `absorbed` of feedback and the row `row` of P_u,
    its batches within `settings.memory_mb`.
    """
    config = config_of(run)
    budget = config.evaluate.model_copy(update={"memory_mb": settings.memory_mb})
    return Recommender(Methods(run, config.model_copy(update={"evaluate": budget})), absorbed, row=row)


def method_of(service: Recommender, settings: Settings) -> str:
    return settings.method or next(name for name in PREFERRED if name in service.methods.available())


Reply = Callable[[Sequence[Request], int], list[Ranked]]


def answerer(service: Recommender, settings: Settings) -> Reply:
    """A function of (requests, n): a finished list each."""
    recommender = service.method(method_of(service, settings), settings.strength)
    caps = caps_of(service.methods.dataset, settings.caps)

    def reply(requests: Sequence[Request], n: int) -> list[Ranked]:
        lists = answer(recommender, requests, n, settings.temperature, settings.seed, settings.sequence, caps)
        return [ordered(ranked, settings.order, lambda: service.item_vectors) for ranked in lists]

    return reply


class Part:
    """The rows of a part and what has come of them: a list or a reason each."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, int]] = []  # request id, file and row of each
        self.answers: dict[int, Ranked] = {}
        self.reasons: dict[int, str] = {}
        self.counts: Counter[str] = Counter()

    def fill(self, batches: Iterable[pa.RecordBatch], ask: Door, reply: Reply, size: int) -> None:
        """Answer all rows, in micro-batches of `size`."""
        failed: list[Exception] = []
        for n, some in micro_batches(self._asked(batches, ask), size):
            answers, errors = each_or_why(reply, [row.request for row in some], n)
            self.answers.update({some[at].place: ranked for at, ranked in answers.items()})
            self.reasons.update({some[at].place: reason_of(error) for at, error in errors.items()})
            failed += errors.values()
        if len(failed) > 1 and not self.answers:  # not one row is well: it is not the rows
            raise failed[0]
        self.counts["rejected"] = len(self.reasons)

    def _asked(self, batches: Iterable[pa.RecordBatch], ask: Door) -> Iterator[Row]:
        for batch in batches:
            for line in batch.to_pylist():
                place = len(self.rows)
                self.rows.append((line["request_id"], line["file"], line["row"]))
                try:
                    request, n, counts = ask(line)
                except ValueError as error:
                    self.reasons[place] = reason_of(error)
                    continue
                self.counts.update(counts)
                if n:
                    yield Row(place, request, n)
                else:
                    self.reasons[place] = NOTHING_LEFT

    def rejected(self, names: list[str]) -> pa.Table:
        """The rows that have a reason, in their order."""
        rows = [(*self.rows[place], reason) for place, reason in sorted(self.reasons.items())]
        ids, files, numbers, reasons = zip(*rows, strict=True)
        columns = {
            "request_id": pa.array(ids, pa.large_string()),
            "file": pa.array(files, pa.int32()),
            "row": pa.array(numbers, pa.int64()),
            "reason": pa.array(reasons, pa.large_string()),
        }
        return rejected_rows(pa.table(columns), names)

    def playlists(self, catalogue_ids: pa.Array) -> pa.Table:
        """Answers as rows, by request and rank (1 is the first); what was counted is its metadata."""
        places = sorted(self.answers)
        ranked = [self.answers[place] for place in places]
        lengths = np.array([len(some.items) for some in ranked], np.int64)
        items = np.concatenate([*(some.items for some in ranked), np.zeros(0, np.int64)])
        scores = np.concatenate([*(some.scores for some in ranked), np.zeros(0)])
        firsts = np.cumsum(lengths) - lengths
        table = pa.table(
            [
                pa.array([self.rows[place][0] for place in places], pa.string()).take(
                    pa.array(np.repeat(np.arange(len(places)), lengths))
                ),
                pa.array((np.arange(len(items)) - np.repeat(firsts, lengths) + 1).astype(np.int32)),
                catalogue_ids.take(pa.array(items)),
                pa.array(scores.astype(np.float32)),
            ],
            schema=PLAYLISTS,
        )
        return table.replace_schema_metadata({name: str(n) for name, n in sorted(self.counts.items())})


Door = Callable[[dict[str, Any]], tuple[Request, int, Counter[str]]]


def door(service: Recommender) -> Door:
    """A function of a row: its request, how many items there can be (0: none), and what is to be counted.

    Ids of items that the catalogue lacks are left out and counted: lists go stale.
    """
    data = service.methods.dataset
    known, every = known_lists(data.catalogue), len(data.catalogue)

    def ask(line: dict[str, Any]) -> tuple[Request, int, Counter[str]]:
        asked = asked_of(
            data,
            service.live.histories,
            line["user_id"],
            line["query"],
            line["time"],
            exclude=known(tuple(line["exclude"] or ()), "exclude"),
            allow=None if line["allow"] is None else known(tuple(line["allow"]), "allow"),
            request_id=line["request_id"],
        )
        counts, request = Counter[str](requests=1), asked.request
        for list_, name in (("exclude", "unknown_items_excluded"), ("allow", "unknown_items_allowed")):
            if list_ == "exclude" or line[list_] is not None:
                counts[name] = asked.ignored[list_].count if list_ in asked.ignored else 0
        if request.user is None:
            counts["nobody" if line["user_id"] is None else "unknown_users"] += 1
        left = every - len(request.exclude)
        if request.allow is not None:
            left = len(np.setdiff1d(request.allow, request.exclude))
        return request, min(line["n"], every) if left else 0, counts

    return ask


def known_lists(catalogue: Catalogue) -> Callable[[tuple, str], KnownItems]:
    """`known_items` of a catalogue; a list that many requests share is looked at once."""

    @lru_cache(maxsize=64)
    def known(ids: tuple, what: str) -> KnownItems:
        return known_items(catalogue, ids, what)

    return known


def micro_batches(rows: Iterable[Row], size: int) -> Iterator[tuple[int, list[Row]]]:
    """(n, rows): `size` consecutive ones of the rows that ask for n items, the last of an n perhaps fewer.

    The rows alone decide, and a batch is out as soon as it is full, so that no more than those are held.
    """
    waiting: dict[int, list[Row]] = {}
    for row in rows:
        some = waiting.setdefault(row.n, [])
        some.append(row)
        if len(some) == size:
            yield row.n, waiting.pop(row.n)
    yield from sorted(waiting.items())


def each_or_why(
    reply: Reply, requests: Sequence[Request], n: int
) -> tuple[dict[int, Ranked], dict[int, Exception]]:
    """Answers of a micro-batch, and errors of the requests that cannot be answered.

    Where the whole fails, each is asked alone, and the whole once more without those that failed: what the
    others get depends on the requests alone. Raises what no request fails with alone, and what is of no
    request (`NOT_OF_A_ROW`).
    """
    left, errors = list(range(len(requests))), dict[int, Exception]()
    while left:
        try:
            return dict(zip(left, reply([requests[at] for at in left], n), strict=True)), errors
        except NOT_OF_A_ROW:
            raise
        except Exception as error:
            alone = {at: why for at in left if (why := _why(reply, requests[at], n)) is not None}
            if not alone:
                raise error
            errors |= alone
            left = [at for at in left if at not in alone]
    return {}, errors


def _why(reply: Reply, request: Request, n: int) -> Exception | None:
    try:
        reply([request], n)
    except NOT_OF_A_ROW:
        raise
    except Exception as error:
        return error
    return None


def reason_of(error: Exception) -> str:
    """Why a request is not answered, in a line."""
    first = next(iter(str(error).splitlines()), "")
    return f"cannot be answered: {type(error).__name__}: {first}"[:500]

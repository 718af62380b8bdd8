"""Requests, however they are split over files, put into one canonical order within bounded memory.

They are dealt to shards by a hash of the request id, and each shard is sorted by id and cut into parts. Which requests
stand in a part, and in which order, then depends on the set of requests alone: not on files, rows, engine or workers. Logits
vary in the last bits with the batch they are computed in, so this is what makes the bytes of the playlists reproducible.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.rewrite import to_disk
from serving.playlist_requests import SCHEMA, Source

SHARD_ROWS = 16_384  # rows of a shard on average: what is sorted in memory at once
MOST_SHARDS = 256  # files that are open at once; beyond SHARD_ROWS · MOST_SHARDS requests the shards grow
DEALT_BYTES = 64 << 20  # rows that are held back until they are written to their shards
PART_REQUESTS = 128  # requests of a task and a file of playlists, at least: what a kill costs a worker
MOST_PARTS = 10_000  # files, about; beyond PART_REQUESTS · MOST_PARTS requests the parts grow
REJECTED = pa.schema(
    [("request_id", pa.string()), ("file", pa.string()), ("row", pa.int64()), ("reason", pa.string())]
)


def shards_of(rows: int) -> int:
    """How many shards `rows` requests are dealt to."""
    return min(MOST_SHARDS, -(-rows // SHARD_ROWS))


def part_of(rows: int, batch: int) -> int:
    """Requests of a part: whole micro-batches of `batch`."""
    return -(-max(PART_REQUESTS, rows // MOST_PARTS) // batch) * batch


def name_of(shard: int | str, part: int | str) -> str:
    """The file that holds the playlists of a part."""
    return f"part-{shard:03d}-{part:05d}.parquet"


def write_parquet(path: Path, table: pa.Table, temporary: Path, row_group: int | None = None) -> None:
    """Write under a name of its own in the folder `temporary`, flush to disk, and rename into place.

    The same table gives the same bytes. Two processes that write one file (a task that is tried again while its first
    worker is not quite dead) do not meet before the rename.
    """
    draft = temporary / f"{path.name}.{uuid.uuid4().hex}"
    pq.write_table(table, draft, compression="zstd", row_group_size=row_group)
    to_disk(draft)
    os.replace(draft, path)


def deal(source: Source, folder: Path, shards: int, default_n: int) -> None:
    """Stream all rows of `source` into `folder/shard-000.arrow`, … by a hash of their request id."""
    held: list[list[pa.Table]] = [[] for _ in range(shards)]
    held_bytes = 0
    with contextlib.ExitStack() as open_files:
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        writers = [
            open_files.enter_context(pa.ipc.new_stream(dealt(folder, shard), SCHEMA, options=options))
            for shard in range(shards)
        ]
        for table in source.tables(default_n):
            numbers = np.array([_shard(id_, shards) for id_ in table["request_id"].to_pylist()])
            order = np.argsort(numbers, kind="stable")
            ends = np.searchsorted(numbers[order], np.arange(shards + 1))
            sorted_ = table.take(order)
            for shard in np.unique(numbers).tolist():
                held[shard].append(sorted_.slice(ends[shard], ends[shard + 1] - ends[shard]))
            held_bytes += sorted_.nbytes
            if held_bytes >= DEALT_BYTES:
                _write_out(writers, held)
                held_bytes = 0
        _write_out(writers, held)


def dealt(folder: Path, shard: int) -> str:
    return str(folder / f"shard-{shard:03d}.arrow")


def _shard(request_id: str | None, shards: int) -> int:
    digest = hashlib.blake2b((request_id or "").encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % shards


def _write_out(writers: list, held: list[list[pa.Table]]) -> None:
    for writer, tables in zip(writers, held, strict=True):
        if tables:
            writer.write_table(pa.concat_tables(tables).combine_chunks())
            tables.clear()


def sort_shard(path: str, names: list[str]) -> tuple[pa.Table, pa.Table]:
    """A dealt shard as (requests sorted by id, rejected rows of schema `REJECTED`). `names` are those of the source's files.

    Of rows that share a request id and are alike in everything, one is answered. Where they differ, none is: which is
    meant cannot be known, and must not depend on which is read first.
    """
    with pa.ipc.open_stream(path) as stream:
        table = stream.read_all().combine_chunks()
    keys = [("request_id", "ascending"), ("file", "ascending"), ("row", "ascending")]
    table = table.take(pc.sort_indices(table, sort_keys=keys))
    reasons = table["reason"].to_pylist()
    for start, end in _repeats(table["request_id"]):
        some = table.slice(start, end - start).to_pylist()
        alike = all(_asked(row) == _asked(some[0]) for row in some[1:])
        place = f"{names[some[0]['file']]} row {some[0]['row']}"
        for at in range(start + alike, end):
            reasons[at] = reasons[at] or (
                f"the same request as {place}, which is answered"
                if alike
                else f"request_id is used by {end - start} rows that differ (the first: {place}); none is answered"
            )
    fine = pc.is_null(pa.array(reasons, pa.string()))
    bad = table.set_column(SCHEMA.get_field_index("reason"), "reason", pa.array(reasons, pa.string()))
    return table.filter(fine).drop_columns(["reason"]), rejected_rows(bad.filter(pc.invert(fine)), names)


def rejected_rows(table: pa.Table, names: list[str]) -> pa.Table:
    files = pa.array([names[number] for number in table["file"].to_pylist()], pa.string())
    return pa.table([table["request_id"], files, table["row"], table["reason"]], schema=REJECTED)


def _repeats(ids: pa.ChunkedArray) -> list[tuple[int, int]]:
    """Ranges of rows that share an id, of sorted ids (nulls last)."""
    texts = ids.to_numpy()
    known = len(texts) - ids.null_count
    starts = np.flatnonzero(np.r_[True, texts[1:known] != texts[: known - 1]]) if known else np.zeros(0, int)
    ends = np.r_[starts[1:], known].astype(int) if known else starts
    return [(int(a), int(b)) for a, b in zip(starts, ends, strict=True) if b - a > 1]


def _asked(row: dict) -> tuple:
    """All of a row that says what is asked, and what is wrong with it."""
    return tuple(repr(row[name]) for name in SCHEMA.names if name not in ("file", "row"))

"""Requests, however they are split over files, put into one canonical order within bounded memory.

They are dealt to shards by a hash of the request id, and each shard is sorted by id and cut into parts. Which
requests stand in a part, and in which order, then depends on the set of requests alone: not on files, rows,
engine or workers. Logits vary in the last bits with the batch they are computed in, so this is what makes the
bytes of the playlists reproducible.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.artifacts.rewrite import to_disk
from serving.playlists.requests import Source
from serving.playlists.rows import LISTS, SCHEMA

SHARD_ROWS = 16_384  # rows of a shard on average: what is sorted in memory at once
MOST_SHARDS = 256  # files that are open at once; beyond SHARD_ROWS · MOST_SHARDS requests the shards grow
DEALT_BYTES = 64 << 20  # rows that are held back until they are written to their shards
PIECE_BYTES, PIECE_ROWS = 8 << 20, 8192  # of a shard: what is sorted out, compared or written at once
ID_BYTES, ROW_BYTES = 24, 64  # of an item id in a list, and of a row without its query and lists, about
PART_REQUESTS = 128  # requests of a task and a file of playlists, at least: what a kill costs a worker
MOST_PARTS = 10_000  # files, about; beyond PART_REQUESTS · MOST_PARTS requests the parts grow
REJECTED = pa.schema(
    [("request_id", pa.string()), ("file", pa.string()), ("row", pa.int64()), ("reason", pa.string())]
)
_KEYS = pa.schema([SCHEMA.field(name) for name in ("request_id", "file", "row")])


def shards_of(rows: int) -> int:
    """How many shards `rows` requests are dealt to."""
    return min(MOST_SHARDS, -(-rows // SHARD_ROWS))


def part_of(rows: int, batch: int) -> int:
    """Requests of a part: whole micro-batches of `batch`."""
    return -(-max(PART_REQUESTS, rows // MOST_PARTS) // batch) * batch


def name_of(shard: int | str, part: int | str) -> str:
    """The file that holds the playlists of a part."""
    return f"part-{shard:03d}-{part:05d}.parquet"


def write_parquet(path: Path, table: pa.Table, temporary: Path) -> None:
    """Write under a name of its own in the folder `temporary`, flush to disk, and rename into place.

    The same table gives the same bytes. Two processes that write one file (a task that is tried again while
    its first worker is not quite dead) do not meet before the rename.
    """
    draft = temporary / f"{path.name}.{uuid.uuid4().hex}"
    pq.write_table(table, draft, compression="zstd")
    into_place(draft, path)


def into_place(draft: Path, path: Path) -> None:
    """Flush a finished file to disk and rename it."""
    to_disk(draft)
    os.replace(draft, path)


def deal(source: Source, folder: Path, shards: int, default_n: int) -> Iterator[int]:
    """Stream the rows of `source` into `folder/shard-000.arrow`, … by a hash of their request id;
    yields how many, a piece at a time.

    Rows that have a reason already go to `folder/rejected.parquet`, if there are any: an input of bad rows,
    which may all have one id or none, is of no shard.
    """
    names = [file.name for file in source.files]
    held: list[list[pa.Table]] = [[] for _ in range(shards)]
    bad: list[pa.Table] = []
    held_bytes = 0
    with contextlib.ExitStack() as open_files:
        writers = [
            open_files.enter_context(pa.ipc.new_stream(dealt(folder, shard), SCHEMA))
            for shard in range(shards)
        ]
        refused = open_files.enter_context(_Late(folder / "rejected.parquet", REJECTED))
        for table in source.tables(default_n):
            fine = pc.is_null(table["reason"])
            bad.append(rejected_rows(table.filter(pc.invert(fine)), names))
            good = table.filter(fine)
            numbers = np.array([_shard(id_, shards) for id_ in good["request_id"].to_pylist()], np.int64)
            order = np.argsort(numbers, kind="stable")
            ends = np.searchsorted(numbers[order], np.arange(shards + 1))
            sorted_ = good.take(order)
            for shard in np.unique(numbers).tolist():
                held[shard].append(sorted_.slice(ends[shard], ends[shard + 1] - ends[shard]))
            held_bytes += sorted_.nbytes + bad[-1].nbytes
            if held_bytes >= DEALT_BYTES:
                _write_out(writers, held)
                refused.write(bad)
                held_bytes = 0
            yield len(table)
        _write_out(writers, held)
        refused.write(bad)


class _Late:
    """A Parquet file that is made with its first row."""

    def __init__(self, path: Path, schema: pa.Schema):
        self.path, self.schema = path, schema
        self.writer: pq.ParquetWriter | None = None

    def __enter__(self) -> _Late:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def write(self, tables: list[pa.Table]) -> None:
        """Write and forget `tables`."""
        if any(len(table) for table in tables):
            self.writer = self.writer or pq.ParquetWriter(self.path, self.schema, compression="zstd")
            self.writer.write_table(pa.concat_tables(tables))
        tables.clear()


def dealt(folder: Path, shard: int) -> str:
    return str(folder / f"shard-{shard:03d}.arrow")


def _shard(request_id: str, shards: int) -> int:
    digest = hashlib.blake2b(request_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % shards


def _write_out(writers: list, held: list[list[pa.Table]]) -> None:
    for writer, tables in zip(writers, held, strict=True):
        if tables:
            writer.write_table(pa.concat_tables(tables).combine_chunks(), PIECE_ROWS)
            tables.clear()


class Shard:
    """A dealt shard in the order of its ids: the ids are in memory, the rest on disk,
    from where a piece at a time is taken.

    Of rows that share a request id and are alike in everything, one is answered. Where they differ, none is:
    which is meant cannot be known, and must not depend on which is read first.
    """

    def __init__(self, path: str, names: list[str]):
        """`names` are those of the source's files."""
        self.names = names
        with pa.memory_map(path) as file, pa.ipc.open_stream(file) as stream:
            self.batches = [batch for batch in stream if batch.num_rows]  # views of the file, not copies
        self.starts = np.cumsum([0, *(batch.num_rows for batch in self.batches)])
        keys = ["request_id", "file", "row"]
        whole = pa.Table.from_batches([batch.select(keys) for batch in self.batches], _KEYS).combine_chunks()
        self.order = pc.sort_indices(whole, sort_keys=[(key, "ascending") for key in keys]).to_numpy()
        self.sizes = np.concatenate([_row_bytes(batch) for batch in self.batches] or [np.zeros(0, np.int64)])
        self.repeats = _repeats(whole["request_id"].take(self.order))

    def take(self, places: np.ndarray) -> pa.Table:
        """The rows at `places` of the sorted order."""
        rows = self.order[places].astype(np.int64)
        holder = np.searchsorted(self.starts, rows, side="right") - 1
        by_holder = np.argsort(holder, kind="stable")
        parts = [
            pa.Table.from_batches([self.batches[at].take(pa.array(rows[holder == at] - self.starts[at]))])
            for at in np.unique(holder).tolist()
        ]
        table = pa.concat_tables(parts) if parts else SCHEMA.empty_table()
        return table.combine_chunks().take(np.argsort(by_holder, kind="stable"))

    def pieces(self, places: np.ndarray) -> Iterator[np.ndarray]:
        """`places`, cut where their rows come to `PIECE_BYTES` or `PIECE_ROWS`."""
        number = np.cumsum(self.sizes[self.order[places]]) // PIECE_BYTES
        cuts = np.flatnonzero(np.diff(number)) + 1
        for some in np.split(places, cuts):
            for at in range(0, len(some), PIECE_ROWS):
                yield some[at : at + PIECE_ROWS]

    def verdicts(self) -> tuple[np.ndarray, dict[int, str]]:
        """Places of rows that are answered [k], and reasons for the others by place."""
        reasons: dict[int, str] = {}
        for start, end in self.repeats:
            first = self.take(np.array([start]))
            alike = self._alike(first, start, end)
            place = f"{self.names[first['file'][0].as_py()]} row {first['row'][0]}"
            reason = (
                f"the same request as {place}, which is answered"
                if alike
                else f"request_id is used by {end - start:,} rows that differ (the first: {place}); none is answered"
            )
            reasons.update(dict.fromkeys(range(start + alike, end), reason))
        fine = np.ones(len(self.order), bool)
        fine[list(reasons)] = False
        return np.flatnonzero(fine), reasons

    def _alike(self, first: pa.Table, start: int, end: int) -> bool:
        """Do the rows from `start` to `end` ask the same?"""
        asked = first.drop_columns(["file", "row"])
        for some in self.pieces(np.arange(start + 1, end)):
            table = self.take(some).drop_columns(["file", "row"])
            if not all(table.slice(row, 1).equals(asked) for row in range(len(table))):
                return False
        return True


def sort_shard(path: str, names: list[str], requests: Path, rejected: Path, part: int) -> bool:
    """A dealt shard as requests sorted by id and rejected rows.

    In `requests` no row group holds rows of two parts.

    Returns whether there are rejected ones; without any `rejected` is not made. `names` are those of the
    source's files.
    """
    shard = Shard(path, names)
    fine, reasons = shard.verdicts()
    asked = SCHEMA.remove(SCHEMA.get_field_index("reason"))
    with pq.ParquetWriter(requests, asked, compression="zstd") as writer:
        for at in range(0, len(fine), part):
            for some in shard.pieces(fine[at : at + part]):
                writer.write_table(shard.take(some).select(asked.names))
    if reasons:
        with pq.ParquetWriter(rejected, REJECTED, compression="zstd") as writer:
            for some in shard.pieces(np.array(sorted(reasons))):
                table = shard.take(some)
                because = pa.array([reasons[place] for place in some.tolist()], pa.large_string())
                index = SCHEMA.get_field_index("reason")
                writer.write_table(rejected_rows(table.set_column(index, "reason", because), names))
    return bool(reasons)


def groups_of(footer: pq.FileMetaData, part_requests: int) -> list[list[int]]:
    """The row groups of each part of a file of `sort_shard`."""
    parts: list[list[int]] = [[] for _ in range(-(-footer.num_rows // part_requests))]
    first = 0
    for group in range(footer.num_row_groups):
        parts[first // part_requests].append(group)
        first += footer.row_group(group).num_rows
    return parts


def rejected_rows(table: pa.Table, names: list[str]) -> pa.Table:
    files = pa.array(names, pa.string()).take(table["file"])
    return pa.table([table["request_id"], files, table["row"], table["reason"]], names=REJECTED.names).cast(
        REJECTED
    )


def _repeats(ids: pa.ChunkedArray) -> list[tuple[int, int]]:
    """Ranges of rows that share an id, of sorted ids."""
    whole = pa.concat_arrays(ids.chunks) if ids.num_chunks else pa.array([], pa.large_string())
    same = pc.equal(whole.slice(1), whole.slice(0, max(len(whole) - 1, 0))).to_numpy(zero_copy_only=False)
    edges = np.diff(np.r_[0, same.astype(np.int8), 0])
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) + 1
    return [(int(a), int(b)) for a, b in zip(starts, ends, strict=True)]


def _row_bytes(batch: pa.RecordBatch) -> np.ndarray:
    """About how many bytes each row has [n]: of its query and its lists."""
    query = pc.fill_null(pc.binary_length(batch["query"]), 0).to_numpy(zero_copy_only=False)
    lists = [pc.fill_null(pc.list_value_length(batch[name]), 0) for name in LISTS]
    return query + sum(ID_BYTES * some.to_numpy(zero_copy_only=False) for some in lists) + ROW_BYTES

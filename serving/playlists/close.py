"""The end of a playlist run: every request is answered once or rejected, or it is not the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.artifacts.manifest import sha256_of
from serving.engines.memory import peak_bytes
from serving.playlists.shards import groups_of, name_of

FACTS = ("unknown_users", "nobody", "unknown_items_excluded", "unknown_items_allowed")


def check_and_count(
    work: Path,
    tasks: Sequence[tuple[int, int]],
    part_requests: int,
    rows: int,
    counted: Callable[[tuple[int, int]], Any] = lambda task: None,
) -> tuple[dict[str, int], dict[str, Any]]:
    """Counts of the run, and {file: sha256 and rows}, read back from what is on the disk.

    `counted` is told of each task.

    Raises `ValueError` if a request is missing, doubled or not asked for: a file was changed by somebody
    else.
    """
    counts, files = Counter[str](), {}
    for shard, part in tasks:
        asked = _ids(work / "requests" / f"shard-{shard:03d}.parquet", part, part_requests)
        path = work / "done" / "playlists" / name_of(shard, part)
        answered = _lists(path)
        refused = work / "done" / "rejected" / f"shard-{shard:03d}-part-{part:05d}.parquet"
        rejected = (
            pq.ParquetFile(refused).read(["request_id"])["request_id"].to_pylist() if refused.exists() else []
        )
        if sorted([*answered, *rejected]) != asked:
            raise ValueError(
                f"{path} does not hold each of its {len(asked):,} requests once; delete it, and the same "
                "command makes it again"
            )
        footer = pq.ParquetFile(path).schema_arrow.metadata or {}
        counts.update({name: int(footer.get(name.encode(), 0)) for name in FACTS})
        counts["answered"] += len(answered)
        counts["items"] += pq.ParquetFile(path).metadata.num_rows
        files[f"playlists/{path.name}"] = {"sha256": sha256_of(path), "requests": len(answered)}
        counted((shard, part))
    for path in sorted((work / "done" / "rejected").glob("*.parquet")):
        bad = pq.ParquetFile(path).metadata.num_rows
        counts["rejected"] += bad
        files[f"rejected/{path.name}"] = {"sha256": sha256_of(path), "requests": bad}
    if counts["answered"] + counts["rejected"] != rows:
        raise ValueError(
            f"{counts['answered']:,} requests answered and {counts['rejected']:,} rejected are not the "
            f"{rows:,} of the input; "
            "were its files changed meanwhile? Begin again with --restart"
        )
    order = ("answered", "rejected", "items", *FACTS)
    return {"requests": rows} | {name: counts[name] for name in order}, files


def _ids(path: Path, part: int, part_requests: int) -> list[str]:
    file = pq.ParquetFile(path)
    groups = groups_of(file.metadata, part_requests)[part]
    return file.read_row_groups(groups, ["request_id"])["request_id"].to_pylist()


def _lists(path: Path) -> list[str]:
    """The request ids of a file of playlists, one for each list; a list's ranks are 1, 2, …"""
    table = pq.ParquetFile(path).read(["request_id", "rank"]).combine_chunks()
    ranks, ids = table["rank"].to_numpy(), table["request_id"]
    first = ranks == 1
    same = pc.equal(ids.slice(1), ids.slice(0, max(len(ids) - 1, 0))).to_numpy(zero_copy_only=False)
    follows = same & (ranks[1:] == ranks[:-1] + 1)
    if len(ids) and not (first[0] and (first[1:] ^ follows).all()):
        raise ValueError(f"{path}: ranks do not run from 1; delete it, and the same command makes it again")
    return ids.filter(pa.array(first)).to_pylist()


def peaks(workers: dict[str, int]) -> dict[str, int]:
    """Peak memory of this call: this process, the largest worker,
    and the sum over all that there were (an upper bound).
    """
    own = peak_bytes()
    return {
        "peak_bytes_parent": own,
        "peak_bytes_worker": max(workers.values(), default=0),
        "peak_bytes_sum": own + sum(workers.values()),
    }

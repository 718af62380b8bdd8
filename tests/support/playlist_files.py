"""Requests of playlists as files, what comes back of them, and kills on the way."""

from __future__ import annotations

import os
import signal
import traceback
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.artifacts.manifest import sha256_of
from serving.playlists.plan import Settings

SETTINGS = Settings(n=7, batch=4, seed=3)


def asked(count: int = 70) -> pa.Table:
    """Requests of known users, strangers and nobody; queries in several scripts, none, and a long one."""
    generator = np.random.default_rng(5)
    queries = ["even", "odd", None, "", "  ", "музыка для ночи", "夜に聴く音楽", "🎧 אודות", "x" * 10_000]
    rows = []
    for number in range(count):
        user = None if number % 11 == 0 else f"u{generator.integers(0, 50)}"  # u40 … u49 are strangers
        rows.append({
            "request_id": f"r{number:03d}", "user_id": user, "query": queries[number % len(queries)],
            "time": 1_010_000 + number if number % 5 == 0 else None,
            "n": (3, 7, None, 1000)[number % 4],
            "exclude": [f"i{item}" for item in range(number % 6)] if number % 3 == 0 else None,
            "allow": [f"i{item}" for item in range(40, 60)] if number % 7 == 0 else None,
        })  # fmt: skip
    return pa.Table.from_pylist(rows, SCHEMA)


SCHEMA = pa.schema(
    [("request_id", pa.string()), ("user_id", pa.string()), ("query", pa.string()), ("time", pa.int64()),
     ("n", pa.int64()), ("exclude", pa.list_(pa.string())), ("allow", pa.list_(pa.string()))]
)  # fmt: skip


def written(table: pa.Table, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def bytes_of(out: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted((out / "playlists").iterdir())}


def lists_of(out: Path) -> dict[str, pd.DataFrame]:
    frame = pd.concat([pd.read_parquet(path) for path in sorted((out / "playlists").iterdir())])
    return dict(list(frame.groupby("request_id")))


def rejected(out: Path) -> pd.DataFrame:
    files = sorted((out / "rejected").glob("*.parquet"))
    return pd.concat([pd.read_parquet(path) for path in files]).sort_values(
        ["file", "row"], ignore_index=True
    )


# -- kill -9 -------------------------------------------------------------------------------------------------


def killed_at(point: int, job) -> bool:
    """Run `job` in a fork that gets SIGKILL before its `point`-th change of the disk; False if it ended before that."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # a deadlock ends it, and is told from the kill
        left = [point]

        def counting(change):
            def changed(*args, **kwargs):
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return change(*args, **kwargs)

            return changed

        for name in ("replace", "rename", "unlink", "mkdir", "fsync", "rmdir"):
            setattr(os, name, counting(getattr(os, name)))
        for owner, name in ((pq, "write_table"), (pq.ParquetWriter, "write_table")):
            setattr(owner, name, counting(getattr(owner, name)))
        try:
            job()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), f"the child ended with {code}"
    return code != 0

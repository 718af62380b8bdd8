"""`python -m serving.bench.growth.load RUN METHOD`: a finished run from cold to its first and second answer, in seconds and memory."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq


def main(run: Path, method: str) -> None:
    started = time.perf_counter()
    from serving.answering.recommender import Recommender  # what a service waits for includes the imports

    imported = time.perf_counter()
    recommender = Recommender.load(run)
    loaded = time.perf_counter()
    users = pq.ParquetFile(run / "prepare" / "users.parquet").read_row_group(0)["user_id"]
    data = recommender.methods.dataset
    opened = time.perf_counter()
    recommender.recommend(users[0].as_py(), n=10, method=method)
    first = time.perf_counter()
    recommender.recommend(users[len(users) // 2].as_py(), n=10, method=method)
    found = {
        "users": data.n_users,
        "items": data.n_items,
        "import_s": imported - started,
        "load_s": loaded - imported,
        "data_s": opened - loaded,
        "first_answer_s": first - opened,
        "second_answer_s": time.perf_counter() - first,
        "peak_bytes": _peak(),
    }
    print(json.dumps(found))


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

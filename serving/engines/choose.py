"""One of the engines, by name; and how many workers a machine has room for."""

from __future__ import annotations

import os

from serving.engines.base import Engine
from serving.engines.local import LocalEngine
from serving.engines.memory import available_bytes
from serving.engines.ray_cluster import RayEngine

ENGINES = ("local", "ray")
WORKER_BYTES = 3 << 29  # 1.5 GiB: a small backbone in float32, its libraries and a micro-batch


def engine(name: str, workers: int | None = None, gpus: float = 0.0) -> Engine:
    """The engine called `name`.

    `workers` defaults to what the machine or cluster has; `gpus` (of each worker): ray only.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"--workers {workers}: at least one worker is needed")
    if name == "local":
        if gpus:
            raise ValueError("--gpus is for --engine ray; local workers share the machine's first GPU")
        return LocalEngine(workers or room())
    if name == "ray":
        return RayEngine(workers, gpus)
    raise ValueError(f"there is no engine {name!r}; expected {' or '.join(ENGINES)}")


def room() -> int:
    """How many workers this machine has cores and, at `WORKER_BYTES` each, free memory for; at least one."""
    return max(1, min(len(os.sched_getaffinity(0)), available_bytes() // WORKER_BYTES))

"""The engine `ray`: Ray Data over the tasks, with an actor pool on a cluster's CPUs or GPUs.

Connects to the cluster that RAY_ADDRESS names, else starts one on this machine for as long as the job takes.
Files are written by the actors, so on several machines the paths must be on storage that all of them share.
An actor or a node that is lost costs a retry of its task, which writes the same bytes again (on machines of
one kind: processors with other vector units add in another order).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from serving.engines.base import TRIES, EngineError, Task, Work, died_often

STORE_BYTES = 256 << 20  # object store of a local cluster: tasks and results are a few bytes each


class RayEngine:
    """An actor pool of `workers` (default: as many as the cluster has room for), each with `gpus` GPUs."""

    name = "ray"

    def __init__(self, workers: int | None = None, gpus: float = 0.0):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if find_spec("ray") is None:
            raise ValueError("--engine ray needs Ray, which is an extra: pip install '.[ray]'")
        self.wanted, self.gpus = workers, gpus
        self.workers = workers or 0  # known once the cluster is

    def run(self, work: Work, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        if not tasks:
            return
        import ray

        with cluster(self.wanted):
            self.workers = min(self.room(), len(tasks))
            _quiet()
            items = [{"task": json.dumps(task)} for task in tasks]
            done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
                _Worker,
                fn_constructor_args=(work, _tries(self.workers)),
                batch_size=1,
                num_cpus=1,
                num_gpus=self.gpus or None,
                compute=ray.data.ActorPoolStrategy(size=self.workers),
            )
            try:
                for row in done.iter_rows():
                    yield tuple(json.loads(row["task"])), json.loads(row["result"])
            except ray.exceptions.RayError as error:
                raise EngineError(_reason(error)) from error

    def room(self) -> int:
        """How many workers: as wanted, or as many as the cluster has room for. Raises `ValueError` where it has not."""
        import ray

        has = ray.cluster_resources()
        room = int(has.get("CPU", 0))
        if self.gpus:
            room = min(room, int(has.get("GPU", 0) / self.gpus))
        if room < (self.wanted or 1):
            raise ValueError(
                f"{self.wanted or 1} workers want a CPU{f' and {self.gpus:g} GPUs' if self.gpus else ''} "
                "each, but the cluster "
                f"has {has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs; ask for at most {room}"
            )
        return self.wanted or room


class _Worker:
    """An actor: started once, then one task a call.

    Ray starts a dead one anew and repeats its calls, without end.
    """

    def __init__(self, work: Work, tries: Any):
        import ray

        if not ray.get(tries.start.remote()):
            raise EngineError(
                f"workers died while they started, {TRIES} times each, and no task was begun (out of "
                "memory?); "
                "with fewer workers they may fit"
            )
        self.do, self.tries = work.start(), tries

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        import ray

        (text,) = batch["task"].tolist()
        task = tuple(json.loads(text))
        if ray.get(self.tries.begin.remote(text)) > TRIES:
            raise EngineError(died_often([task]))
        try:
            result = self.do(task)
        except Exception as error:
            raise EngineError(f"task {task}: {type(error).__name__}: {error}") from error
        ray.get(self.tries.end.remote(text))
        return {"task": [text], "result": [json.dumps(result)]}


class _Tries:
    """How often each task was begun and not ended: beyond `TRIES` it is the task that kills its workers.

    And how often a worker has started since a task was last begun: beyond `TRIES` times `workers` none will
    get there.
    """

    def __init__(self, workers: int) -> None:
        self.open: Counter[str] = Counter()
        self.starts, self.most = 0, TRIES * workers

    def start(self) -> bool:
        self.starts += 1
        return self.starts <= self.most

    def begin(self, task: str) -> int:
        self.open[task] += 1
        self.starts = 0
        return self.open[task]

    def end(self, task: str) -> None:
        del self.open[task]


def _tries(workers: int) -> Any:
    """The one `_Tries`, on the node of this process, which the job cannot outlive."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(_Tries).options(num_cpus=0, scheduling_strategy=here).remote(workers)


@contextlib.contextmanager
def cluster(workers: int | None) -> Iterator[None]:
    """The cluster that this process is connected to, that of RAY_ADDRESS,
    or one of its own until the job ends.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(address="auto", **options)
    else:
        cpus = max(workers or 0, len(os.sched_getaffinity(0)))
        ray.init(
            address="local",
            num_cpus=cpus,
            object_store_memory=STORE_BYTES,
            include_dashboard=False,
            **options,
        )
    try:
        yield
    finally:
        ray.shutdown()


def _quiet() -> None:
    """The job has a progress bar and messages of its own."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray", "ray.data", "ray.data._internal.execution.streaming_executor"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _reason(error: BaseException) -> str:
    """The message of what a task raised, without Ray's frames around it; else the first line of Ray's own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, EngineError):
            return str(cause).splitlines()[0]
        cause = cause.__cause__ or getattr(cause, "cause", None)
    lines = [line for line in str(error).splitlines() if "EngineError: " in line]
    return lines[-1].split("EngineError: ")[-1] if lines else str(error).splitlines()[0]

"""`--engine ray`: replicas of the service under Ray Serve, on a cluster of this machine or a given one (RAY_ADDRESS).

Each replica is the whole app with the run loaded; Ray's proxy has the port and deals calls to replicas, and replaces one that
dies. All share one state, so what one has acknowledged every other has. On several machines the run's path must be on storage
that all see, and the state PostgreSQL.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import tempfile
import threading
from importlib.util import find_spec
from typing import Any

from fastapi import FastAPI

from serving.engines.base import EngineError
from serving.engines.ray_cluster import RayEngine, cluster

NAME = "prelude"
# Ray's workers yield to every other process of the machine (15), and so would replicas, for which somebody waits
NICENESS = "RAY_worker_niceness", "0"
LOG = logging.getLogger("prelude.service")


class Replica:
    """What Ray keeps alive: the app of `given` (fields of `serving.service.app.Given`)."""

    def __init__(self, given: dict[str, Any]):
        self.given = given
        self.made: FastAPI | None = None  # `app` is a property of what Ray makes of this class

    def __serve_build_asgi_app__(self) -> FastAPI:
        from serving.service.app import Given, create_app

        self.made = create_app(Given(**self.given))
        return self.made

    def check_health(self) -> None:
        """Asked by Ray every few seconds; a replica that raises is replaced."""
        if self.made is not None and not self.made.state.service.batches.is_alive:
            raise RuntimeError("the thread that has the model is gone")


def _runs(status: Any, error: Exception) -> bool:
    """Does a replica run? Raises `EngineError` with what one has said where Ray has given up, and starts none.

    Ray calls a start failed, too, where a replica that ran dies before the others run, and goes on to replace it.
    """
    found = [part for one in status.applications.values() for part in one.deployments.values()]
    states = {state.value for part in found for state, count in part.replica_states.items() if count}
    if states <= {"STOPPING", "STOPPED"}:
        raise EngineError(f"no replica starts: {_reason(status, error)}") from error
    return "RUNNING" in states


def _reason(status: Any, error: Exception) -> str:
    """The last line that a replica which did not start has said; else Ray's own."""
    found = [part for one in status.applications.values() for part in one.deployments.values()]
    said = [line for part in found for line in part.message.splitlines() if not line.endswith("last):")]
    lines = [match[1] for line in said if (match := re.match(r"(?:\w+\.)*(\w+: .*)", line))]
    return lines[-1] if lines else str(error).splitlines()[0]


def serve_by_ray(given: dict[str, Any], replicas: int, host: str, port: int, most_waiting: int) -> None:
    """Serve until SIGTERM or SIGINT. `most_waiting`: calls that one replica holds; the others wait in the proxy.

    Raises `ValueError` where Ray or its Serve is not installed, where the cluster has no room, and for a file as the state of
    several machines; `EngineError` with what a replica said that cannot start.
    """
    engine = RayEngine(replicas)  # sets Ray's environment
    os.environ.setdefault(*NICENESS)  # of a cluster that is started here, its proxy included
    if any(find_spec(name) is None for name in ("grpc", "aiohttp", "uvicorn")):
        raise ValueError("--engine ray needs Ray Serve, which is an extra: pip install '.[ray,serve]'")
    with cluster(replicas), tempfile.TemporaryDirectory(prefix="prelude-metrics-") as folder:
        import ray
        from ray import serve

        engine.room()
        machines = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
        if len(machines) > 1 and str(given["state"]).startswith("sqlite"):
            raise ValueError(
                f"the cluster has {len(machines)} machines, which share no file: --state postgresql://…"
            )
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        serve.start(
            proxy_location="HeadOnly", http_options={"host": host, "port": port, "keep_alive_timeout_s": 30}
        )
        # figures of all replicas of a machine are one page; what they know of themselves is in files of this folder
        environment = {"env_vars": {"PROMETHEUS_MULTIPROC_DIR": folder} | dict([NICENESS])}
        deployment: Any = serve.deployment(
            serve.ingress()(Replica),
            name=NAME,
            num_replicas=replicas,
            ray_actor_options={"num_cpus": 1, "runtime_env": environment},
            max_ongoing_requests=most_waiting,
            graceful_shutdown_timeout_s=30,
            health_check_period_s=2,
            health_check_timeout_s=30,
        )
        ended = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
        try:
            try:
                serve.run(deployment.bind(given), name=NAME, route_prefix="/")
            except RuntimeError as error:
                while not ended.wait(0.5) and not _runs(serve.status(), error):
                    pass
            LOG.info("%d replicas answer; pid %d", replicas, os.getpid())
            while not ended.wait(1.0):
                pass
        finally:
            serve.shutdown()

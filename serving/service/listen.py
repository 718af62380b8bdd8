"""`prelude serve`: what is given is checked, and uvicorn listens."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path
from socket import socket
from typing import Any

import uvicorn
from fastapi import FastAPI

from recsys.run import Run
from serving.service.access import is_loopback
from serving.service.settings import load_settings
from serving.state.keys import all_keys
from serving.state.place import url_of
from serving.state.store import State, sqlite_url


def serve(
    run: Path,
    host: str,
    port: int,
    state: str | None,
    config: Path | None,
    workers: int = 1,
    replicas: int | None = None,
) -> None:
    """Listen until stopped: with `workers` processes, or with `replicas` of Ray Serve.

    Raises `RunError` for what is no run, `ValueError` for an address that is not loopback while there is no
    key, and for settings that mean nothing.
    """
    Run.open(run)
    settings = load_settings(config)
    url = state or url_of(run)
    opened = State(url)
    keys = all_keys(opened)
    opened.close()
    loopback = is_loopback(host)
    if not loopback and not keys:
        raise ValueError(
            f"--host {host} can be reached from other machines, and no key was made; "
            f"make one first: prelude keys {run} make --name NAME --scope recommend"
        )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options: dict[str, Any] = {
        "access_log": False,
        "server_header": False,
        "log_level": "warning",
    }
    options |= {
        "timeout_graceful_shutdown": 30,
        "timeout_keep_alive": 30,
        "h11_max_incomplete_event_size": 64 << 10,
    }
    logging.getLogger("prelude.service").info("http://%s:%d serves %s", host, port, run)
    given: dict[str, Any] = {
        "run": str(run),
        "state": url,
        "config": str(config) if config else None,
        "loopback": loopback,
        "processes": workers,
    }
    if replicas is not None:
        from serving.service.ray_serve import serve_by_ray

        given |= {name: str(Path(given[name]).resolve()) for name in ("run", "config") if given[name]}
        if url.startswith("sqlite:///"):  # replicas start elsewhere
            given["state"] = sqlite_url(Path(url.removeprefix("sqlite:///")).resolve())
        serve_by_ray(given, replicas, host, port, settings.most_waiting)
        return
    if workers == 1:
        uvicorn.run(_app(given), host=host, port=port, **options)
        return
    with tempfile.TemporaryDirectory(prefix="prelude-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # before anything counts
        import serving.service.app  # noqa: F401  # once, for all workers
        from serving.service.workers import bound, serve_by

        def work(listening: socket, serves: Callable[[], None]) -> None:
            app = _app(given)
            wait([app.state.service.warm])  # until then those who call are the other workers'
            serves()
            uvicorn.Server(uvicorn.Config(app, **options)).run([listening])

        with bound(host, port) as listening:
            serve_by(workers, listening, work)


def _app(given: dict[str, Any]) -> FastAPI:
    from serving.service.app import Given, create_app

    return create_app(Given(**given))

"""`prelude serve`: what is given is checked, and uvicorn listens."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

import uvicorn

from recsys.run import Run
from serving.service.access import is_loopback
from serving.service.app import Given, create_app, to_environment
from serving.service.settings import load_settings
from serving.state.keys import all_keys
from serving.state.place import url_of
from serving.state.store import State


def serve(run: Path, host: str, port: int, state: str | None, config: Path | None, workers: int) -> None:
    """Listen until stopped.

    Raises `RunError` for what is no run, `ValueError` for an address that is not loopback while there is no
    key, and for settings that mean nothing.
    """
    Run.open(run)
    load_settings(config)
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
    given = Given(str(run), url, str(config) if config else None, loopback)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options = {
        "host": host,
        "port": port,
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
    if workers == 1:
        uvicorn.run(create_app(given), **options)  # type: ignore[arg-type]
        return
    to_environment(given)
    with tempfile.TemporaryDirectory(prefix="prelude-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        uvicorn.run("serving.service.app:from_environment", factory=True, workers=workers, **options)  # type: ignore[arg-type]

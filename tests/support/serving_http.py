"""A service in this process, called through its typed client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
import yaml
from fastapi.testclient import TestClient

from serving.service.app import Given, create_app
from serving.service.client import Client
from serving.service.served import Served
from serving.service.service import Service
from serving.state.store import sqlite_url
from tests.support.service_process import free_port


@contextmanager
def served(
    run: Path, folder: Path, key: str | None = None, state: str | None = None, **settings: Any
) -> Iterator[Client]:
    """A client of a service on `run`, with its state in `folder`. `client.http.app.state.service` is the service."""
    config = folder / "service.yaml"
    config.write_text(yaml.safe_dump(settings))
    app = create_app(Given(str(run), state or sqlite_url(folder / "state.sqlite"), str(config)))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as http:
        app.state.service.warm.result(60)  # what a test counts is its own
        yield Client("", key, http=http)


def service_of(client: Client) -> Service:
    """The service that a client of `served` calls."""
    return client.http.app.state.service  # type: ignore[attr-defined]


def in_turn(client: Client, work: Callable[[Served], Any]) -> Any:
    """What `work` makes of the run that is served, in the thread that has the model: nobody else may touch it."""
    return service_of(client).batches.do(work).result(60)


@contextmanager
def listening(run: Path, folder: Path, **settings: Any) -> Iterator[str]:
    """The address of a service on `run` that really listens, in a thread of this process."""
    config = folder / "service.yaml"
    config.write_text(yaml.safe_dump(settings))
    app = create_app(Given(str(run), sqlite_url(folder / "state.sqlite"), str(config)))
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    until = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < until
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()

"""A service in this process, called through its typed client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from fastapi.testclient import TestClient

from serving.service.app import Given, create_app
from serving.service.client import Client
from serving.service.service import Service
from serving.state.store import sqlite_url


@contextmanager
def served(
    run: Path, folder: Path, key: str | None = None, state: str | None = None, **settings: Any
) -> Iterator[Client]:
    """A client of a service on `run`, with its state in `folder`. `client.http.app.state.service` is the service."""
    config = folder / "service.yaml"
    config.write_text(yaml.safe_dump(settings))
    app = create_app(Given(str(run), state or sqlite_url(folder / "state.sqlite"), str(config)))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as http:
        yield Client("", key, http=http)


def service_of(client: Client) -> Service:
    """The service that a client of `served` calls."""
    return client.http.app.state.service  # type: ignore[attr-defined]

"""Both databases: SQLite in a file, PostgreSQL of the tests' own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest

from serving.state.store import State, sqlite_url
from tests.support.postgres import Postgres, running_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "state.sqlite")
    server: Postgres = request.getfixturevalue("postgres")
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{server.url.rpartition('/')[0]}/{name}"


@pytest.fixture
def state(url) -> Iterator[State]:
    opened = State(url)
    yield opened
    opened.close()

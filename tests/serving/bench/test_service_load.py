"""The load of a service as it is measured: callers, a rate, and the whole of it at a small size."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time

import pytest
from typer.testing import CliRunner

from serving.bench.service.load import at_rate, waiting


@pytest.fixture
def echo():
    """A server that takes 5 ms for a call and refuses every fifth."""
    server = socket.create_server(("127.0.0.1", 0))
    count = iter(range(1 << 30))

    def talk(connection: socket.socket) -> None:
        with connection:
            while head := connection.recv(65536):
                assert head.startswith(b"POST /x HTTP/1.1\r\n")
                time.sleep(0.005)
                status = "503 no" if next(count) % 5 == 4 else "200 OK"
                connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nhi".encode())

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield server.getsockname()[1]
    server.close()


def test_callers_that_wait_and_callers_of_a_rate(echo):
    load = asyncio.run(waiting(echo, "/x", [b"{}"], callers=4, seconds=0.5))
    assert len(load.latencies) > 20
    assert load.failed >= 5
    assert load.quantile(0.5) >= 0.005
    assert load.rate == pytest.approx(len(load.latencies) / load.seconds)
    load = asyncio.run(at_rate(echo, "/x", [b"{}"], rate=100, seconds=0.5))
    assert 20 <= len(load.latencies) + load.failed <= 90


@pytest.mark.slow
def test_the_whole_of_it(world_run, tmp_path):
    import typer

    from serving.bench.service.__main__ import main

    app = typer.Typer()
    app.command()(main)
    out = tmp_path / "figures.json"
    done = CliRunner().invoke(
        app,
        [
            str(world_run[1].path),
            "--seconds",
            "2",
            "--repeats",
            "1",
            "--different",
            "1500",
            "--out",
            str(out),
        ],
    )
    assert done.exit_code == 0, done.output
    figures = json.loads(out.read_text())
    assert figures["ratio_to_plain"] > 0
    assert figures["events"]["failed"] == 0
    assert figures["memory"]["mib_after"] > 0

"""The load of a service as it is measured: callers, a rate, and the whole of it at a small size."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time

import pytest
from typer.testing import CliRunner

from serving.bench.service.case import allow_list, of_figures
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


def test_the_lines_of_the_bench_are_ratios_in_turn():
    figures = {
        "requests_a_second": [30.0, 20.0, 24.0], "plain_handler": [5.0, 5.0, 4.0], "playlists_a_second": [40.0, 25.0, 24.0],
        "half_rate": {"rate": 12.0, "p50_ms": 20.0, "p99_ms": 90.0, "p99_over_p50": 4.5, "failed": 0},
        "events": {"events_a_second": 1990.0, "failed": 0, "p99_ms": 9.0, "requests_a_second": 20.0, "request_p99_ms": 50.0},
        "memory": {"requests": 5000, "mib_before": 700.0, "mib_after": 760.0},
    }  # fmt: skip
    plain, batch, tail, events, memory = of_figures(figures)
    assert (plain.ratio, plain.spread, plain.met) == (6.0, (4.0, 6.0), True)
    assert (batch.ratio, batch.met) == (0.8, True)
    assert (tail.ratio, tail.met) == (4.5, False)
    assert events.met
    assert (memory.ratio, memory.met) == (0.6, True)


@pytest.mark.slow
def test_half_of_a_catalogue_allowed_costs_little(tmp_path):
    ten, twenty = allow_list(True, 200_000, 1)
    assert ten.notes["p50_with"] < 2 * ten.notes["p50_without"]
    assert ten.ours == twenty.ours
    assert twenty.notes["p50_without"] > ten.notes["p50_without"], "which reads more nodes"
    assert ten.notes["first_s"] > 0


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

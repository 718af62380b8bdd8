"""`python -m serving.bench.service RUN`: requests a second against a plain handler and `playlists`, tail latency, events, memory."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from serving.bench.service.load import Load, at_rate, waiting

CALLERS = 32


def main(
    run: Annotated[Path, typer.Argument(metavar="RUN")],
    seconds: Annotated[float, typer.Option(help="Of each measurement.")] = 20.0,
    repeats: Annotated[int, typer.Option(help="Of each side, in turn.")] = 3,
    different: Annotated[int, typer.Option(help="Different requests whose memory is measured; 0: none.")] = 0,
    out: Annotated[Path | None, typer.Option(help="A JSON file of the figures.")] = None,
) -> None:
    """Measure a service on a run, client and server on this machine."""
    asked = requests_of(run, 2000)
    bodies = [json.dumps(one).encode() for one in asked]
    with tempfile.TemporaryDirectory() as folder:
        ours_rates, plain_rates = [], []
        ours = [
            "-m",
            "serving.cli",
            "serve",
            str(run),
            "--state",
            f"sqlite:///{folder}/state.sqlite",
            "--port",
        ]
        plain = ["-m", "serving.bench.service.plain", str(run)]
        with server(ours) as (port, process), server(plain) as (other, _):
            for _ in range(repeats):
                plain_rates.append(
                    asyncio.run(waiting(other, "/v1/recommend", bodies, CALLERS, seconds)).rate
                )
                ours_rates.append(asyncio.run(waiting(port, "/v1/recommend", bodies, CALLERS, seconds)).rate)
            best = statistics.median(ours_rates)
            half = asyncio.run(at_rate(port, "/v1/recommend", bodies, best / 2, 2 * seconds))
            beside = asyncio.run(events_beside(port, bodies, seconds))
            memory = memory_of(port, process, run, different) if different else {}
    batch = of_playlists(run, asked[: max(int(best * seconds / 2), 64)])
    figures: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "callers": CALLERS,
        "requests_a_second": ours_rates,
        "plain_handler": plain_rates,
        "ratio_to_plain": statistics.median(o / p for o, p in zip(ours_rates, plain_rates, strict=True)),
        "playlists_a_second": batch,
        "ratio_to_playlists": best / batch,
        "half_rate": {"rate": half.rate, "p50_ms": 1e3 * half.quantile(0.5), "p99_ms": 1e3 * half.quantile(0.99),
                      "p99_over_p50": half.quantile(0.99) / half.quantile(0.5), "failed": half.failed},
        "events": beside,
    } | memory  # fmt: skip
    text = json.dumps(figures, indent=1)
    typer.echo(text)
    if out is not None:
        out.write_text(text)


def requests_of(run: Path, count: int) -> list[dict[str, Any]]:
    """Requests of a run's users in turn: ten items each, the best."""
    from recsys.data.dataset import Dataset
    from recsys.run import Run

    users = [str(user) for user in Dataset.load(Run.open(run)).user_ids if user]
    return [{"user_id": users[n % len(users)], "n": 10} for n in range(count)]


@contextmanager
def server(words: list[str]) -> Iterator[tuple[int, subprocess.Popen]]:
    """A server of `python WORDS PORT` that answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, *words, str(port)])
    try:
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health/ready").is_success:
                    break
            except httpx.TransportError:
                if process.poll() is not None:
                    raise RuntimeError("a server did not start") from None
            time.sleep(0.2)
        yield port, process
    finally:
        process.terminate()
        process.wait()


async def events_beside(
    port: int, bodies: list[bytes], seconds: float, rate: float = 2000.0, some: int = 50
) -> dict[str, Any]:
    """`rate` events a second, `some` in a call, beside 20 requests a second."""
    stamp = time.time_ns()
    events = [
        json.dumps(
            {"events": [{"event_id": f"{stamp}-{call}-{n}", "user_id": f"bench {n}", "item_id": "1", "type": "impression"}
                        for n in range(some)]}
        ).encode()
        for call in range(int(2 * rate / some * seconds) + 10)
    ]  # fmt: skip
    taken, lists = await asyncio.gather(
        at_rate(port, "/v1/events", events, rate / some, seconds, seed=1),
        at_rate(port, "/v1/recommend", bodies, 20.0, seconds),
    )
    return {"events_a_second": some * taken.rate, "failed": taken.failed, "p99_ms": 1e3 * taken.quantile(0.99),
            "requests_a_second": lists.rate, "request_p99_ms": 1e3 * lists.quantile(0.99)}  # fmt: skip


def memory_of(port: int, process: subprocess.Popen, run: Path, different: int) -> dict[str, Any]:
    """By how much `different` different requests raise the memory after the first thousand."""
    users = requests_of(run, different)
    bodies = [
        json.dumps(one | {"query": f"question {n}", "n": 1 + n % 20}).encode() for n, one in enumerate(users)
    ]

    def resident() -> float:
        text = Path(f"/proc/{process.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024

    asyncio.run(_each(port, bodies[:1000]))
    before = resident()
    asyncio.run(_each(port, bodies[1000:]))
    return {"memory": {"requests": different, "mib_before": before, "mib_after": resident()}}


async def _each(port: int, bodies: list[bytes]) -> Load:
    from serving.bench.service.load import Caller

    line, load = iter(bodies), Load()

    async def ask() -> None:
        caller = Caller(port)
        for body in line:
            await caller.post("/v1/recommend", body)

    await asyncio.gather(*(ask() for _ in range(CALLERS)))
    return load


def of_playlists(run: Path, asked: list[dict[str, Any]]) -> float:
    """Requests a second of what `prelude playlists` calls for each micro-batch, in this process."""
    from serving.answering.recommender import Recommender
    from serving.answering.requests import asked_of
    from serving.playlists.answers import answerer
    from serving.playlists.plan import Settings

    service = Recommender.load(run)
    reply: Callable = answerer(service, Settings(n=10, temperature=0.0, batch=CALLERS))
    requests = [
        asked_of(service.methods.dataset, service.live.histories, one["user_id"], request_id=str(n)).request
        for n, one in enumerate(asked)
    ]
    reply(requests[:CALLERS], 10)
    started = time.perf_counter()
    for start in range(0, len(requests), CALLERS):
        reply(requests[start : start + CALLERS], 10)
    return len(requests) / (time.perf_counter() - started)


if __name__ == "__main__":
    typer.run(main)

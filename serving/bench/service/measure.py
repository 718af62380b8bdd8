"""What is measured of a service on a run: requests a second beside a plain handler and `playlists`, tails, events, memory."""

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
from typing import Any

import httpx

from serving.bench.service.load import Caller, at_rate, waiting

CALLERS = 32
ASK = "/v1/recommend"


def measured(
    run: Path, seconds: float, repeats: int, different: int = 0, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Figures of a service on a run, client and server on this machine. `seconds` of each measurement, `repeats` of each side, in
    turn; `different` requests whose memory is measured (0: none). `say` hears what is being measured.
    """
    asked = requests_of(run, 2000)
    bodies = [json.dumps(one).encode() for one in asked]
    with tempfile.TemporaryDirectory() as folder:
        state = f"sqlite:///{folder}/state.sqlite"
        ours = ["-m", "serving.cli", "serve", str(run), "--state", state, "--port"]
        plain = ["-m", "serving.bench.service.plain", str(run)]
        ours_rates, plain_rates, batch_rates = [], [], []
        reply = playlists_of(run, asked)
        with server(ours) as (port, process), server(plain) as (other, _):
            for at in (port, other):  # each loads what it asks with when it is first asked
                asyncio.run(waiting(at, ASK, bodies, CALLERS, 1.0))
            for repeat in range(repeats):
                say(f"requests a second, {repeat + 1} of {repeats}: a plain handler, the service, playlists")
                plain_rates.append(asyncio.run(waiting(other, ASK, bodies, CALLERS, seconds)).rate)
                ours_rates.append(asyncio.run(waiting(port, ASK, bodies, CALLERS, seconds)).rate)
                batch_rates.append(reply(seconds))
            best = statistics.median(ours_rates)
            say(f"tail at half of {best:.1f} requests a second")
            half = asyncio.run(at_rate(port, ASK, bodies, best / 2, 2 * seconds))
            say("2,000 events a second beside 20 requests")
            beside = asyncio.run(events_beside(port, bodies, seconds))
            if different:
                say(f"memory over {different:,} different requests")
            memory = memory_of(port, process, run, different) if different else {}
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "callers": CALLERS,
        "requests_a_second": ours_rates,
        "plain_handler": plain_rates,
        "playlists_a_second": batch_rates,
        "ratio_to_plain": statistics.median(o / p for o, p in zip(ours_rates, plain_rates, strict=True)),
        "ratio_to_playlists": statistics.median(o / p for o, p in zip(ours_rates, batch_rates, strict=True)),
        "half_rate": {"rate": half.rate, "p50_ms": 1e3 * half.quantile(0.5), "p99_ms": 1e3 * half.quantile(0.99),
                      "p99_over_p50": half.quantile(0.99) / half.quantile(0.5), "failed": half.failed},
        "events": beside,
    } | memory  # fmt: skip


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
        at_rate(port, ASK, bodies, 20.0, seconds),
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


async def _each(port: int, bodies: list[bytes]) -> None:
    line = iter(bodies)

    async def ask() -> None:
        caller = Caller(port)
        for body in line:
            await caller.post(ASK, body)

    await asyncio.gather(*(ask() for _ in range(CALLERS)))


def playlists_of(run: Path, asked: list[dict[str, Any]]) -> Callable[[float], float]:
    """Requests a second, over some seconds, of what `prelude playlists` calls for each micro-batch, in this process."""
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

    def rate(seconds: float) -> float:
        started, done = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            start = done % (len(requests) - CALLERS)
            reply(requests[start : start + CALLERS], 10)
            done += CALLERS
        return done / (time.perf_counter() - started)

    return rate

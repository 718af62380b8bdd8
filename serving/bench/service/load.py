"""Callers over plain sockets, so that they cost little beside what they call: as many as wait at once, or at a rate of their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Load:
    """What callers saw: seconds of each call that was answered well, how many were not, and the time of it all."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return len(self.latencies) / self.seconds

    def quantile(self, q: float) -> float:
        """Seconds within which a share q of the calls was answered."""
        return float(np.quantile(self.latencies, q))


class Caller:
    """One keep-alive connection."""

    def __init__(self, port: int):
        self.port = port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> int:
        """The status of one call."""
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22)
        reader, writer = self.streams
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.lower().startswith(b"content-length:"))
        await reader.readexactly(length)
        return int(lines[0].split()[1])


async def waiting(port: int, path: str, bodies: Sequence[bytes], callers: int, seconds: float) -> Load:
    """`callers` that each ask again as soon as they are answered; bodies in turn."""
    load, started, place = Load(), time.perf_counter(), iter(range(1 << 60))

    async def ask() -> None:
        caller = Caller(port)
        while time.perf_counter() - started < seconds:
            await _timed(caller, path, bodies[next(place) % len(bodies)], load)

    await asyncio.gather(*(ask() for _ in range(callers)))
    load.seconds = time.perf_counter() - started
    return load


async def at_rate(
    port: int, path: str, bodies: Sequence[bytes], rate: float, seconds: float, seed: int = 0
) -> Load:
    """Calls at random moments (Poisson), `rate` a second, whoever waits still: latencies have the queue in them."""
    load, started, free = Load(), time.perf_counter(), list[Caller]()
    gaps = np.random.default_rng(seed).exponential(1 / rate, max(int(2 * rate * seconds), 10)).cumsum()
    tasks = []

    async def ask(body: bytes) -> None:
        caller = free.pop() if free else Caller(port)
        await _timed(caller, path, body, load)
        free.append(caller)

    for number, moment in enumerate(gaps[gaps < seconds].tolist()):
        await asyncio.sleep(max(started + moment - time.perf_counter(), 0))
        tasks.append(asyncio.create_task(ask(bodies[number % len(bodies)])))
    await asyncio.gather(*tasks)
    load.seconds = time.perf_counter() - started
    return load


async def _timed(caller: Caller, path: str, body: bytes, load: Load) -> None:
    begun = time.perf_counter()
    status = await caller.post(path, body)
    if status == 200:
        load.latencies.append(time.perf_counter() - begun)
    else:
        load.failed += 1

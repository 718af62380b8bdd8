"""The service as an ASGI app: its parts put together, from what `prelude serve` was given."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.service import problems
from serving.service.access import Access, Door
from serving.service.page import views
from serving.service.routes import admin, items, lists, people, recommend
from serving.service.service import Service
from serving.service.settings import load_settings

LOG = logging.getLogger("prelude.service")
ALWAYS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


@dataclass(frozen=True)
class Given:
    """What `prelude serve` was given. `loopback`: nobody else can call; `processes` share this machine's processors."""

    run: str
    state: str
    config: str | None = None
    loopback: bool = True
    processes: int = 1


class Counted:
    """Counts and logs every call by its route: what a path says of people or items is not in it."""

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self.metrics = app, service.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 0

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *ALWAYS]
            await send(message)

        try:
            await self.app(scope, receive, told)
        finally:
            seconds, route = time.monotonic() - started, getattr(scope.get("route"), "path", "none")
            method = scope.get("state", {}).get("method", "")
            self.metrics.latency.labels(route, method).observe(seconds)
            self.metrics.answers.labels(route, status).inc()
            LOG.info("%s %s %d %.1f ms", scope["method"], route, status, 1000 * seconds)


def create_app(given: Given) -> FastAPI:
    """The app. Raises `RunError`, `StateError`, `ValueError` where the run, the state or the settings are not to be had."""
    settings = load_settings(Path(given.config) if given.config else None)
    if settings.threads is None and "OMP_NUM_THREADS" not in os.environ:
        # one more than there are processors for, and every thread of a product waits for who has none
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        settings = settings.model_copy(update={"threads": max(1, cores // given.processes - 1)})
    service = Service(Path(given.run), given.state, settings)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="Prelude", version="1", lifespan=life, docs_url=None, redoc_url=None, separate_input_output_schemas=False,
        description="Recommendations with their exact probabilities, events that change them, and reasons.",
    )  # fmt: skip
    app.state.service = service
    app.state.access = Access(service.state, given.loopback, settings.rate_per_s, settings.burst)
    problems.install(app)
    for part in (recommend, people, lists, items, admin, views):
        app.include_router(part.router)

    app.add_middleware(Counted, service=service)
    app.add_middleware(
        Door,
        body_bytes=int(settings.body_mb * (1 << 20)),
        list_bytes=int(settings.list_mb * (1 << 20)),
        any_host=not given.loopback,
    )
    return app

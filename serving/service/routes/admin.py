"""`/health`, `/metrics`, `/v1/admin/reload`: for those who run it."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from serving.service.forms import ReloadForm
from serving.service.problems import Problem
from serving.service.routes.common import TheService, problems, scope

router = APIRouter(tags=["operation"])


@router.get("/health/live")
async def live() -> dict[str, str]:
    """The process answers."""
    return {"status": "live"}


@router.get("/health/ready", responses=problems())
async def ready(service: TheService) -> dict[str, str]:
    """The run is loaded and has answered somebody, and the state can be read."""
    if not service.warm.done():
        raise Problem(503, "the run is being loaded", retry_after_s=1)
    if service.batches.waiting >= service.settings.most_waiting:
        raise Problem(503, "too many requests wait", retry_after_s=1)
    await asyncio.to_thread(service.behind)
    run = service.served.methods.run
    version = {} if run.path == run.home else {"version": run.path.name}
    return {"status": "ready", "run": service.run.name} | version


@router.get("/metrics", dependencies=scope("admin"), response_class=Response,
            responses=problems() | {200: {"content": {"text/plain": {}}}})  # fmt: skip
async def metrics(service: TheService) -> Response:
    """Figures for Prometheus."""
    service.metrics.waiting.set(service.batches.waiting)
    service.metrics.behind.set(await asyncio.to_thread(service.behind))
    return Response(service.metrics.page(), media_type=CONTENT_TYPE_LATEST)


@router.post("/v1/admin/reload", dependencies=scope("admin"), responses=problems(409))
async def reload(form: ReloadForm, service: TheService) -> dict[str, str]:
    """Answer from a newer run once it is warm; until then, and if it cannot be, from the one before."""
    return {"run": await service.reload(form.run)}

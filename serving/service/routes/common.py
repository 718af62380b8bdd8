"""What endpoints share: the service of the app, and what each may answer with besides."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request, Security

from serving.service.access import KEY_HEADER, needs
from serving.service.forms import ProblemForm
from serving.service.problems import MEDIA
from serving.service.service import Service

_PROBLEM = {
    "model": ProblemForm,
    "content": {MEDIA: {"schema": {"$ref": "#/components/schemas/ProblemForm"}}},
}


def service_of(request: Request) -> Service:
    """The service of the app."""
    return request.app.state.service


TheService = Annotated[Service, Depends(service_of)]


def scope(name: str) -> list[Any]:
    """Dependencies of a router whose callers need `name`."""
    return [Security(KEY_HEADER), Depends(needs(name))]


def problems(*more: int) -> dict[int | str, dict[str, Any]]:
    """Answers that every endpoint may give, and `more`."""
    return dict.fromkeys((400, 401, 403, 413, 421, 422, 429, 500, 503, 507, *more), _PROBLEM)

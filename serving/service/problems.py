"""Errors as problem+json (RFC 9457): they name the field, and say nothing of files or code."""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from recsys.artifacts.paths import RunError
from serving.service.answers import Moved
from serving.service.batches import TooMany
from serving.service.forms import RecommendForm
from serving.state.events import EventConflict
from serving.state.store import StateError

LOG = logging.getLogger("prelude.service")
MEDIA = "application/problem+json"


class Problem(Exception):
    """An answer that is a problem."""

    def __init__(self, status: int, detail: str, field: str | None = None, retry_after_s: int | None = None):
        super().__init__(detail)
        self.status, self.detail, self.field, self.retry_after_s = status, detail, field, retry_after_s


def answer(
    status: int, detail: str, errors: list[dict[str, str]] | None = None, retry_after_s: int | None = None
) -> JSONResponse:
    """A problem as a response."""
    body: dict[str, Any] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    body |= {"detail": detail, "errors": errors or []}
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return JSONResponse(body, status, headers, MEDIA)


def of(error: Exception) -> Problem:
    """An error as the problem that it is to a caller. What nobody expected is a 500 without a word of it."""
    match error:
        case Problem():
            return error
        case TooMany():
            return Problem(429, str(error), retry_after_s=1)
        case StateError():
            return Problem(507 if error.full else 503, str(error), retry_after_s=5)
        case RunError():  # its message names files
            return Problem(503, "the run is being written, or is damaged", retry_after_s=5)
        case EventConflict():
            return Problem(409, str(error), "event_id")
        case Moved():
            return Problem(409, str(error), "next")
        case TimeoutError():
            return Problem(503, "the answer took too long", retry_after_s=1)
        case ValueError():
            return Problem(422, str(error), _field_of(str(error)))
    LOG.error("a request failed: %s", type(error).__name__, exc_info=error)
    return Problem(500, "the service has failed on this request")


def _field_of(message: str) -> str | None:
    """The field that a message begins with or is about."""
    first = re.match(r"[a-z_]+", message)
    name = first[0] if first else ""
    if name in RecommendForm.model_fields or name in ("events", "ids", "user_id", "item_id"):
        return message.partition(" ")[0].rstrip(":")
    return "method" if "no method" in message else None


def install(app: FastAPI) -> None:
    """Every error of the app becomes a problem."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        errors = [
            {"field": ".".join(map(str, one["loc"][1:])) or str(one["loc"][0]), "message": one["msg"]}
            for one in error.errors()
        ]
        first = errors[0]
        return answer(422, f"{first['field']}: {first['message']}", errors[:20])

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        found = answer(error.status_code, str(error.detail))
        found.headers.update(error.headers or {})
        return found

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return response_of(error)

    for known in (Problem, TooMany, StateError, RunError, ValueError, TimeoutError):
        app.add_exception_handler(known, failed)


def response_of(error: Exception) -> JSONResponse:
    """An error as a response."""
    problem = of(error)
    errors = [{"field": problem.field, "message": problem.detail}] if problem.field else []
    return answer(problem.status, problem.detail, errors, problem.retry_after_s)

"""`/v1/recommend`, `/v1/recommend:batch`, `/v1/events`: lists out, events in."""

from __future__ import annotations

from fastapi import APIRouter, Request

from serving.service import problems as errors
from serving.service.forms import (
    BatchAnswerForm,
    BatchForm,
    EventsForm,
    FailureForm,
    RecommendationForm,
    RecommendForm,
    TakenForm,
)
from serving.service.problems import Problem
from serving.service.routes.common import TheService, problems, scope

router = APIRouter()


@router.post("/v1/recommend", dependencies=scope("recommend"), responses=problems(404, 409), tags=["lists"])
async def recommend(form: RecommendForm, service: TheService, request: Request) -> RecommendationForm:
    """A list for somebody, or for nobody; its items, and with which probability each was drawn."""
    (answer,) = await service.recommend([form])
    if isinstance(answer, Exception):
        raise answer
    request.state.method = answer.method
    return answer


@router.post("/v1/recommend:batch", dependencies=scope("recommend"), responses=problems(), tags=["lists"])
async def recommend_batch(form: BatchForm, service: TheService) -> BatchAnswerForm:
    """Several lists: an answer or an error each, in the order of the requests."""
    most = service.settings.requests_at_once
    if len(form.requests) > most:
        raise Problem(422, f"at most {most} requests at once", "requests")
    answers = await service.recommend(list(form.requests))
    told = [
        FailureForm(error=errors.of(answer).detail) if isinstance(answer, Exception) else answer
        for answer in answers
    ]
    return BatchAnswerForm(answers=told)


@router.post("/v1/events", dependencies=scope("events"), responses=problems(409), tags=["events"])
async def take_events(form: EventsForm, service: TheService) -> TakenForm:
    """Take events in: all of them, or none; on the disk before this is answered."""
    most = service.settings.events_at_once
    if len(form.events) > most:
        raise Problem(422, f"at most {most} events at once", "events")
    return await service.take(form)

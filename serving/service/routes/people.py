"""`/v1/users/{id}`: what is known of somebody, all of it as one file, and its deletion."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from fastapi.responses import JSONResponse

from recsys.artifacts.paths import RunError
from serving import user_state
from serving.answering.known import checked_id
from serving.service.forms import PersonForm
from serving.service.problems import Problem
from serving.service.routes.common import TheService, problems, scope
from serving.service.served import Served

NEWEST = 50  # items of a history that are told
UserId = Annotated[str, Path(min_length=1, max_length=200)]
router = APIRouter(prefix="/v1/users", dependencies=scope("admin"), tags=["users"])


def canonical(user_id: str) -> str:
    """An id as the run writes it. Raises `Problem` for a blank one."""
    found = checked_id(user_id, "user_id")
    if found is None:
        raise Problem(422, "user_id is blank", "user_id")
    return found


@router.get("/{user_id}", responses=problems(404))
async def get_user(user_id: UserId, service: TheService) -> PersonForm:
    """What is known of somebody: the newest of their history, and how much was done and shown."""
    user_id = canonical(user_id)
    known, history = await service.wait(service.batches.do(lambda served: history_of(served, user_id)))
    held = await asyncio.to_thread(service.held, user_id)
    if not known and not any(held.values()):
        raise Problem(404, "nothing is known of this user", "user_id")
    counts = {name: len(held[name]) for name in ("events", "shown")}
    states = [{name: one[name] for name in ("method", "events_seen")} for one in held["states"]]
    return PersonForm(user_id=user_id, known=known, history=history, states=states, **counts)


@router.get("/{user_id}/export", responses=problems(404))
async def export_user(user_id: UserId, service: TheService) -> JSONResponse:
    """All that the run and the service hold of somebody."""
    user_id = canonical(user_id)
    held = await asyncio.to_thread(service.held, user_id)
    of_run = await asyncio.to_thread(_of_run, service.served, user_id)
    if of_run is None and not any(held.values()):
        raise Problem(404, "nothing is known of this user", "user_id")
    return JSONResponse({"user_id": user_id, "run": of_run, "service": held})


@router.delete("/{user_id}", status_code=204, responses=problems(404))
async def delete_user(user_id: UserId, service: TheService) -> Response:
    """Delete somebody from the state and from the run, for good; answered when nothing of theirs is left."""
    if not await service.forget(canonical(user_id)):
        raise Problem(404, "nothing is known of this user", "user_id")
    return Response(status_code=204)


def history_of(served: Served, user_id: str) -> tuple[bool, list[dict[str, Any]]]:
    """Is the user known, and the newest items of their history, newest first."""
    user = served.histories.user_index(user_id)
    if user is None:
        return False, []
    items, times = served.histories.events(user)
    catalogue = served.data.catalogue
    return True, [
        {"item_id": str(catalogue.item_ids[item]), "title": catalogue.titles[item], "time": moment}
        for item, moment in zip(items[::-1][:NEWEST].tolist(), times[::-1][:NEWEST].tolist(), strict=True)
    ]


def _of_run(served: Served, user_id: str) -> dict[str, Any] | None:
    with tempfile.TemporaryDirectory() as folder:
        out = FilePath(folder) / "person.json"
        try:
            user_state.export(served.methods.run, user_id, out)
        except RunError:
            raise
        except ValueError:  # unknown to the run
            return None
        return json.loads(out.read_text(encoding="utf-8"))["artifacts"]

"""`/v1/lists/{name}`: named allow- and deny-lists, swapped whole."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Response

from serving.answering.known import checked_id
from serving.service.forms import ListFactsForm, ListForm
from serving.service.problems import Problem
from serving.service.routes.common import TheService, problems, scope
from serving.state import lists

Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
router = APIRouter(prefix="/v1/lists", dependencies=scope("admin"), tags=["named lists"])


@router.put("/{name}", responses=problems())
async def put_list(name: Name, form: ListForm, service: TheService) -> ListFactsForm:
    """Put a list in the place of the one of that name: requests see the one or the other, never a part."""
    ids = await asyncio.to_thread(_checked, form)
    await service.wait(service.state.submit(partial(lists.put_list, name=name, ids=ids)))
    return await get_list(name, service)


@router.get("/{name}", responses=problems(404))
async def get_list(name: Name, service: TheService) -> ListFactsForm:
    """How many ids a list has, and how many of them the run does not know."""
    for found, count, made in await asyncio.to_thread(lists.all_lists, service.state):
        if found == name:
            known = await service.wait(service.batches.do(lambda served: served.named(name, "name")))
            return ListFactsForm(name=name, count=count, unknown=known.unknown, made_unix_s=made)
    raise Problem(404, "there is no list of that name", "name")


@router.get("", responses=problems())
async def all_lists(service: TheService) -> list[ListFactsForm]:
    """Every list, by name."""
    found = await asyncio.to_thread(lists.all_lists, service.state)
    return [ListFactsForm(name=name, count=count, made_unix_s=made) for name, count, made in found]


@router.delete("/{name}", status_code=204, responses=problems(404))
async def delete_list(name: Name, service: TheService) -> Response:
    """Delete a list; requests that name it are refused from then on."""
    if not await service.wait(service.state.submit(partial(lists.drop_list, name=name))):
        raise Problem(404, "there is no list of that name", "name")
    return Response(status_code=204)


def _checked(form: ListForm) -> list[str]:
    ids = [
        value if isinstance(value, str) else checked_id(value, f"ids.{at}")
        for at, value in enumerate(form.ids)
    ]
    return [one for one in ids if one is not None and one.strip()]

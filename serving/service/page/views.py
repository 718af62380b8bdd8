"""The page's addresses: `/` (a user), `/why` (an item), `/ids` (the tree), `/state` (the service), and signing in with a key."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from pydantic import ValidationError

from serving.service.access import COOKIE, needs
from serving.service.forms import RecommendForm
from serving.service.page import figures, tree
from serving.service.problems import Problem, of
from serving.service.routes.common import TheService
from serving.service.service import Service

STATIC = Path(__file__).parent / "static"
TYPES = {"page.js": "text/javascript", "page.css": "text/css"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
PAGES = Environment(
    loader=PackageLoader("serving.service.page", "templates"),
    autoescape=select_autoescape(default=True, default_for_string=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
PAGES.filters["moment"] = lambda time, is_clock: (
    f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M}" if is_clock else str(time)
)
router = APIRouter(include_in_schema=False)
signed_in = [Depends(needs("admin"))]


class Asked:
    """What the page's form asks, from its address. An empty field is one that was not filled in."""

    def __init__(
        self,
        user: Annotated[str, Query(max_length=200)] = "",
        query: Annotated[str, Query(max_length=2000)] = "",
        n: Annotated[int, Query(ge=1, le=50)] = 10,
        method: Annotated[str, Query(max_length=200)] = "",
        temperature: Annotated[float, Query(ge=0, le=3)] = 0.0,
        strength: Annotated[float, Query(ge=0, le=1)] = 1.0,
        exclude: Annotated[str, Query(max_length=10_000)] = "",
        allow: Annotated[str, Query(max_length=100)] = "",
    ):
        self.values: dict[str, Any] = {"user": user, "query": query, "n": n, "method": method, "temperature": temperature,
                       "strength": strength, "exclude": exclude, "allow": allow}  # fmt: skip

    @property
    def form(self) -> RecommendForm:
        """As the API has it; draws of the page are those of seed 0, so that a slider alone changes them."""
        given = self.values
        exclude = [one.strip() for one in given["exclude"].split(",") if one.strip()]
        try:
            return RecommendForm(
                user_id=given["user"] or None, query=given["query"] or None, n=given["n"], method=given["method"] or None,
                temperature=given["temperature"], strength=given["strength"], seed=0, exclude=exclude, allow=given["allow"] or None,
            )  # fmt: skip
        except ValidationError as error:
            raise Problem(422, error.errors()[0]["msg"]) from None


def shown(name: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page, with the policy of what it may load."""
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY"}
    return HTMLResponse(PAGES.get_template(name).render(values), status, headers)


@router.get("/", dependencies=signed_in)
async def user_page(service: TheService, asked: Annotated[Asked, Depends()]) -> Response:
    """A user: history, and the lists of all methods side by side."""
    return await _lists(service, asked, "user.html.j2")


@router.get("/lists", dependencies=signed_in)
async def lists(service: TheService, asked: Annotated[Asked, Depends()]) -> Response:
    """The part of that page which a slider changes."""
    return await _lists(service, asked, "lists.html.j2")


async def _lists(service: Service, asked: Asked, page: str) -> Response:
    side, wrong, status = None, "", 200
    try:
        side = await service.wait(service.batches.do(lambda served: figures.side_by_side(served, asked.form)))
    except Exception as error:
        problem = of(error)
        wrong, status = problem.detail, problem.status
    users = await service.wait(service.batches.do(some_users))
    return shown(
        page,
        status,
        asked=asked.values,
        side=side,
        wrong=wrong,
        users=users,
        run=service.run.name,
        here="user",
    )


def some_users(served: Any) -> list[str]:
    """A few ids to begin with."""
    return [str(user) for user in served.data.user_ids[:200] if user][:6]


@router.get("/why", dependencies=signed_in)
async def why_page(
    service: TheService, asked: Annotated[Asked, Depends()], item: Annotated[str, Query(max_length=200)]
) -> Response:
    """Why an item: the path of its codes in words."""
    found, wrong = None, "the run has no item of that id"
    try:
        found = await service.wait(service.batches.do(lambda served: figures.why(served, asked.form, item)))
    except Exception as error:
        wrong = of(error).detail
    status = 200 if found else 404
    return shown(
        "why.html.j2", status, asked=asked.values, why=found, wrong=wrong, run=service.run.name, here="user"
    )


@router.get("/ids", dependencies=signed_in)
async def ids_page(
    service: TheService,
    asked: Annotated[Asked, Depends()],
    depth: Annotated[int, Query(ge=0, le=100)] = 0,
    node: Annotated[int, Query(ge=0, le=2**40)] = 0,
) -> Response:
    """The tree of codes, to be walked."""
    found, wrong = None, "there is no such node"
    try:
        found = await service.wait(
            service.batches.do(lambda served: tree.tree(served, depth, node, asked.form))
        )
    except Exception as error:
        wrong = of(error).detail
    status = 200 if found else 404
    return shown(
        "ids.html.j2",
        status,
        asked=asked.values,
        tree=found,
        before=service.served.before,
        wrong=wrong,
        run=service.run.name,
        here="ids",
    )


@router.get("/state", dependencies=signed_in)
async def state_page(service: TheService) -> Response:
    """Requests, latency, the cold share, events, and what the arms of experiments have earned."""
    behind = await asyncio.to_thread(service.behind)
    names = service.settings.experiments
    arms = {
        name: await asyncio.to_thread(figures.arms, service.state, name, service.settings.taken)
        for name in names
    }
    return shown("state.html.j2", figures=service.metrics.summary(), behind=behind, waiting=service.batches.waiting,
                 experiments=arms, taken=service.settings.taken, run=service.run.name, here="state")  # fmt: skip


@router.get("/static/{name}")
async def static(name: str) -> Response:
    """The script and the style: ours, and nobody else's."""
    if name not in TYPES:
        raise Problem(404, "there is nothing of that name")
    return Response((STATIC / name).read_bytes(), media_type=TYPES[name])


@router.get("/favicon.ico")
async def no_icon() -> Response:
    """Browsers ask for one; there is none."""
    return Response(status_code=204)


@router.get("/sign-in")
async def sign_in_page(request: Request) -> Response:
    """A key, where one is needed."""
    return shown("sign_in.html.j2", wrong="", here="sign-in", run="")


@router.post("/sign-in")
async def sign_in(request: Request, key: Annotated[str, Form(max_length=200)]) -> Response:
    """Keep a key that may see the page in a cookie that no script can read and no other site sends."""
    try:
        request.app.state.access.check(key, "admin", request.client.host if request.client else "")
    except Problem as problem:
        return shown("sign_in.html.j2", problem.status, wrong=problem.detail, here="sign-in", run="")
    response = RedirectResponse("/", 303)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, key, httponly=True, samesite="strict", secure=secure, max_age=8 * 3600)
    return response

"""What nobody should send: by the schema (Schemathesis) and by hand. No 5xx, no traceback, no hang."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from tests.support.serving_http import served, service_of

QUICK, MANY = 300, 10_000


@pytest.fixture(scope="module")
def robust(world_run, tmp_path_factory):
    """A service that anything may be sent to."""
    import shutil

    folder = tmp_path_factory.mktemp("malformed")
    run = shutil.copytree(world_run[1].path, folder / "run")
    with served(run, folder) as client:
        yield client


# on loopback without a key every key is as good as none; and a schema cannot say which methods, columns and ids a run has
NOT_OF_A_SCHEMA = [ignored_auth, positive_data_acceptance]


def without_life(app):
    """The app for somebody who would start and end it: it goes on."""

    async def asked(scope, receive, send):
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
        else:
            await app(scope, receive, send)

    return asked


@pytest.mark.parametrize("examples", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_the_schema_is_kept(robust, examples):
    """Schemathesis: whatever the schema allows or forbids is answered as the schema says."""
    app = without_life(robust.http.app)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers={"Host": "localhost"})
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 14
    for operation in operations:
        if operation.path == "/v1/admin/reload":
            continue

        @settings(
            max_examples=examples,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            derandomize=True,
        )
        @given(case=operation.as_strategy())
        def check(case):
            case.call_and_validate(headers={"Host": "localhost"}, excluded_checks=NOT_OF_A_SCHEMA)

        check()


WRONG: list[Any] = [
    None, True, -1, 0, 1.5, 1e308, -(2**70), "", " ", "x" * 5000, "\x00", "\ud800", "💥", [], {}, [[]], {"a": {}}, ["x"] * 50,
    [None], [{}], "NaN", "../../etc/passwd", "'; drop table events; --", "<script>", {"$ref": "#"},
]  # fmt: skip
BODIES: dict[str, dict[str, Any]] = {
    "/v1/recommend": {"user_id": "u1", "query": "even", "n": 2, "method": "e2p", "temperature": 1.0, "seed": 1, "strength": 1.0,
                      "time": 1_020_000, "history": ["i1"], "exclude": ["i2"], "allow": ["i3"], "exclude_seen": True,
                      "sequence": False, "caps": {"kind": 2}, "order": "smooth", "next": None},
    "/v1/recommend:batch": {"requests": [{"user_id": "u1"}]},
    "/v1/events": {"events": [{"event_id": "a", "user_id": "u1", "item_id": "i1", "type": "click", "timestamp": 1_020_000,
                               "recommendation_id": "r"}]},
    "/v1/lists/stock": {"ids": ["i1"]},
}  # fmt: skip
PATHS = [
    "/v1/users/{}",
    "/v1/users/{}/export",
    "/v1/items/{}",
    "/v1/items?q={}",
    "/v1/lists/{}",
    "/v1/{}",
    "/{}",
    "/v1/recommend{}",
]


def mutated(chance: random.Random, value: Any) -> Any:
    """A form with something wrong in it, at any depth."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        key = chance.choice(list(value))
        changed = dict(value)
        if chance.random() < 0.15:
            changed[chance.choice(["x", "__proto__", ""])] = chance.choice(WRONG)
        elif chance.random() < 0.15:
            changed.pop(key)
        else:
            changed[key] = mutated(chance, value[key])
        return changed
    if isinstance(value, list) and value and chance.random() < 0.6:
        return [mutated(chance, value[0])]
    return chance.choice(WRONG)


def raw(chance: random.Random, body: bytes) -> bytes:
    """Bytes that are no JSON, or no UTF-8, or too deep."""
    match chance.randrange(6):
        case 0:
            return body[: chance.randrange(len(body))]
        case 1:
            at = chance.randrange(len(body))
            return body[:at] + bytes([chance.randrange(256)]) + body[at + 1 :]
        case 2:
            return b"[" * 20_000
        case 3:
            return b'{"n": NaN}'
        case 4:
            return b'{"n": 1, "n": ' + b"9" * 5000 + b"}"
    return b""


@pytest.mark.parametrize("count", [QUICK, pytest.param(MANY, marks=pytest.mark.slow)])
def test_nothing_malformed_breaks_the_service(robust, count):
    chance, slowest, seen = random.Random(7), 0.0, set()
    for _ in range(count):
        kind, headers = chance.random(), {"Content-Type": "application/json"}
        if kind < 0.75:
            path = chance.choice(list(BODIES))
            body = json.dumps(mutated(chance, BODIES[path])).encode()
            verb = "PUT" if "lists" in path else "POST"
            if kind < 0.2:
                body = raw(chance, json.dumps(BODIES[path]).encode())
            if chance.random() < 0.05:
                headers["Content-Type"] = chance.choice(
                    ["text/plain", "", "application/x-www-form-urlencoded", "multipart/form-data"]
                )
            if chance.random() < 0.03:
                headers["Content-Length"] = chance.choice(["-1", "x", "99999999999999999999"])
        else:
            text = chance.choice(
                ["%00", "%ff", "..%2f..", "a" * 3000, "%F0%9F%92%A5", "", " ", "%0d%0aX: y", "u1", "{}"]
            )
            path, body = chance.choice(PATHS).replace("{}", text), b""
            verb = chance.choice(["GET", "PUT", "POST", "HEAD", "OPTIONS", "PATCH", "TRACE"])
        started = time.monotonic()
        response = robust.http.request(verb, path, content=body, headers=headers)
        slowest = max(slowest, time.monotonic() - started)
        seen.add(response.status_code)
        assert response.status_code < 500, (verb, path, body[:2000], response.text)
        assert "Traceback" not in response.text
        assert ".py" not in response.text
        if response.status_code >= 400 and verb != "HEAD":
            assert response.headers["content-type"] == "application/problem+json", (verb, path, response.text)
    assert slowest < 20
    assert {200, 404, 422} <= seen
    assert robust.recommend(user_id="u1").items, "it still answers"
    assert service_of(robust).batches.waiting == 0

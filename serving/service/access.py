"""Who may call: keys with scopes, a rate each, hosts that are ours, and nothing from another site's page."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.security import APIKeyHeader
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.service.problems import Problem, answer
from serving.state.keys import Key, all_keys, whose
from serving.state.store import State

KEY_HEADER = APIKeyHeader(
    name="X-API-Key", auto_error=False, description="Not needed on loopback without keys."
)
COOKIE = "prelude_key"  # where a browser that has signed in keeps its key
REMEMBERED_S = 5.0  # what was looked up of keys holds for so long: one that was taken back works no longer
CALLERS = 10_000  # whose rates and keys are remembered
LONGEST = 200  # characters of a key: what is longer is none, and is not remembered


def is_loopback(host: str) -> bool:
    """Is an address or name that of this machine alone?"""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Access:
    """What a caller may do. On `loopback` no key is needed while there is none."""

    def __init__(self, state: State, loopback: bool, rate_per_s: float | None, burst: int):
        self.state, self.loopback, self.rate, self.burst = state, loopback, rate_per_s, burst
        self._open = 0.0, False  # until when it holds, and whether
        self._keys: dict[str, tuple[float, Key | None]] = {}
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, given: str | None, scope: str, address: str) -> None:
        """Raises `Problem`: 401 without a key that is known, 403 where it has not the scope, 429 where calls come too often."""
        caller = address
        if not self.is_open():
            key = self._whose(given) if given else None
            if key is None:
                raise Problem(401, "a key is needed in the header X-API-Key")
            if scope not in key.scopes and "admin" not in key.scopes:
                raise Problem(403, f"this key may not do that; it needs the scope {scope}")
            caller = key.id
        self._take(caller)

    def is_open(self) -> bool:
        """Is no key needed now?"""
        if self.loopback and self._open[0] < time.monotonic():
            self._open = time.monotonic() + REMEMBERED_S, not all_keys(self.state)
        return self.loopback and self._open[1]

    def _whose(self, given: str) -> Key | None:
        now = time.monotonic()
        if len(given) > LONGEST:
            return None
        with self._lock:
            until, key = self._keys.get(given, (0.0, None))
        if until < now:
            key = whose(self.state, given)
            with self._lock:
                if len(self._keys) > CALLERS:
                    self._keys.clear()
                self._keys[given] = now + REMEMBERED_S, key
        return key

    def _take(self, caller: str) -> None:
        if self.rate is None:
            return
        now = time.monotonic()
        with self._lock:
            left, before = self._left.pop(caller, (float(self.burst), now))
            left = min(self.burst, left + (now - before) * self.rate)
            self._left[caller] = max(left - 1.0, 0.0) if left >= 1 else left, now
            if len(self._left) > CALLERS:
                self._left.popitem(last=False)
        if left < 1:
            raise Problem(429, "too many calls", retry_after_s=max(1, round((1 - left) / self.rate)))


def needs(scope: str) -> Callable[..., Awaitable[None]]:
    """A dependency: the caller may do what `scope` covers."""

    async def check(request: Request) -> None:
        access: Access = request.app.state.access
        given = request.headers.get("x-api-key") or request.cookies.get(COOKIE)
        access.check(given, scope, request.client.host if request.client else "")

    return check


class Door:
    """Before anything is read: hosts, other sites, and the size of bodies.

    `hosts` are the names that a browser may call us by (None: any), so that another site's name cannot be
    pointed at a loopback service. A body is counted as it comes, whatever its header says.
    """

    def __init__(self, app: ASGIApp, body_bytes: int, list_bytes: int, any_host: bool):
        self.app, self.body_bytes, self.list_bytes, self.any_host = app, body_bytes, list_bytes, any_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if not self.any_host and not is_loopback(_name_of(host)):
            await answer(421, "this service answers on loopback only")(scope, receive, send)
            return
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and self._of_another_site(headers, host):
            await answer(403, "calls that change something must come from this site")(scope, receive, send)
            return
        most = self.list_bytes if scope["path"].startswith("/v1/lists/") else self.body_bytes
        length = headers.get(b"content-length", "0")
        if not length.isascii() or not length.isdigit():
            await answer(400, "Content-Length is no number")(scope, receive, send)
            return
        too_long = answer(413, f"a body has at most {most:,} bytes")
        if int(length) > most:
            await too_long(scope, receive, send)
            return
        count, is_over = 0, False

        async def counted() -> Message:
            nonlocal count, is_over
            message = await receive()
            count += len(message.get("body", b""))
            if count > most:
                is_over = True
                return {"type": "http.disconnect"}
            return message

        async def told(message: Message) -> None:
            if not is_over:
                await send(message)

        try:
            await self.app(scope, counted, told)
        finally:
            if is_over:
                await too_long(scope, receive, send)

    @staticmethod
    def _of_another_site(headers: dict[bytes, str], host: str) -> bool:
        if headers.get(b"sec-fetch-site", "none") not in ("none", "same-origin"):
            return True
        origin = headers.get(b"origin")
        return origin is not None and origin.partition("://")[2] != host


def _name_of(host: str) -> str:
    """The name in a Host header; "" where it has none."""
    try:
        return urlsplit(f"//{host}").hostname or "" if "@" not in host else ""
    except ValueError:  # brackets that hold no address
        return ""

"""A disk that is really full: a file system of a few MiB under the state. What cannot be kept is refused, what was acknowledged is there."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving.service.client import Client, ServiceError
from serving.state.store import sqlite_url
from tests.support.postgres import running_postgres
from tests.support.service_process import check_events
from tests.support.serving_http import served


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Callable[[int], None]]:
    """A file system of so many MiB at `folder`; what it gives leaves so many KiB of it free, or, of 0, all that was taken."""
    folder.mkdir()
    os.chmod(folder.parent, 0o755)  # PostgreSQL is nobody here
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", folder], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("no file system can be mounted here")
    ballast = folder / "ballast"

    def leave(kib: int) -> None:
        ballast.unlink(missing_ok=True)
        if kib:
            free = os.statvfs(folder)
            ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - (kib << 10)))

    os.chmod(folder, 0o755)
    try:
        yield leave
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


NO_ROOM = (503, 507)


def fill(client: Client, calls: int = 400) -> tuple[list[str], list[dict]]:
    """Send events from four threads until there is no room: ids that were acknowledged, and events that were refused."""
    acknowledged: list[str] = []
    refused: list[dict] = []
    statuses = set[int]()

    def send(call: int) -> None:
        some = [
            {"event_id": f"{call}-{n}-".ljust(190, "e"), "user_id": f"{n}".ljust(190, "u"), "item_id": "i2", "type": "like"}
            for n in range(40)
        ]  # fmt: skip
        if refused:
            return
        try:
            client.send(*some)
            acknowledged.extend(event["event_id"] for event in some)
        except ServiceError as error:
            statuses.add(error.status)
            refused.extend(some)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(send, range(calls)))
    assert statuses <= {*NO_ROOM}
    return acknowledged, refused


def check_full(client: Client, url: str, leave: Callable[[int], None], statuses: set[int]) -> None:
    acknowledged, refused = fill(client)
    assert acknowledged
    assert refused
    with pytest.raises(ServiceError) as failed:
        client.send(*refused)
    assert failed.value.status in statuses
    assert failed.value.detail in ("the state has no room left", "the state cannot be reached")
    leave(0)
    until = time.monotonic() + 60
    while (answer := client.http.post("/v1/events", json={"events": refused})).status_code in NO_ROOM:
        assert time.monotonic() < until, "the same service goes on by itself"
    assert answer.status_code == 200
    assert client.recommend(user_id="u1").items
    check_events(url, acknowledged + [event["event_id"] for event in refused])
    print(
        f"{len(acknowledged):,} acknowledged before the disk was full, {len(refused)} refused, all there once"
    )


def test_sqlite_on_a_full_disk_refuses_and_goes_on_when_there_is_room(world_run, tmp_path):
    url = sqlite_url(tmp_path / "disk" / "state.sqlite")
    with small_disk(tmp_path / "disk", 8) as leave, served(world_run[1].path, tmp_path, state=url) as client:
        leave(600)
        check_full(client, url, leave, {507})


@pytest.mark.slow
def test_postgresql_on_a_full_disk_refuses_and_goes_on_when_there_is_room(world_run, tmp_path):
    with (
        tempfile.TemporaryDirectory() as folder,
        small_disk(Path(folder, "disk"), 700) as leave,
        running_postgres(Path(folder, "disk")) as server,
        served(world_run[1].path, tmp_path, state=server.url) as client,
    ):
        leave(1000)
        check_full(client, server.url, leave, {*NO_ROOM})

"""kill -9: what was acknowledged is there, once, whoever dies: a writer, the server, a worker, PostgreSQL."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from serving.service.client import ServiceError
from serving.state.events import Event, add_events
from serving.state.store import State, StateError, sqlite_url
from tests.support.paths import ROOT
from tests.support.postgres import running_postgres
from tests.support.service_process import Senders, check_events, running, warm_starter

WRITER = """
import os, sys, threading
from serving.state.store import State
from serving.service.client import ServiceError
from serving.state.events import Event, add_events
state, life = State(sys.argv[1]), sys.argv[2]
def write(who):
    for n in range(10**6):
        id_ = f"{life}-{who}-{n}"
        state.write(lambda connection: add_events(connection, [Event(id_, f"u{n % 9}", "i1", "click", n)]))
        os.write(1, f"{id_}\\n".encode())
for who in range(3):
    threading.Thread(target=write, args=(who,), daemon=True).start()
threading.Event().wait()
"""


@pytest.mark.parametrize("times", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_a_writer_that_is_killed_has_kept_what_it_acknowledged(tmp_path, times):
    url, acknowledged = sqlite_url(tmp_path / "state.sqlite"), []
    chance = random.Random(0)
    for life in range(times):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, url, str(life)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert process.stdout is not None
        acknowledged.append(process.stdout.readline().strip())
        timer = threading.Timer(chance.random() * 0.3, process.kill)
        timer.start()
        acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
        timer.join()
        process.wait()
    assert len(acknowledged) > 2 * times
    print(f"{times} writers killed: {len(acknowledged):,} acknowledged")
    check_events(url, acknowledged)


@pytest.mark.parametrize("times", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_postgresql_that_is_killed_has_kept_what_it_acknowledged(times):
    chance, acknowledged = random.Random(1), []
    with running_postgres() as server:
        state = State(server.url)
        ended = threading.Event()

        def write(who: int) -> None:
            n = 0
            while not ended.is_set():
                some = [Event(f"{who}-{n}", f"u{n % 9}", "i1", "click", n)]
                try:
                    state.write(lambda connection, some=some: add_events(connection, some))
                except StateError:
                    time.sleep(0.01)
                    continue
                acknowledged.append(some[0].event_id)
                n += 1

        writers = [threading.Thread(target=write, args=(who,)) for who in range(3)]
        for writer in writers:
            writer.start()
        for _ in range(times):
            before = len(acknowledged)
            while len(acknowledged) < before + 5:
                time.sleep(0.01)
            time.sleep(chance.random() * 0.2)
            server.kill()
            server.start()
        before = len(acknowledged)
        while len(acknowledged) < before + 5:  # the same state goes on by itself
            time.sleep(0.01)
        ended.set()
        for writer in writers:
            writer.join()
        state.close()
        print(f"{times} times PostgreSQL was killed: {len(acknowledged):,} acknowledged")
        check_events(server.url, acknowledged)


@pytest.mark.slow
def test_a_server_killed_at_a_hundred_moments_under_load_has_lost_nothing(world_run, tmp_path):
    chance, sent = random.Random(2), 0
    with warm_starter() as starter, running(world_run[1].path, tmp_path, starter=starter) as server:
        senders = Senders(server.url)
        for life in range(100):
            senders.wait_for(5)
            time.sleep(chance.random() * 1.5)
            server.kill()
            if life % 10 == 9:
                check_events(server.state, list(senders.acknowledged))
            server.start()  # its supervisor's part
        senders.stop()
        sent = senders.sent
        check_events(server.state, senders.acknowledged)
        with server.client() as client:
            assert client.recommend(user_id="s0-1").path == "personalized"
    print(f"100 servers killed: {len(senders.acknowledged):,} acknowledged, {sent:,} sent")


@pytest.mark.slow
def test_a_worker_killed_at_a_hundred_moments_comes_back_by_itself(world_run, tmp_path):
    chance = random.Random(3)
    with running(world_run[1].path, tmp_path, "--workers", "2") as server:
        senders = Senders(server.url)
        for _ in range(100):
            time.sleep(chance.random() * 1.5)
            while not (workers := server.workers()):
                time.sleep(0.1)
            os.kill(chance.choice(workers), signal.SIGKILL)
            server.wait()
        senders.stop()
        check_events(server.state, senders.acknowledged)
        print(f"100 workers killed: {len(senders.acknowledged):,} acknowledged, {senders.sent:,} sent")
        with server.client() as client:
            assert client.recommend(user_id="s0-1").path == "personalized"


@pytest.mark.slow
def test_postgresql_killed_at_a_hundred_moments_under_a_service(world_run, tmp_path):
    """The service itself lives on: it refuses while there is no state, and answers again without being started."""
    chance = random.Random(5)
    with running_postgres() as postgres, running(world_run[1].path, tmp_path, state=postgres.url) as server:
        pid, senders, refused = server.process.pid, Senders(server.url), set[int]()

        def asks() -> None:
            with server.client(20.0) as client:
                while not senders.ended.wait(0.05):
                    try:
                        client.recommend(user_id="s0-1", n=3, temperature=1.0)
                    except ServiceError as error:
                        refused.add(error.status)

        asking = threading.Thread(target=asks, daemon=True)
        asking.start()
        for _ in range(100):
            senders.wait_for(5)
            time.sleep(chance.random())
            postgres.kill()
            time.sleep(chance.random() * 0.2)
            postgres.start()
        senders.wait_for(5)
        senders.stop()
        asking.join()
        assert (server.process.pid, server.process.poll()) == (pid, None)
        assert refused <= {503}
        with server.client() as client:
            assert client.recommend(user_id="s0-1").path == "personalized"
        print(
            f"100 times PostgreSQL was killed: {len(senders.acknowledged):,} acknowledged, {senders.sent:,} sent"
        )
        check_events(postgres.url, senders.acknowledged)


def test_two_workers_are_one_service_and_one_that_dies_is_replaced(world_run, tmp_path):
    with running(world_run[1].path, tmp_path, "--workers", "2") as server:
        first = server.workers()
        assert len(first) == 2
        senders = Senders(server.url, threads=2)
        os.kill(first[0], signal.SIGKILL)
        until = time.monotonic() + 120
        while len(set(server.workers()) - {first[0]}) < 2:
            assert time.monotonic() < until
            time.sleep(0.2)
        server.wait()
        senders.stop()
        assert len(senders.acknowledged) > 3
        check_events(server.state, senders.acknowledged)
        with server.client() as client:
            text = client.metrics()
            asked = [client.recommend(user_id="s0-0", n=5, temperature=1.0, seed=1).items for _ in range(6)]
        assert all(one == asked[0] for one in asked), "whoever answers"
        assert "prelude_events_total" in text
        assert Path(f"/proc/{first[1]}").exists()
        assert server.stop() in (0, -15)

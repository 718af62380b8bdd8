"""`prelude serve --engine ray`: replicas under Ray Serve, one of which is killed under load; and what is refused."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from serving.cli import app
from serving.engines.base import EngineError
from serving.service.ray_serve import Replica, _runs
from tests.support.paths import ROOT
from tests.support.service_process import Senders, check_events, free_port, running


def replicas_of(folder: Path) -> list[int]:
    """Processes of replicas whose temporary files are in `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_replica = b"ServeReplica:prelude" in (process / "cmdline").read_bytes()
            if is_replica and str(folder).encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.fixture
def short(monkeypatch):
    """The folder of all temporary files: sockets' paths have at most 107 bytes."""
    pytest.importorskip("ray.serve", exc_type=ImportError)
    with tempfile.TemporaryDirectory(prefix="rs", dir="/tmp", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def test_a_replica_uses_no_name_that_is_ray_s():
    serve = pytest.importorskip("ray.serve", exc_type=ImportError)
    wrapped = serve.ingress()(Replica)
    assert not [name for name in vars(Replica({})) if hasattr(wrapped, name)]


def test_a_start_has_failed_only_where_ray_starts_no_more():
    states = pytest.importorskip("ray.serve._private.common", exc_type=ImportError).ReplicaState

    def status(said: str = "", **counts: int):
        found = {states[name]: count for name, count in counts.items()}
        deployment = SimpleNamespace(replica_states=found, message=said)
        return SimpleNamespace(applications={"a": SimpleNamespace(deployments={"d": deployment})})

    error = RuntimeError("Deploying failed")
    assert _runs(status(RUNNING=1, STARTING=1), error)
    assert not _runs(status(RUNNING=0, STARTING=2), error)
    said = "Error:\nRuntimeError: Traceback (most recent call last):\n  File\na.b.RunError: no stage\n"
    with pytest.raises(EngineError, match=r"^no replica starts: RunError: no stage$"):
        _runs(status(said, STOPPING=2), error)
    with pytest.raises(EngineError, match=r"^no replica starts: Deploying failed$"):
        _runs(status(), error)


@pytest.mark.slow
def test_a_run_that_no_replica_can_load_is_one_line(world_run, tmp_path, short):
    run = Path(shutil.copytree(world_run[1].path, tmp_path / "run"))
    (run / "prepare").rename(run / "away")
    words = [sys.executable, "-m", "serving.cli", "serve", str(run), "--engine", "ray", "--replicas", "1", "--port", str(free_port())]  # fmt: skip
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert "prelude: no replica starts: RunError: " in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("times", [3, 100])
def test_a_replica_killed_under_load_has_lost_nothing_and_is_replaced(world_run, tmp_path, short, times):
    chance = random.Random()
    with running(world_run[1].path, tmp_path, "--engine", "ray", "--replicas", "2") as server:
        until = time.monotonic() + 120
        while len(replicas_of(short)) < 2:
            assert time.monotonic() < until
            time.sleep(0.1)
        ours = os.getpriority(os.PRIO_PROCESS, server.process.pid)
        assert {os.getpriority(os.PRIO_PROCESS, one) for one in replicas_of(short)} == {ours}
        senders = Senders(server.url)
        for killed in range(times):
            senders.wait_for(5)
            check_events(server.state, list(senders.acknowledged))
            print(f"{killed} killed: {len(senders.acknowledged):,} acknowledged, each there once", flush=True)
            time.sleep(chance.random())
            while not (alive := replicas_of(short)):
                time.sleep(0.05)
            os.kill(chance.choice(alive), signal.SIGKILL)
        server.wait()
        senders.wait_for(5)
        senders.stop()
        print(f"{times} replicas killed: {len(senders.acknowledged):,} acknowledged, {senders.sent:,} sent")
        with server.client() as client:
            assert client.recommend(user_id="s0-1").path == "personalized"
        check_events(server.state, senders.acknowledged)
        assert server.stop() in (0, -15)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--replicas", "2"), "--replicas are of --engine ray"),
        (("--engine", "ray", "--workers", "2"), "--workers are of --engine local"),
    ],
)
def test_processes_of_the_other_engine_are_refused(world_run, words, said):
    with pytest.raises(ValueError, match=said):
        CliRunner().invoke(app, ["serve", str(world_run[1].path), *words], catch_exceptions=False)

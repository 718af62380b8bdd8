"""Workers on one port: who serves and is killed is replaced as often as it takes, who cannot start is given up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

SUPERVISOR = """
import os, sys, time
from serving.service import workers
from serving.service.workers import bound, serve_by
workers.MOST_EARLY = 4
def work(listening, serves):
    if sys.argv[1] == "serves":
        serves()
        os.write(1, f"{os.getpid()}\\n".encode())  # a line at once, whoever else writes one
        time.sleep(600)
    if sys.argv[1] == "refuses":
        raise ValueError("no such run")
with bound("127.0.0.1", 0) as listening:
    serve_by(2, listening, work)
"""


@pytest.fixture(autouse=True)
def figures(tmp_path, monkeypatch):
    """A folder for the figures of all workers, as `prelude serve` makes one."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))


def test_one_that_served_is_replaced_however_often_it_is_killed():
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, "serves"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    met = [int(process.stdout.readline()) for _ in range(2)]
    for _ in range(8):  # more than are given up where they never served
        os.kill(met[-1], signal.SIGKILL)
        met.append(int(process.stdout.readline()))
    process.terminate()
    assert process.wait(30) == 0
    assert len(set(met)) == 10
    assert process.stdout.read() == ""


def test_workers_that_cannot_start_are_given_up_in_a_line():
    done = subprocess.run(
        [sys.executable, "-c", SUPERVISOR, "fails"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "EngineError: workers end before they can answer; what they said is above"
    )


def test_what_nobody_can_serve_is_said_by_the_first_and_not_tried_again():
    done = subprocess.run([sys.executable, "-c", SUPERVISOR, "refuses"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 1
    assert 1 <= done.stderr.count("prelude: no such run") <= 2

"""`status` counts what calls that were killed have spent: of a stage that is not finished, and of one that was finished later."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from rich.console import Console

from recsys.config import StageConfig
from recsys.run import Run
from serving.stages.state import print_timings

WORK = """
import os, sys, time
from recsys.config import StageConfig
from recsys.run import Run
run = Run.create(sys.argv[1])
stage = run.stage("prepare", StageConfig())
with stage.writing() as folder:
    time.sleep(float(sys.argv[2]))
    (stage.checkpoint / "step").write_text("x")
    if sys.argv[3] == "kill":
        os.kill(os.getpid(), 9)
    if sys.argv[3] == "fail":
        raise ValueError
    (folder / "a").write_text("a")
"""


def call(run, seconds: float, end: str) -> None:
    subprocess.run([sys.executable, "-c", WORK, str(run), str(seconds), end], check=False, env=os.environ | {"PYTHONPATH": os.getcwd()}, stderr=subprocess.DEVNULL)  # fmt: skip


def status(run: Run) -> str:
    out = io.StringIO()
    print_timings(run, Console(file=out, width=80))
    return out.getvalue()


def test_killed_and_failed_calls_add_up_and_stay_with_the_finished_stage(tmp_path):
    run = Run.create(tmp_path / "run")
    call(run.path, 0.3, "kill")
    assert run.unfinished_seconds("prepare") == pytest.approx(0.3, abs=0.2)
    call(run.path, 0.4, "fail")
    call(run.path, 0.2, "kill")
    spent = run.unfinished_seconds("prepare")
    assert spent == pytest.approx(0.9, abs=0.3)
    assert "unfinished" in status(run)
    call(run.path, 0.0, "finish")
    record = run.record("prepare")
    assert record is not None
    assert record["unfinished_seconds"] == pytest.approx(spent, abs=0.01)
    assert record["seconds"] < 0.3
    assert list(record["artifacts"]) == ["a"]  # the note is no artifact
    assert f"{spent:.1f}" in status(run)


def test_other_settings_begin_at_nothing_and_a_clean_stage_says_nothing(tmp_path):
    class Settings(StageConfig):
        size: int = 1

    run = Run.create(tmp_path / "run")
    with pytest.raises(ZeroDivisionError), run.stage("prepare", Settings()).writing():
        raise ZeroDivisionError
    with run.stage("prepare", Settings(size=2)).writing() as folder:
        (folder / "a").write_text("a")
    record = run.record("prepare")
    assert record is not None
    assert "unfinished_seconds" not in record
    assert "killed calls" not in status(run)

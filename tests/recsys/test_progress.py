"""Progress in a log: whole lines, one a minute, and nothing of what was over before that."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from tqdm import tqdm

from recsys import progress
from recsys.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when they are told to."""
    now = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_one_line_a_minute_and_a_last_one(clock):
    out = io.StringIO()
    bar = Progress(total=600, desc="Stage 1", unit="step", file=out, mininterval=0.0)
    bar.set_postfix(loss="1.5")
    for _ in range(600):
        clock[0] += 0.5
        bar.update()
        bar.refresh()
    bar.close()
    bar.close()
    lines = out.getvalue().splitlines()
    assert "\r" not in out.getvalue()
    assert len(lines) == 5 + 1  # of five minutes
    assert lines[0] == "Stage 1: 120 of 600 step (20%), 01:00 so far, about 04:00 to go; loss=1.5"
    assert lines[-1] == "Stage 1: 600 of 600 step (100%), 05:00 so far; loss=1.5"


def test_what_was_done_before_is_not_taken_for_speed(clock):
    out = io.StringIO()
    bar = Progress(total=100, initial=50, desc="a", unit="row", file=out)
    clock[0] = 60
    bar.update(10)
    assert out.getvalue() == "a: 60 of 100 row (60%), 01:00 so far, about 04:00 to go\n"


def test_a_short_job_leaves_nothing_in_a_log():
    out = io.StringIO()
    assert list(Progress(range(50), desc="short", file=out)) == list(range(50))
    with Progress(total=3, file=out) as bar:
        bar.update(3)
    with Progress(total=3, file=out, disable=True) as bar:
        bar.update(3)
    assert out.getvalue() == ""


def test_what_is_gone_through_is_counted(clock):
    out = io.StringIO()
    for _ in Progress(range(2), desc="slow", unit="case", file=out):
        clock[0] += 61
    assert out.getvalue().splitlines()[0] == "slow: 1 of 2 case (50%), 01:01 so far, about 01:01 to go"


def test_a_terminal_has_a_bar_that_moves():
    out = Terminal()
    bar = Progress(total=2, desc="bar", file=out, mininterval=0.0)
    bar.update(2)
    bar.close()
    assert "\r" in out.getvalue()
    assert "100%" in out.getvalue()


def test_bars_are_made_in_one_place():
    root = Path(progress.__file__).parent.parent
    rooms = ("recsys", "semantic_ids", "llm", "evaluation", "serving")
    wrong = [
        path.name
        for room in rooms
        for path in (root / room).rglob("*.py")
        if "from tqdm" in path.read_text() and path.name != "progress.py"
    ]
    assert wrong == []


def test_a_killed_fork_that_had_the_lock_stops_nobody():
    """tqdm's own lock is shared by all forks, and one that died with it would keep it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        tqdm.get_lock().acquire()
        os.write(writing, b"held")
        time.sleep(60)
        os._exit(0)
    assert os.read(reading, 4) == b"held"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    made = threading.Thread(target=lambda: Progress(total=1, disable=True).close(), daemon=True)
    made.start()
    made.join(10)
    assert not made.is_alive(), "a bar waits for a process that is dead"


def test_a_fork_has_a_lock_of_its_own():
    """Whatever a thread of the parent held when it forked."""
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with tqdm.get_lock():
            held.set()
            go_on.wait(20)

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    held.wait(10)
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        Progress(total=1, disable=True).close()
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    go_on.set()
    thread.join(10)
    assert code == 0

"""Work in processes of this machine: every task once, whoever dies."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from serving.engines.base import TRIES, EngineError
from serving.engines.choose import WORKER_BYTES, engine
from serving.engines.local import LocalEngine
from serving.engines.memory import available_bytes
from tests.support.engines import SQUARES, alive, done, wait_until, work
from tests.support.paths import ROOT


@pytest.mark.parametrize("workers", [1, 3])
def test_local_does_every_task_once_in_processes_of_one_thread(tmp_path, workers):
    results = done(LocalEngine(workers), tmp_path, SQUARES)
    assert [result["square"] for result in results] == [0, 1, 4, 9, 16, 25, 36]
    assert {result["threads"] for result in results} == {"1"}
    pids = {result["pid"] for result in results}
    assert os.getpid() not in pids
    assert len(pids) <= workers  # fewer, where the first is done before the next has started
    assert sorted(tmp_path.glob("worker-*")) == sorted(
        tmp_path / f"worker-{pid}" for pid in pids
    )  # once each


def test_local_goes_on_when_workers_die(tmp_path):
    tasks = [("square", 2), ("die", 3), ("square", 4), ("die", 5), ("square", 6)]
    assert [result["square"] for result in done(LocalEngine(2), tmp_path, tasks)] == [4, 9, 16, 25, 36]


def test_local_gives_up_on_a_task_that_always_kills(tmp_path):
    with pytest.raises(EngineError, match=r"\('always die', 1\).*died 3 times"):
        list(LocalEngine(1).run(work(tmp_path), [("always die", 1), ("square", 2)]))
    assert len(list(tmp_path.glob("worker-*"))) == TRIES


def test_local_names_the_task_that_fails_and_leaves_no_process(tmp_path):
    with pytest.raises(EngineError, match=r"task \('raise', 1\): KeyError: 'no number 1'"):
        list(LocalEngine(2).run(work(tmp_path), [("raise", 1), ("sleep", 60)]))  # nor waits for the sleeper
    with pytest.raises(EngineError, match="this worker cannot start"):
        list(LocalEngine(1).run(work(tmp_path, refuse=True), SQUARES))
    assert alive(tmp_path) == []


def test_local_workers_end_with_a_parent_that_is_killed(tmp_path):
    code = (
        "from serving.engines.base import Work\n"
        "from serving.engines.local import LocalEngine\n"
        "if __name__ == '__main__':\n"
        f"    work = Work('tests.support.engines:start', {{'folder': {str(tmp_path)!r}}})\n"
        "    list(LocalEngine(2).run(work, [('sleep', 600), ('sleep', 601)]))\n"
    )
    (tmp_path / "parent.py").write_text(code)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")], env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    wait_until(lambda: len(list(tmp_path.glob("begun-*"))) == 2)
    assert len(alive(tmp_path)) == 2
    parent.kill()
    parent.wait()
    wait_until(lambda: alive(tmp_path) == [])


def test_wrong_engines_are_refused():
    with pytest.raises(ValueError, match="no engine 'spark'; expected local or ray"):
        engine("spark")
    with pytest.raises(ValueError, match="at least one worker"):
        engine("local", 0)
    with pytest.raises(ValueError, match="--gpus is for --engine ray"):
        engine("local", 1, gpus=1)


def test_local_workers_are_as_many_as_there_is_room_for(monkeypatch):
    cores = len(os.sched_getaffinity(0))
    for free, workers in ((0, 1), (WORKER_BYTES, 1), (10_000 * WORKER_BYTES, cores)):
        monkeypatch.setattr("serving.engines.choose.available_bytes", lambda free=free: free)
        assert engine("local").workers == workers
    assert engine("local", 5).workers == 5  # whoever says so
    monkeypatch.undo()
    page = os.sysconf("SC_PAGE_SIZE")
    assert 64 << 20 < available_bytes() <= os.sysconf("SC_PHYS_PAGES") * page

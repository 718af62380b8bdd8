"""Engines: every task once, whoever dies. The same evaluation whoever measures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from recsys.run import Run
from serving.engines.base import TRIES, EngineError, Work
from serving.engines.choose import WORKER_BYTES, engine
from serving.engines.local import LocalEngine
from serving.engines.memory import available_bytes
from serving.stages.evaluate import evaluate

ROOT = Path(__file__).parent.parent


def work(folder, **more) -> Work:
    return Work("tests.engine_work:start", {"folder": str(folder)} | more)


def done(some_engine, folder, tasks) -> list[dict]:
    """The results in the order of the tasks, each of which came back once."""
    pairs = list(some_engine.run(work(folder), tasks))
    assert sorted(task for task, _ in pairs) == sorted(tasks)
    return [dict(pairs)[task] for task in tasks]


SQUARES = [("square", number) for number in range(7)]


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
        f"    work = Work('tests.engine_work:start', {{'folder': {str(tmp_path)!r}}})\n"
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


# -- ray ---------------------------------------------------------------------------------------------------------


def test_ray_does_every_task_once_also_when_a_worker_dies(cluster, tmp_path):
    tasks = [*SQUARES, ("die", 8)]
    results = done(engine("ray", 2), tmp_path, tasks)
    assert [result["square"] for result in results] == [0, 1, 4, 9, 16, 25, 36, 64]
    assert {result["threads"] for result in results} == {"1"}


@pytest.mark.slow  # test_playlists loses a worker and a node
def test_ray_goes_on_when_a_node_is_lost(cluster, tmp_path):
    node = cluster.add_node(num_cpus=2, object_store_memory=100 << 20)
    tasks = [("sleep", 3 + number / 100) for number in range(6)]  # six workers, two of them on that node

    here = len(cluster.list_all_nodes())
    lost: list[int] = []

    def lose() -> None:
        wait_until(lambda: len(list(tmp_path.glob("begun-*"))) == 6)
        cluster.remove_node(node, allow_graceful=False)
        lost.append(len(list(tmp_path.glob("worker-*"))))

    thread = threading.Thread(target=lose)
    thread.start()
    results = done(engine("ray", 6), tmp_path, tasks)
    thread.join()
    assert lost == [6]  # it went while all six were at work
    assert len(cluster.list_all_nodes()) == here - 1
    assert [result["square"] for result in results] == [task[1] ** 2 for task in tasks]
    assert len(list(tmp_path.glob("worker-*"))) > 6  # and others were started for those that went with it


def test_ray_names_the_task_that_fails_or_always_kills(cluster, tmp_path):
    with pytest.raises(EngineError, match=r"^task \('raise', 1\): KeyError: 'no number 1'$"):
        list(engine("ray", 2).run(work(tmp_path), [("raise", 1), ("square", 2)]))
    with pytest.raises(EngineError, match=r"^task \('always die', 1\): the worker died 3 times"):
        list(engine("ray", 1).run(work(tmp_path), [("always die", 1)]))


def test_ray_gives_up_on_workers_that_die_while_they_start(cluster, tmp_path):
    with pytest.raises(EngineError, match=r"^workers died while they started, 3 times each, and no task was"):
        list(engine("ray", 2).run(work(tmp_path, stillborn=True), SQUARES))
    assert len(list(tmp_path.glob("worker-*"))) == 2 * TRIES


def test_ray_refuses_more_workers_than_the_cluster_has_room_for(cluster, tmp_path):
    with pytest.raises(ValueError, match="99 workers want a CPU each, but the cluster has 4 CPUs"):
        list(engine("ray", 99).run(work(tmp_path), SQUARES))


# -- evaluation --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluations(small_run, tmp_path_factory):
    """A run to be evaluated again, with a few of its methods: a function of an engine that gives `results.json`."""
    config, run = small_run
    few = tuple(
        method for method in config.personalize.methods if method.key in ("static_prefix", "e2p", "tap_per")
    )
    settings = config.evaluate.model_copy(update={"batch_size": 16})
    config = config.model_copy(
        update={
            "personalize": config.personalize.model_copy(update={"methods": few}),
            "evaluate": settings,
        }
    )

    def measured(some_engine) -> bytes:
        copy = tmp_path_factory.mktemp("evaluation") / "run"
        shutil.copytree(run.path, copy)
        shutil.rmtree(copy / "evaluate")
        evaluate(config, Run.open(copy), quiet=True, engine=some_engine)
        return (copy / "evaluate" / "results.json").read_bytes()

    return measured


@pytest.mark.slow
def test_evaluation_gives_the_same_bytes_with_one_worker_and_two(evaluations):
    two = evaluations(LocalEngine(2))
    assert evaluations(LocalEngine(1)) == two
    names = [row["name"] for row in json.loads(two)["rows"]]
    assert names == [
        "Popularity", "Item-kNN", "Item-kNN (softmax)", "Embedding Retrieval", "Embedding Retrieval (softmax)", "SASRec",
        "SASRec (softmax)", "No Context", "Static Prefix", "E2P-Random", "E2P", "TAP-PER",
    ]  # fmt: skip


def test_evaluation_gives_the_same_bytes_on_ray_and_in_this_process(evaluations, cluster):
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers have
    try:
        assert evaluations(engine("ray", 2)) == evaluations(None)
    finally:
        torch.set_num_threads(before)


# -- help --------------------------------------------------------------------------------------------------------


def alive(folder: Path) -> list[int]:
    """Workers that have started in `folder` and are still there."""
    pids = [int(path.name.split("-")[1]) for path in folder.glob("worker-*")]
    return [pid for pid in pids if _is_alive(pid)]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_until(true, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.05)

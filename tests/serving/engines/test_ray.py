"""Work on a Ray cluster of two nodes: every task once, whoever dies."""

from __future__ import annotations

import threading

import pytest

from serving.engines.base import TRIES, EngineError
from serving.engines.choose import engine
from tests.support.engines import SQUARES, done, wait_until, work

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

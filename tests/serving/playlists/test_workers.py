"""The same bytes whoever works and whoever dies: worker processes, nodes, and jobs that outlive each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from serving.engines.base import Task, Work
from serving.engines.choose import engine
from serving.engines.local import LocalEngine
from serving.playlists import shards as playlist_shards
from serving.playlists.job import playlists
from serving.playlists.plan import Settings
from tests.support.engines import Here, wait_until
from tests.support.paths import ROOT
from tests.support.playlist_files import SETTINGS, asked, bytes_of, lists_of, written


def test_local_workers_change_no_byte_also_when_one_is_killed(whole, run, tmp_path):
    source, out, _ = whole
    killed: list[int] = []

    class Watched(LocalEngine):
        def run(self, work: Work, tasks: list[Task]):
            for task, result in super().run(work, tasks):
                if not killed:  # the first answer's worker, which is at its next task
                    killed.append(int(result["worker"].split(":")[1]))
                    os.kill(killed[0], signal.SIGKILL)
                yield task, result

    manifest = playlists(run, source, tmp_path / "two", Watched(2), SETTINGS, quiet=True)
    assert killed
    assert bytes_of(tmp_path / "two") == bytes_of(out)
    assert manifest["counts"]["answered"] == 70


def test_ray_on_two_nodes_changes_no_byte_also_when_a_worker_and_a_node_are_lost(
    whole, run, tmp_path, cluster
):
    source, out, _ = whole
    nodes = len(cluster.list_all_nodes())
    node = cluster.add_node(num_cpus=2, object_store_memory=100 << 20)
    inner = engine("ray", 2)
    lost: list[str] = []

    class Watched:
        name, workers = "ray", 2

        def run(self, work: Work, tasks: list[Task]):
            for task, result in inner.run(work, tasks):
                if not lost:
                    lost.append(result["worker"])
                    os.kill(int(lost[0].split(":")[1]), signal.SIGKILL)
                    cluster.remove_node(node, allow_graceful=False)
                yield task, result

    manifest = playlists(run, source, tmp_path / "out", Watched(), SETTINGS, quiet=True)
    assert lost
    assert len(cluster.list_all_nodes()) == nodes  # the third is gone
    assert bytes_of(tmp_path / "out") == bytes_of(out)
    assert manifest["counts"]["answered"] == 70


def test_a_worker_that_outlives_its_job_writes_nothing_into_another(run, here, tmp_path):
    source, out = written(asked(20), tmp_path / "requests.parquet"), tmp_path / "out"
    late: list = []

    class Abandoned:
        name, workers = "abandoned", 1

        def run(self, work: Work, tasks):
            late.extend((work.start(), tasks[0]))
            raise KeyboardInterrupt

    class Beside:
        name, workers = "beside", 1

        def run(self, work: Work, tasks):
            do, task = late
            with pytest.raises(OSError, match="No such file"):
                do(task)
            yield from here.run(work, tasks)

    with pytest.raises(KeyboardInterrupt):
        playlists(run, source, out, Abandoned(), replace(SETTINGS, n=5), quiet=True)
    playlists(run, source, out, Beside(), SETTINGS, restart=True, quiet=True)
    playlists(run, source, tmp_path / "alone", here, SETTINGS, quiet=True)
    assert bytes_of(out) == bytes_of(tmp_path / "alone")


def test_killed_twice_at_the_command_line_with_its_workers(run, tmp_path):
    source = written(asked(400), tmp_path / "requests.parquet")
    command = [
        sys.executable,
        "-m",
        "serving.cli",
        "playlists",
        str(run),
        "--requests",
        str(source),
        "--batch",
        "8",
        "-n",
        "7",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    out = tmp_path / "killed"
    for files in (1, 2):  # 400 requests are four parts of 128
        process = subprocess.Popen(
            [*command, "--out", str(out), "--workers", "1"], env=environment, stderr=subprocess.DEVNULL
        )
        wait_until(lambda least=files: len(list(out.glob(".partial/*/done/playlists/*"))) >= least, 120)
        process.kill()
        process.wait()
        assert not (out / "manifest.json").exists()
    last = subprocess.run(
        [*command, "--out", str(out)], env=environment, capture_output=True, text=True, check=True
    )
    assert last.stdout.startswith("400 requests: 400 answered with ")
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["last_call"]["answered"] < 400
    lists = lists_of(out)
    assert len(lists) == 400
    assert all(frame["rank"].tolist() == list(range(1, len(frame) + 1)) for frame in lists.values())
    playlist_shards.SHARD_ROWS, playlist_shards.PART_REQUESTS = 16_384, 128  # as the command line has
    playlists(run, source, tmp_path / "whole", Here(), Settings(n=7, batch=8), quiet=True)
    assert bytes_of(tmp_path / "whole") == bytes_of(out)


def test_two_processes_cannot_write_one_folder(whole, run, here, tmp_path):
    source, _, _ = whole

    class Nosy:
        name, workers = "nosy", 1

        def run(self, work, tasks):
            with pytest.raises(ValueError, match="is being written by another prelude process"):
                playlists(run, source, tmp_path / "out", here, SETTINGS, quiet=True)
            yield from here.run(work, tasks)

    playlists(run, source, tmp_path / "out", Nosy(), SETTINGS, quiet=True)

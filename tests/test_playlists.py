"""Playlist runs: the same bytes whatever happens on the way, nothing lost or doubled, bad rows set aside with the reason."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recsys.door.tables import DataError
from recsys.run import Run, sha256_of
from serving.answering.recommender import Recommender
from serving.answering.requests import answer, request_of
from serving.engines.base import Task, Work
from serving.engines.choose import engine
from serving.engines.local import LocalEngine
from serving.playlists import requests as playlist_requests
from serving.playlists import shards as playlist_shards
from serving.playlists.answers import Row, each_or_why, micro_batches
from serving.playlists.folder import DELETED, WORK
from serving.playlists.job import playlists
from serving.playlists.plan import Settings, refuse_impossible
from serving.playlists.requests import Source
from tests.test_engines import ROOT, wait_until

SETTINGS = Settings(n=7, batch=4, seed=3)


class Here:
    """An engine that works in this process; worker processes take ten seconds to start. The real ones are tested beside it."""

    name, workers = "here", 1

    def __init__(self) -> None:
        self.started: dict[str, object] = {}

    def run(self, work: Work, tasks):
        key = json.dumps(dict(work.arguments), sort_keys=True)
        if tasks and key not in self.started:
            self.started[key] = work.start()
        for task in tasks:
            yield task, self.started[key](task)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As workers have, and as they were afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def small_cuts(monkeypatch):
    """Several shards and parts of a few dozen requests."""
    monkeypatch.setattr(playlist_shards, "SHARD_ROWS", 30)
    monkeypatch.setattr(playlist_shards, "PART_REQUESTS", 8)
    monkeypatch.setattr(playlist_shards, "DEALT_BYTES", 2000)


@pytest.fixture(scope="module")
def here():
    return Here()


@pytest.fixture(scope="module")
def run(small_run) -> Path:
    return small_run[1].path


def asked(count: int = 70) -> pa.Table:
    """Requests of known users, strangers and nobody; queries in several scripts, none, and a long one."""
    generator = np.random.default_rng(5)
    queries = ["even", "odd", None, "", "  ", "музыка для ночи", "夜に聴く音楽", "🎧 אודות", "x" * 10_000]
    rows = []
    for number in range(count):
        user = None if number % 11 == 0 else f"u{generator.integers(0, 50)}"  # u40 … u49 are strangers
        rows.append({
            "request_id": f"r{number:03d}", "user_id": user, "query": queries[number % len(queries)],
            "time": 1_010_000 + number if number % 5 == 0 else None,
            "n": (3, 7, None, 1000)[number % 4],
            "exclude": [f"i{item}" for item in range(number % 6)] if number % 3 == 0 else None,
            "allow": [f"i{item}" for item in range(40, 60)] if number % 7 == 0 else None,
        })  # fmt: skip
    return pa.Table.from_pylist(rows, SCHEMA)


SCHEMA = pa.schema(
    [("request_id", pa.string()), ("user_id", pa.string()), ("query", pa.string()), ("time", pa.int64()),
     ("n", pa.int64()), ("exclude", pa.list_(pa.string())), ("allow", pa.list_(pa.string()))]
)  # fmt: skip


def written(table: pa.Table, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def bytes_of(out: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted((out / "playlists").iterdir())}


def lists_of(out: Path) -> dict[str, pd.DataFrame]:
    frame = pd.concat([pd.read_parquet(path) for path in sorted((out / "playlists").iterdir())])
    return dict(list(frame.groupby("request_id")))


def rejected(out: Path) -> pd.DataFrame:
    files = sorted((out / "rejected").glob("*.parquet"))
    return pd.concat([pd.read_parquet(path) for path in files]).sort_values(
        ["file", "row"], ignore_index=True
    )


@pytest.fixture(scope="module")
def whole(run, here, tmp_path_factory):
    """The requests, and a run of them that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    source = written(asked(), folder / "requests.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(playlist_shards, "SHARD_ROWS", 30)
        patch.setattr(playlist_shards, "PART_REQUESTS", 8)
        manifest = playlists(run, source, folder / "out", here, SETTINGS, quiet=True)
    return source, folder / "out", manifest


# -- what comes out ------------------------------------------------------------------------------------------


def test_every_request_is_answered_as_recommend_answers_it(whole, run):
    source, out, manifest = whole
    lists, service = lists_of(out), Recommender.load(run)
    table = pq.read_table(source).to_pylist()
    assert sorted(lists) == [row["request_id"] for row in table]
    catalogue = service.methods.dataset.catalogue
    for row in table:
        found = lists[row["request_id"]]
        request = request_of(
            service.methods.dataset, service.live.histories, row["user_id"], (row["query"] or "").strip() or None, row["time"],
            exclude=row["exclude"] or (), allow=row["allow"], request_id=row["request_id"],
        )  # fmt: skip
        n = min(row["n"] or SETTINGS.n, 60)
        (alone,) = service.method("e2p").recommend([request], n, SETTINGS.temperature, SETTINGS.seed)
        assert found["rank"].tolist() == list(range(1, len(found) + 1))
        assert found["item_id"].tolist() == [str(catalogue.item_ids[item]) for item in alone.items]
        np.testing.assert_allclose(found["score"], alone.scores, rtol=2e-5)
        assert found["item_id"].is_unique
        assert not set(found["item_id"]) & set(row["exclude"] or ())
        allowed = set(row["allow"] or catalogue.item_ids) - set(row["exclude"] or ())
        assert set(found["item_id"]) <= allowed
        assert len(found) == min(n, len(allowed))  # more than there is gives what there is
    assert manifest["counts"]["answered"] == len(table) == manifest["counts"]["requests"]
    assert manifest["counts"]["items"] == sum(map(len, lists.values()))
    users = [row["user_id"] for row in table]
    assert manifest["counts"]["nobody"] == users.count(None)
    assert manifest["counts"]["unknown_users"] == sum(u is not None and int(u[1:]) >= 40 for u in users) > 0


def test_the_manifest_says_what_the_files_are_and_nothing_else_is_left(whole, run):
    _, out, manifest = whole
    assert json.loads((out / "manifest.json").read_text()) == manifest
    assert sorted(path.name for path in out.iterdir() if path.name != ".lock") == [
        "manifest.json", "playlists", "rejected",
    ]  # fmt: skip
    assert {f"playlists/{name}": digest for name, digest in bytes_of(out).items()} == {
        name: entry["sha256"] for name, entry in manifest["results"].items()
    }
    assert len(manifest["results"]) > manifest["cut"]["shards"] > 1
    assert manifest["last_call"]["answered"] == 70
    assert manifest["last_call"]["requests_per_second"] > 0
    assert manifest["last_call"]["peak_bytes_sum"] > manifest["last_call"]["peak_bytes_worker"] > 1 << 20


def test_micro_batches_are_of_one_n_and_in_order():
    rows = [Row(place, None, n) for place, n in enumerate([5, 3, 5, 5, 3, 4])]
    cut = [(n, [row.place for row in some]) for n, some in micro_batches(rows, 2)]
    assert cut == [(5, [0, 2]), (3, [1, 4]), (4, [5]), (5, [3])]


def test_temperature_0_is_best_first_and_a_seed_draws_anew(whole, run, here, tmp_path):
    source, out, _ = whole
    best = Settings(n=7, batch=4, temperature=0.0, method="embedding_retrieval")
    playlists(run, source, tmp_path / "best", here, best, quiet=True)
    service = Recommender.load(run)
    rows = {row["request_id"]: row for row in pq.read_table(source).to_pylist()}
    some = rows["r001"]
    found = service.recommend(some["user_id"], some["query"], some["n"], method="embedding_retrieval")
    assert lists_of(tmp_path / "best")["r001"]["item_id"].tolist() == [item.item_id for item in found]
    other = Settings(n=7, batch=4, seed=4)
    playlists(run, source, tmp_path / "other", here, other, quiet=True)
    lists, again = lists_of(out), lists_of(tmp_path / "other")
    assert sum(lists[r]["item_id"].tolist() != again[r]["item_id"].tolist() for r in lists) > 35


def test_caps_sequence_order_and_strength_are_those_of_recommend(whole, run, here, tmp_path):
    source, _, _ = whole
    options = {"sequence": True, "caps": {"kind": 2}, "order": "smooth", "strength": 0.5, "temperature": 0.0}
    settings = Settings(n=7, batch=4, method="e2p", **options)
    playlists(run, source, tmp_path / "out", here, settings, quiet=True)
    lists, service = lists_of(tmp_path / "out"), Recommender.load(run)
    assert len(lists) == 70
    assert max(map(len, lists.values())) == 4  # two of each kind
    plain = 0
    for row in pq.read_table(source).to_pylist()[:20]:
        asks = {"time": row["time"], "exclude": row["exclude"] or (), "allow": row["allow"], "method": "e2p"}
        n = min(row["n"] or 7, 60)
        found = service.recommend(row["user_id"], row["query"], n, **asks, **options)
        assert lists[row["request_id"]]["item_id"].tolist() == [item.item_id for item in found]
        unordered = service.recommend(
            row["user_id"], row["query"], n, **asks, **options | {"order": "as made"}
        )
        plain += [item.item_id for item in unordered] != [item.item_id for item in found]
    assert plain > 3  # the order has been at work


# -- the same bytes ------------------------------------------------------------------------------------------


def test_order_partitioning_and_kinds_of_columns_change_no_byte(whole, run, here, tmp_path):
    source, out, _ = whole
    table = pq.read_table(source)
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    parts = tmp_path / "parts"
    written(shuffled.slice(0, 13), parts / "day=1" / "a.parquet", row_group_size=5)
    written(shuffled.slice(13, 1), parts / "day=1" / "deeper" / "b.parquet")
    kinds = shuffled.slice(14).set_column(
        0, "request_id", shuffled["request_id"].slice(14).dictionary_encode()
    )
    numbers = kinds["n"].cast(pa.float64()).fill_null(float("nan"))  # as pandas writes
    kinds = kinds.set_column(4, "n", numbers)
    kinds = kinds.set_column(2, "query", kinds["query"].cast(pa.large_string()))
    written(kinds, parts / "c.parquet", row_group_size=11)
    written(shuffled.slice(0, 0), parts / "empty.parquet")
    (parts / "_SUCCESS").touch()
    (parts / "_temporary.parquet").write_bytes(b"half a file")
    playlists(run, parts, tmp_path / "out", here, SETTINGS, quiet=True)
    assert bytes_of(tmp_path / "out") == bytes_of(out)


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


# -- kill -9 -------------------------------------------------------------------------------------------------


def killed_at(point: int, job) -> bool:
    """Run `job` in a fork that gets SIGKILL before its `point`-th change of the disk; False if it ended before that."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # a deadlock ends it, and is told from the kill
        left = [point]

        def counting(change):
            def changed(*args, **kwargs):
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return change(*args, **kwargs)

            return changed

        for name in ("replace", "rename", "unlink", "mkdir", "fsync", "rmdir"):
            setattr(os, name, counting(getattr(os, name)))
        for owner, name in ((pq, "write_table"), (pq.ParquetWriter, "write_table")):
            setattr(owner, name, counting(getattr(owner, name)))
        try:
            job()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), f"the child ended with {code}"
    return code != 0


STRIDES = [5, pytest.param(1, marks=pytest.mark.slow)]


@pytest.mark.parametrize("stride", STRIDES)
def test_killed_at_any_change_of_the_disk_it_goes_on_to_the_same_bytes(
    run, here, tmp_path, monkeypatch, stride
):
    monkeypatch.setattr(playlist_shards, "SHARD_ROWS", 10)
    monkeypatch.setattr(playlist_shards, "PART_REQUESTS", 4)
    table = asked(20)
    source = written(pa.concat_tables([table, table.slice(0, 2)]), tmp_path / "requests.parquet")

    def job(folder: Path) -> dict:
        return playlists(run, source, folder, here, SETTINGS, quiet=True)

    expected = job(tmp_path / "undisturbed")
    assert (expected["counts"]["answered"], expected["counts"]["rejected"]) == (20, 2)
    point, redone = 0, Counter()
    while killed_at(point, lambda at=point: job(tmp_path / f"at-{at}")):
        folder = tmp_path / f"at-{point}"
        again = job(folder)
        assert bytes_of(folder) == bytes_of(tmp_path / "undisturbed"), point
        assert again["counts"] == expected["counts"], point
        assert again["results"] == expected["results"], point
        assert not (folder / WORK).exists()
        redone[again["last_call"]["answered"]] += 1
        point += stride
    assert point > 60
    assert len(redone) > 3  # a resumed run answers only what is left


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("finished", [True, False])
def test_killed_at_any_change_of_the_disk_while_it_begins_again(
    run, here, tmp_path, monkeypatch, finished, stride
):
    monkeypatch.setattr(playlist_shards, "SHARD_ROWS", 10)
    monkeypatch.setattr(playlist_shards, "PART_REQUESTS", 4)
    source = written(asked(12), tmp_path / "requests.parquet")
    old = replace(SETTINGS, seed=9, n=5)  # the same requests and cut, other answers

    def job(folder: Path, settings: Settings = SETTINGS, restart: bool = False) -> dict:
        return playlists(run, source, folder, here, settings, restart, quiet=True)

    expected = job(tmp_path / "undisturbed")
    before = tmp_path / "before"
    if finished:
        job(before, old)
    else:
        with pytest.raises(ZeroDivisionError):
            playlists(run, source, before, Stops(here, 2), old, quiet=True)
    outcomes, point = Counter(), 0
    while True:
        folder = tmp_path / f"at-{point}"
        shutil.copytree(before, folder)
        assert killed_at(point, lambda into=folder: job(into, restart=True))
        deleting = (folder / DELETED).exists()
        untouched = here_now(folder) == here_now(before) and not deleting
        if untouched:
            with pytest.raises(ValueError, match="was begun with something else"):
                job(folder)
            outcomes["as it was"] += 1
            again = job(folder, restart=True)
        else:
            again = job(
                folder
            )  # without --restart: the deletion is finished, and nothing of the old one is adopted
            outcomes["new"] += 1
        assert bytes_of(folder) == bytes_of(tmp_path / "undisturbed"), point
        assert again["results"] == expected["results"], point
        assert not (folder / WORK).exists()
        assert not (folder / DELETED).exists()
        if not untouched and not deleting and outcomes["new"] > 2:
            break
        point += stride
    assert outcomes["as it was"] >= 1
    assert point >= 10  # a deletion is so many changes at least


def here_now(folder: Path) -> list[str]:
    """The files of a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_work_without_a_plan_is_not_gone_on_with(whole, run, here, tmp_path):
    source, out, _ = whole
    with pytest.raises(ZeroDivisionError):
        playlists(run, source, tmp_path / "out", Stops(here, 0), SETTINGS, quiet=True)
    (work,) = (tmp_path / "out" / WORK).glob("*/")
    for stale in (work / "requests").iterdir():
        pq.write_table(pq.read_table(stale).slice(0, 1), stale)
    (tmp_path / "out" / WORK / "plan.json").unlink()
    playlists(run, source, tmp_path / "out", here, SETTINGS, quiet=True)
    assert bytes_of(tmp_path / "out") == bytes_of(out)


class Stops:
    """An engine that does some tasks and then fails."""

    name, workers = "stops", 1

    def __init__(self, inner: Here, after: int):
        self.inner, self.after = inner, after

    def run(self, work, tasks):
        yield from self.inner.run(work, tasks[: self.after])
        raise ZeroDivisionError


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
    source = written(asked(600), tmp_path / "requests.parquet")
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
    for files in (1, 2):  # 600 requests are five parts of 128
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
    assert last.stdout.startswith("600 requests: 600 answered with ")
    assert "600/600" in last.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["last_call"]["answered"] < 600
    lists = lists_of(out)
    assert len(lists) == 600
    assert all(frame["rank"].tolist() == list(range(1, len(frame) + 1)) for frame in lists.values())
    playlist_shards.SHARD_ROWS, playlist_shards.PART_REQUESTS = 16_384, 128  # as the command line has
    playlists(run, source, tmp_path / "whole", Here(), Settings(n=7, batch=8), quiet=True)
    assert bytes_of(tmp_path / "whole") == bytes_of(out)


def test_what_is_finished_is_not_done_again_and_another_plan_is_refused(whole, run, here, tmp_path):
    source, _, _ = whole
    out = tmp_path / "out"
    first = playlists(run, source, out, here, SETTINGS, quiet=True)
    assert playlists(run, source, out, here, SETTINGS, quiet=True) == first
    with pytest.raises(
        ValueError, match=r"seed was 3, is 4\. Give another --out, or begin again with --restart"
    ):
        playlists(run, source, out, here, Settings(n=7, batch=4, seed=4), quiet=True)
    longer = written(asked(71), tmp_path / "requests.parquet")
    with pytest.raises(ValueError, match=r"the request file requests\.parquet has changed"):
        playlists(run, longer, out, here, SETTINGS, quiet=True)
    more = written(asked(71), tmp_path / "folder" / "more.parquet").parent
    with pytest.raises(ValueError, match=r"more\.parquet is new; the request file requests\.parquet is gone"):
        playlists(run, more, out, here, SETTINGS, quiet=True)
    again = playlists(run, longer, out, here, SETTINGS, restart=True, quiet=True)
    assert again["counts"]["answered"] == 71


def test_feedback_absorbed_at_night_is_left_out_until_the_next_run(whole, run, here, tmp_path):
    source, out, _ = whole
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    assert killed_at(60, lambda: playlists(copy, source, tmp_path / "out", here, SETTINGS, quiet=True))
    everybody = [(f"u{user}", f"i{user % 7}", 2_000_000) for user in range(40)]
    Recommender.load(copy).update(everybody)
    manifest = playlists(copy, source, tmp_path / "out", here, SETTINGS, quiet=True)
    assert 0 < manifest["last_call"]["answered"] < 70
    assert bytes_of(tmp_path / "out") == bytes_of(out)
    with pytest.raises(ValueError, match=r"the run .* has other artifacts"):  # finished: tonight's are others
        playlists(copy, source, tmp_path / "out", here, SETTINGS, quiet=True)
    tonight = playlists(copy, source, tmp_path / "tonight", here, SETTINGS, quiet=True)
    assert (manifest["run"]["absorbed"], tonight["run"]["absorbed"]) == (0, 1)
    assert bytes_of(tmp_path / "tonight") != bytes_of(out)


def test_a_run_that_has_changed_meanwhile_is_refused(whole, run, here, tmp_path):
    source, _, _ = whole
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    Recommender.load(copy).update([("u1", "i5", 2_000_000)])
    assert killed_at(60, lambda: playlists(copy, source, tmp_path / "out", here, SETTINGS, quiet=True))
    shutil.rmtree(copy / "live")
    with pytest.raises(ValueError, match=r"the run .* has other artifacts"):
        playlists(copy, source, tmp_path / "out", here, SETTINGS, quiet=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"caps": {"colour": 2}}, "caps name the column 'colour'; this catalogue has kind"),
        ({"caps": {"kind": 0}}, r"caps\['kind'\] is 0; expected a whole number"),
        ({"method": "popularity", "sequence": True}, "Popularity ranks items one by one"),
        ({"method": "e2p_kto"}, "this run has no method 'e2p_kto'"),
    ],
)
def test_a_slip_under_restart_deletes_nothing(whole, run, here, tmp_path, wrong, message):
    source, out, manifest = whole
    shutil.copytree(out, tmp_path / "out")
    with pytest.raises(ValueError, match=message):
        playlists(run, source, tmp_path / "out", here, replace(SETTINGS, **wrong), restart=True, quiet=True)
    assert bytes_of(tmp_path / "out") == bytes_of(out)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest


def test_the_methods_that_are_taken_are_those_that_are_served(run):
    served = Recommender.load(run).methods.available()
    for method in served:
        refuse_impossible(Run.open(run), Settings(method=method))
    with pytest.raises(ValueError, match=f"it has {', '.join(served)}$"):
        refuse_impossible(Run.open(run), Settings(method="nonsense"))


def test_two_processes_cannot_write_one_folder(whole, run, here, tmp_path):
    source, _, _ = whole

    class Nosy:
        name, workers = "nosy", 1

        def run(self, work, tasks):
            with pytest.raises(ValueError, match="is being written by another prelude process"):
                playlists(run, source, tmp_path / "out", here, SETTINGS, quiet=True)
            yield from here.run(work, tasks)

    playlists(run, source, tmp_path / "out", Nosy(), SETTINGS, quiet=True)


def test_a_file_changed_behind_our_back_is_found_at_the_close(whole, run, here, tmp_path):
    source, _, _ = whole

    class Meddling:
        name, workers = "meddling", 1

        def run(self, work, tasks):
            yield from here.run(work, tasks)
            path = sorted((tmp_path / "out" / WORK).glob("*/done/playlists/*"))[2]
            table = pq.read_table(path)
            first = table["request_id"][0]
            keep = np.array([id_ != first for id_ in table["request_id"]])
            pq.write_table(table.filter(pa.array(keep)), path)

    with pytest.raises(ValueError, match=r"part-.* does not hold each of its \d+ requests once; delete it"):
        playlists(run, source, tmp_path / "out", Meddling(), SETTINGS, quiet=True)
    assert not (tmp_path / "out" / "manifest.json").exists()


# -- bad rows ------------------------------------------------------------------------------------------------


def test_bad_rows_are_set_aside_with_file_row_and_reason(run, here, tmp_path):
    rows = [
        {"request_id": "good", "user_id": "u1", "query": "even", "exclude": ["i1", "no such item", None]},
        {"request_id": "", "user_id": "u1"},
        {"request_id": None, "user_id": "u1"},
        {"request_id": "none wanted", "user_id": "u1", "n": 0.0},
        {"request_id": "half an item", "user_id": "u1", "n": 2.5},
        {"request_id": "half a second", "user_id": "u1", "time": 5.5},
        {"request_id": "milliseconds", "user_id": "u1", "time": 1_700_000_000_000.0},
        {"request_id": "before time", "user_id": "u1", "time": -1.0},
        {"request_id": "twin", "user_id": "u1", "query": "even"},
        {"request_id": "twin", "user_id": "u1", "query": "even"},
        {"request_id": "rival", "user_id": "u1", "query": "even"},
        {"request_id": "rival", "user_id": "u2", "query": "even"},
        {"request_id": "all excluded", "exclude": [f"i{item}" for item in range(60)]},
        {"request_id": "none allowed", "allow": []},
        {"request_id": "only strangers allowed", "allow": ["no such item"]},
        {"request_id": "stranger", "user_id": "somebody new", "allow": ["i1", "i2", "no such item"]},
    ]  # fmt: skip
    floats = pa.schema([*(SCHEMA.field(name) for name in SCHEMA.names if name not in ("time", "n")),
                        ("time", pa.float64()), ("n", pa.float64())])  # fmt: skip
    written(pa.Table.from_pylist(rows, floats), tmp_path / "requests" / "a" / "one.parquet", row_group_size=3)
    surrogate = pa.array([b"fine", "b\ud800d".encode(errors="surrogatepass"), b"caf\xe9"])
    broken = pa.table({
        "request_id": ["text", "half a pair", "latin"], "user_id": ["u1"] * 3, "query": surrogate,
    })  # fmt: skip
    written(broken, tmp_path / "requests" / "two.parquet")
    manifest = playlists(run, tmp_path / "requests", tmp_path / "out", here, SETTINGS, quiet=True)
    lists, bad = lists_of(tmp_path / "out"), rejected(tmp_path / "out")
    assert sorted(lists) == ["good", "stranger", "text", "twin"]
    assert set(lists["stranger"]["item_id"]) == {"i1", "i2"}
    left = "nothing is left to recommend: every item is excluded, seen, or not among the allowed ones that the catalogue has"
    empty = "request_id is empty; every request needs an id of its own"
    rivals = "request_id is used by 2 rows that differ (the first: a/one.parquet row 11); none is answered"
    no_text = "query is not text: bytes that are not UTF-8 (half a surrogate pair is not)"
    assert [tuple(row) for row in bad.fillna("null").itertuples(index=False)] == [
        ("", "a/one.parquet", 2, empty),
        ("null", "a/one.parquet", 3, empty),
        ("none wanted", "a/one.parquet", 4, "n is 0; ask for a whole number of items, at least one"),
        ("half an item", "a/one.parquet", 5, "n is 2.5; ask for a whole number of items, at least one"),
        ("half a second", "a/one.parquet", 6, "time 5.5 is not a Unix time; expected whole seconds since 1970"),
        ("milliseconds", "a/one.parquet", 7, "time 1700000000000 looks like milliseconds; expected whole seconds since 1970"),
        ("before time", "a/one.parquet", 8, "time -1 is not a Unix time; expected whole seconds since 1970"),
        ("twin", "a/one.parquet", 10, "the same request as a/one.parquet row 9, which is answered"),
        ("rival", "a/one.parquet", 11, rivals),
        ("rival", "a/one.parquet", 12, rivals),
        ("all excluded", "a/one.parquet", 13, left),
        ("none allowed", "a/one.parquet", 14, left),
        ("only strangers allowed", "a/one.parquet", 15, left),
        ("half a pair", "two.parquet", 2, no_text),
        ("latin", "two.parquet", 3, no_text),
    ]  # fmt: skip
    counts = manifest["counts"]
    assert (counts["requests"], counts["answered"], counts["rejected"]) == (19, 4, 15)
    assert (counts["unknown_users"], counts["unknown_items_excluded"], counts["unknown_items_allowed"]) == (
        1,
        1,
        2,
    )


def test_ids_may_be_numbers_and_are_one_with_their_text(run, here, tmp_path):
    written(
        pa.table({"request_id": [5, 6], "user_id": [1.0, float("nan")], "query": [None, None]}),
        tmp_path / "in" / "a.parquet",
    )
    written(pa.table({"request_id": ["5"], "user_id": ["9"], "query": [None]}), tmp_path / "in" / "b.parquet")
    playlists(run, tmp_path / "in", tmp_path / "out", here, SETTINGS, quiet=True)
    assert list(lists_of(tmp_path / "out")) == ["6"]
    assert rejected(tmp_path / "out")["request_id"].tolist() == ["5", "5"]
    table = next(Source(tmp_path / "in").tables(7))
    assert table["user_id"].to_pylist() == ["1", None]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"request_id": ["a"], "user_id": ["u"]}, "has no column 'query' .it has request_id, user_id.; requests need"),
        ({"request_id": ["a"], "user_id": ["u"], "query": [7]}, "column 'query' holds int64; expected text"),
        ({"request_id": [True], "user_id": ["u"], "query": ["q"]}, "column 'request_id' holds bool; expected text or whole"),
        ({"request_id": ["a"], "user_id": ["u"], "query": ["q"], "n": ["3"]}, "column 'n' holds string; expected whole numbers"),
        ({"request_id": ["a"], "user_id": ["u"], "query": ["q"], "exclude": ["i1,i2"]}, "column 'exclude' holds string; expected lists"),
        ({"request_id": [], "user_id": [], "query": []}, "holds no requests"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used_are_refused_before_anything_is_written(
    run, here, tmp_path, columns, message
):
    source = written(pa.table(columns), tmp_path / "requests.parquet")
    with pytest.raises(DataError, match=message):
        playlists(run, source, tmp_path / "out", here, SETTINGS)
    assert not (tmp_path / "out").exists()


def test_other_mistakes_are_one_line(whole, run, here, tmp_path):
    source, _, _ = whole
    (tmp_path / "folder").mkdir()
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(source.read_bytes()[:-100])
    stranger = tmp_path / "stranger"
    (stranger / "playlists").mkdir(parents=True)
    for requests, out, settings, message in (
        (tmp_path / "folder", tmp_path / "out", SETTINGS, r"has no \*\.parquet files"),
        (tmp_path / "nowhere", tmp_path / "out", SETTINGS, "does not exist"),
        (torn, tmp_path / "out", SETTINGS, "cannot be read as Parquet"),
        (source.parent, source.parent / "deep" / "out", SETTINGS, "lies in .*, whose files are the requests"),
        (source, stranger, SETTINGS, "playlists is there and not of a run of playlists"),
        (
            source,
            tmp_path / "out",
            Settings(method="nonsense"),
            "this run has no method 'nonsense'; it has popularity",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            playlists(run, requests, out, here, settings, restart=True)
    assert not (tmp_path / "out").exists()
    assert (stranger / "playlists").exists()
    for wrong in (
        {"n": 0},
        {"n": 1001},
        {"strength": 1.5},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"batch": 0},
        {"memory_mb": 0},
    ):
        with pytest.raises(ValueError, match=f"--{next(iter(wrong)).replace('_', '-')} "):
            Settings(**wrong)
    with pytest.raises(ValueError, match="order is 'best'; expected one of 'as made'"):
        Settings(order="best")


# -- rows that fail, rows that are large ---------------------------------------------------------------------------


def test_a_request_that_fails_is_set_aside_and_the_others_of_its_batch_are_answered(
    whole, run, here, tmp_path, monkeypatch
):
    source, out, _ = whole
    bad = {"r004", "r012", "r013"}

    def failing(recommender, requests, *options):
        if bad & {request.request_id for request in requests}:
            raise ValueError("no such luck\nwith frames")
        return answer(recommender, requests, *options)

    monkeypatch.setattr("serving.playlists.answers.answer", failing)
    manifest = playlists(run, source, tmp_path / "out", Here(), SETTINGS, quiet=True)
    assert (manifest["counts"]["answered"], manifest["counts"]["rejected"]) == (67, 3)
    why = rejected(tmp_path / "out").set_index("request_id")["reason"]
    assert why.to_dict() == dict.fromkeys(bad, "cannot be answered: ValueError: no such luck")
    expected, found = lists_of(out), lists_of(tmp_path / "out")
    assert expected.keys() - found.keys() == bad
    for id_, frame in found.items():
        assert frame["item_id"].tolist() == expected[id_]["item_id"].tolist()
    monkeypatch.setattr("serving.playlists.answers.answer", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # when all of a part fail it is not the rows
        playlists(run, source, tmp_path / "none", Here(), SETTINGS, quiet=True)


def test_what_the_others_get_does_not_depend_on_who_failed_with_them():
    asked = [SimpleNamespace(id=name) for name in "abcdef"]

    def reply(requests, n):
        names = "".join(request.id for request in requests)
        if {"a", "b"} <= set(names) or "d" in names:
            raise RuntimeError(names)
        return [f"{n} of {names}"] * len(requests)

    answers, errors = each_or_why(reply, [*asked[:1], *asked[2:]], 5)
    assert answers == dict.fromkeys([0, 1, 3, 4], "5 of acef")  # the batch once more, without the culprit
    assert {at: str(error) for at, error in errors.items()} == {2: "d"}
    with pytest.raises(RuntimeError, match=r"^ab$"):  # no request fails alone, so none is to blame
        each_or_why(reply, asked[:2], 5)
    for fatal in (MemoryError, KeyboardInterrupt, OSError, torch.OutOfMemoryError):

        def dying(requests, n, fatal=fatal):
            raise fatal

        with pytest.raises(fatal):
            each_or_why(dying, asked, 5)


def test_more_than_1000_items_or_too_many_ids_are_reasons(run, here, tmp_path, monkeypatch):
    monkeypatch.setattr("serving.answering.limits.MOST_IDS", 4)
    rows = [
        {"request_id": "fine", "n": 1000, "exclude": ["i1"] * 4},
        {"request_id": "long", "n": 1001},
        {"request_id": "huge", "n": 2**52},
        {"request_id": "many", "allow": ["i1"] * 5},
    ]
    source = written(pa.Table.from_pylist(rows, SCHEMA), tmp_path / "requests.parquet")
    playlists(run, source, tmp_path / "out", here, SETTINGS, quiet=True)
    assert lists_of(tmp_path / "out")["fine"]["rank"].tolist() == list(range(1, 60))
    assert rejected(tmp_path / "out")["reason"].tolist() == [
        "n is 1001; at most 1000", f"n is {2**52}; at most 1000", "allow has 5 ids; at most 4",
    ]  # fmt: skip


@pytest.mark.parametrize("encoded", [False, True])
def test_rows_are_read_within_bytes_whatever_their_size(tmp_path, monkeypatch, encoded):
    monkeypatch.setattr(playlist_requests, "BATCH_BYTES", 1 << 20)
    count, query = 2000, "q" * 5000  # 10 MB of one text, which a Parquet dictionary holds once
    queries = pa.array([query] * count)
    table = pa.table({
        "request_id": [str(row) for row in range(count)], "user_id": ["u"] * count,
        "query": queries.dictionary_encode() if encoded else queries,
    })  # fmt: skip
    source = written(table, tmp_path / "requests.parquet")
    assert source.stat().st_size < 1 << 20
    tables = list(Source(source).tables(7))
    one = playlist_requests.READ_ROWS * 5100  # rows that are decoded at once are the finest cut
    assert max(some.nbytes for some in tables) < (1 << 20) + one
    assert sum(map(len, tables)) == count
    assert [row for some in tables for row in some["row"].to_pylist()] == list(range(1, count + 1))


def test_bad_rows_pile_up_in_no_shard(run, tmp_path):
    count = 5000
    table = pa.table(
        {"request_id": pa.nulls(count, pa.string()), "user_id": ["u1"] * count, "query": ["q"] * count}
    )
    table = pa.concat_tables(
        [table, pa.table({"request_id": ["good"], "user_id": ["u1"], "query": ["even"]})]
    )
    source = Source(written(table, tmp_path / "requests.parquet"))
    (tmp_path / "dealt").mkdir()
    assert sum(playlist_shards.deal(source, tmp_path / "dealt", 3, 7)) == count + 1
    bad = pq.read_table(tmp_path / "dealt" / "rejected.parquet")
    assert bad["row"].to_pylist() == list(range(1, count + 1))
    shards = [playlist_shards.dealt(tmp_path / "dealt", shard) for shard in range(3)]
    assert sum(Path(shard).stat().st_size for shard in shards) < 20_000


def test_a_shard_is_sorted_as_a_plain_loop_sorts_it(tmp_path, monkeypatch):
    monkeypatch.setattr(playlist_shards, "PIECE_BYTES", 400)
    monkeypatch.setattr(playlist_shards, "PIECE_ROWS", 6)
    monkeypatch.setattr(playlist_shards, "DEALT_BYTES", 300)
    generator, part = np.random.default_rng(3), 5
    rows = []
    for _ in range(200):
        number = int(generator.integers(0, 120))
        odd = generator.random() < 0.15
        rows.append({"request_id": f"r{number}", "user_id": "u1", "query": "x" * (number % 50),
                     "exclude": ["i1", "i2"] if odd else ["i1"]})  # fmt: skip
    source = Source(written(pa.Table.from_pylist(rows, SCHEMA), tmp_path / "requests.parquet"))
    (tmp_path / "dealt").mkdir()
    assert sum(playlist_shards.deal(source, tmp_path / "dealt", 1, 7)) == 200
    names = ["requests.parquet"]
    shard = playlist_shards.dealt(tmp_path / "dealt", 0)
    fine, bad = tmp_path / "fine", tmp_path / "bad"
    assert playlist_shards.sort_shard(shard, names, fine, bad, part)
    answered, reasons = [], []
    for id_ in sorted({row["request_id"] for row in rows}):
        places = [place for place, row in enumerate(rows) if row["request_id"] == id_]
        alike = all(rows[place] == rows[places[0]] for place in places)
        first = f"requests.parquet row {places[0] + 1}"
        answered += [(id_, places[0] + 1)] if alike else []
        why = f"the same request as {first}, which is answered" if alike else (
            f"request_id is used by {len(places)} rows that differ (the first: {first}); none is answered")  # fmt: skip
        reasons += [(id_, place + 1, why) for place in places[alike:]]
    file = pq.ParquetFile(fine)
    table = file.read()
    assert list(zip(table["request_id"].to_pylist(), table["row"].to_pylist(), strict=True)) == answered
    assert [len(e) for e in table["exclude"].to_pylist()] == [
        len(rows[row - 1]["exclude"]) for _, row in answered
    ]
    out = pq.read_table(bad).to_pylist()
    assert [(row["request_id"], row["row"], row["reason"]) for row in out] == reasons
    groups = playlist_shards.groups_of(file.metadata, part)
    cut = [file.read_row_groups(some, ["row"])["row"].to_pylist() for some in groups]
    assert cut == [[row for _, row in answered[at : at + part]] for at in range(0, len(answered), part)]
    assert max(map(len, groups)) > 1  # a part of large rows is in pieces

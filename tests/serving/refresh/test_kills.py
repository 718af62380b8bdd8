"""Wherever a refresh is killed, a whole version serves, and the same command again comes to the same end."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from functools import partial

import numpy as np
import pytest

from recsys.artifacts import versions
from recsys.artifacts.paths import RunError
from recsys.run import Run
from serving import Recommender
from serving.refresh.refresh import refresh
from tests.support.dying import KILLER, Killed, child, ended
from tests.support.nights import Night, night_of
from tests.support.worlds import hashes_of


def held(run) -> list[tuple[str, int, int]]:
    """Every event that is in somebody's history beyond the data."""
    service = Recommender.load(run)
    live = service.live.histories
    rows = [
        (user, int(item), int(time))
        for user, number in live.numbers().items()
        for item, time in zip(*live.events(number), strict=True)
        if time >= 1_100_000
    ]
    return sorted(rows)


def answers(run) -> list[tuple[str, float]]:
    found = Recommender.load(run).recommend("u1", n=5, method="no_context", history=["i1", "i3"])
    return [(one.item_id, one.score) for one in found]


def killed_at(night, step: int, is_full: bool = False) -> bool:
    """Refresh, killed before its change number `step` of the file system, or the disk full from then on; was it?"""
    KILLER.left, KILLER.is_full = step, is_full
    try:
        refresh(night.run.path, **night.files)
    except Killed:
        return True
    finally:
        KILLER.left, KILLER.is_full = None, False
    return False


MANY = 10**6


def check_kills(world_run, tmp_path, chosen) -> int:
    """`chosen` takes the number of changes of the file system that a refresh makes to those before which it is killed."""
    whole = night_of(world_run[1], tmp_path / "whole")
    before = answers(whole.run.path)
    KILLER.left = MANY
    refresh(whole.run.path, **whole.files)
    changes, KILLER.left = MANY - KILLER.left, None
    after, events = answers(whole.run.path), held(whole.run.path)
    assert before != after
    assert len(events) == len(set(events)) > 50
    died = 0
    for number, step in enumerate(chosen(changes)):
        night = night_of(world_run[1], tmp_path / f"killed-{number}")
        if not killed_at(night, step):  # the first of a process makes a few changes more
            assert step >= changes - 4, step
            continue
        died += 1
        serves = versions.pointer(night.run.path).serves
        assert answers(night.run.path) == (after if serves else before), step
        assert held(night.run.path) in ([], events), step
        refresh(night.run.path, **night.files)
        assert answers(night.run.path) == after, step
        assert held(night.run.path) == events, step
        assert not list((night.run.path / "versions").glob(".partial-*"))
    return died


@pytest.fixture(autouse=True)
def _no_flushing(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)  # for power failures, not for kills; slow


@pytest.mark.parametrize("times", [1, pytest.param(100, marks=pytest.mark.slow)])
def test_a_kill_between_two_changes_of_the_file_system_leaves_a_whole_version(world_run, tmp_path, times):
    def chosen(changes: int) -> list[int]:
        return [changes - 8] if times == 1 else np.random.default_rng(0).integers(0, changes, times).tolist()

    assert check_kills(world_run, tmp_path, chosen) >= 0.9 * times


@pytest.mark.parametrize("times", [1, pytest.param(100, marks=pytest.mark.slow)])
def test_a_process_that_the_system_kills_leaves_a_whole_version(world_run, tmp_path, times):
    """SIGKILL at random moments of a process that refreshes; begun again, it comes to the same bytes as one that nobody killed."""
    whole = night_of(world_run[1], tmp_path / "whole")
    before, started = answers(whole.run.path), time.monotonic()
    assert ended(child(partial(refresh, whole.run.path, **whole.files))) == 0
    takes = time.monotonic() - started
    after, events, built = answers(whole.run.path), held(whole.run.path), bytes_of(whole.run.path)
    assert before != after
    assert len(events) == len(set(events)) == 90
    chance, outcomes, number = random.Random(1), Counter[str](), 0
    while outcomes["old version"] + outcomes["new version"] < times:
        night, number, started = (
            night_of(world_run[1], tmp_path / f"killed-{number}"),
            number + 1,
            time.monotonic(),
        )
        pid = child(partial(refresh, night.run.path, **night.files))
        time.sleep(chance.uniform(0, takes))
        os.kill(pid, signal.SIGKILL)
        if ended(pid) == 0:  # it was done before
            takes, outcomes["done before"] = (
                min(takes, time.monotonic() - started),
                outcomes["done before"] + 1,
            )
            continue
        serves, there = versions.pointer(night.run.path).serves, held(night.run.path)
        assert answers(night.run.path) == (after if serves else before), number
        assert there in ([], events), number
        outcomes["new version" if serves else "old version"] += 1
        outcomes["events absorbed"] += there == events
        assert ended(child(partial(refresh, night.run.path, **night.files))) == 0
        assert bytes_of(night.run.path) == built, number
        assert answers(night.run.path) == after
        assert held(night.run.path) == events
        shutil.rmtree(night.folder)
    print(f"{number} refreshes of at most {takes:.2f} s: {dict(outcomes)}")


def bytes_of(run) -> dict[str, str]:
    """Hashes of all files of the versions; of what a version says of itself without its clock."""
    found = hashes_of(run / "versions")
    for name in [name for name in found if name.endswith(versions.FACTS)]:
        facts = json.loads((run / "versions" / name).read_text())
        found[name] = json.dumps(
            {key: value for key, value in facts.items() if key not in ("seconds", "made_unix_s")}
        )
    return found


def test_two_at_once_is_one_after_the_other(night):
    with night.run.lock(), pytest.raises(RunError, match="being written by another prelude process"):
        refresh(night.run.path, **night.files)
    assert versions.pointer(night.run.path).serves == 0


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_two_processes_at_once_and_updates_beside_them(world_run, tmp_path, times):
    """Two refreshes and an update, begun together: one version, all events once, and who came second was told so."""
    chance = random.Random(2)
    for number in range(times):
        night = night_of(world_run[1], tmp_path / f"both-{number}")
        path, later = night.run.path, [(f"later{at}", f"i{at}", 1_400_000 + at) for at in range(9)]

        def refreshes(wait: float, night=night) -> None:
            time.sleep(wait)
            try:
                refresh(night.run.path, **night.files)
            except RunError as error:
                os._exit(3 if "being written by another prelude process" in str(error) else 4)

        service = Recommender.load(path)
        pids = [
            child(partial(refreshes, chance.uniform(0, 0.5))),
            child(partial(refreshes, 0.0)),
            child(partial(service.update, later, "later")),
        ]
        codes = [ended(pid) for pid in pids]
        assert codes[2] == 0
        assert set(codes[:2]) <= {0, 3}
        assert 0 in codes[:2]
        assert versions.numbers(path) == [1]
        events = held(path)
        assert len(events) == len(set(events)) == 99
        shutil.rmtree(night.folder)


@pytest.mark.parametrize("step", [1, 12])
def test_a_full_disk_is_one_clear_line(night, step):
    before = answers(night.run.path)
    with pytest.raises(RunError, match=r"the disk is full .*the version before goes on") as told:
        killed_at(night, step, is_full=True)
    assert "\n" not in str(told.value)
    assert answers(night.run.path) == before
    assert not list((night.run.path / "versions").glob(".partial-*"))


@pytest.mark.slow
def test_a_small_disk_holds_the_version_before_or_the_whole_night(world_run, tmp_path, monkeypatch):
    """On a disk of its own with more and more room, without the look at how much there is: each write is the one that fails, in turn."""
    files, disk = night_of(world_run[1], tmp_path / "files"), tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", disk], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        shutil.copytree(world_run[1].path, disk / "run")
        night = Night(Run.open(disk / "run"), files.folder)
        monkeypatch.setattr("serving.refresh.folder.free_bytes", lambda path: 1 << 40)
        before, there, said = answers(night.run.path), shutil.disk_usage(disk).used, Counter[str]()
        refresh(files.run.path, **files.files)
        after, events = answers(files.run.path), held(files.run.path)

        def refreshes() -> None:
            try:
                refresh(night.run.path, **night.files)
            except RunError as error:
                is_clear = "\n" not in str(error) and (
                    "the disk is full" in str(error) or "no room left" in str(error)
                )
                os._exit(3 if is_clear else 4)

        for room in range(0, 1 << 24, 1 << 14):
            subprocess.run(["mount", "-o", f"remount,size={there + room}", disk], check=True)
            code, serves = ended(child(refreshes)), versions.pointer(night.run.path).serves
            assert code in (0, 3), room
            assert answers(night.run.path) == (after if serves else before), room
            assert held(night.run.path) in ([events] if code == 0 else [[], events]), room
            assert not list((night.run.path / "versions").glob(".partial-*")), room
            said[f"ended with {code}, version {serves}"] += 1
            if code == 0:
                break
        print(f"room by 16 KiB: {dict(said)}")
        assert said["ended with 3, version 0"] >= 5
        assert said["ended with 0, version 1"] == 1
    finally:
        subprocess.run(["umount", "-l", disk], check=True)

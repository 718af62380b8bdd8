"""Wherever a refresh is killed, a whole version serves, and the same command again comes to the same end."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from recsys.artifacts import versions
from recsys.artifacts.paths import RunError
from recsys.run import Run
from serving import Recommender
from serving.refresh.refresh import go_back, refresh
from serving.user_state import delete
from tests.support.dying import KILLER, Killed
from tests.support.nights import NEW, night_of
from tests.support.paths import ROOT


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
    for step in chosen(changes):
        night = night_of(world_run[1], tmp_path / f"killed-{step}")
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


def folder(tmp_path, name: str):
    path = tmp_path / name
    path.mkdir()
    return path


@pytest.fixture
def places(tmp_path):
    """Folders made when they are asked for."""

    class Places:
        def __truediv__(self, name):
            return folder(tmp_path, name)

    return Places()


def test_a_kill_leaves_a_whole_version(world_run, places):
    assert check_kills(world_run, places, lambda changes: (changes - 8,)) == 1


@pytest.mark.slow
def test_a_kill_at_a_hundred_moments_leaves_a_whole_version(world_run, places):
    """A moment is one between two changes of the file system; a hundred of them at random."""

    def chosen(changes: int) -> list[int]:
        return sorted(np.random.default_rng(0).integers(0, changes, 100).tolist())

    places_ = iter(range(100))

    class Numbered:
        def __truediv__(self, name):
            return places / f"{next(places_)}-{name}" if name != "whole" else places / name

    assert check_kills(world_run, Numbered(), chosen) >= 90


@pytest.mark.slow
def test_processes_killed_by_the_system_leave_a_whole_version(night):
    """SIGKILL at random moments of real commands."""
    words = [sys.executable, "-m", "serving.cli", "refresh", str(night.run.path)]
    for name, path in night.files.items():
        words += [f"--{name.replace('_', '-')}", str(path)]
    before = answers(night.run.path)
    for seconds in np.random.default_rng(1).uniform(2, 20, 12):
        process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(float(seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if versions.pointer(night.run.path).serves == 0:
            assert answers(night.run.path) == before
        assert len(held(night.run.path)) in (0, 90)
    refresh(night.run.path, **night.files)
    events = held(night.run.path)
    assert len(events) == len(set(events)) == 90


def test_two_at_once_is_one_after_the_other(night):
    with night.run.lock(), pytest.raises(RunError, match="being written by another prelude process"):
        refresh(night.run.path, **night.files)
    assert versions.pointer(night.run.path).serves == 0


@pytest.mark.parametrize("step", [1, 12])
def test_a_full_disk_is_one_clear_line(night, step):
    before = answers(night.run.path)
    with pytest.raises(RunError, match=r"the disk is full .*the version before goes on") as told:
        killed_at(night, step, is_full=True)
    assert "\n" not in str(told.value)
    assert answers(night.run.path) == before
    assert not list((night.run.path / "versions").glob(".partial-*"))


def test_a_deleted_person_stays_deleted(night):
    """Through the same night again, another night, going back and forth, and export and import."""
    from serving.export.folder import export_run, import_run

    path = night.run.path
    refresh(path, **night.files)
    assert any(user == "u7" for user, _, _ in held(path))
    delete(Run.open(path), "u7")
    stages = [json.dumps(row) for row in traces_of(path, "u7")]
    assert stages == []
    refresh(path, **night.files)  # the same files, which have them
    assert not knows(path, "u7")
    go_back(path)
    assert not knows(path, "u7")
    go_back(path, 1)
    assert not knows(path, "u7")
    export_run(path, night.folder / "out")
    assert import_run(night.folder / "out", night.folder / "imported")
    assert not knows(night.folder / "imported", "u7")
    items = {item for item, _ in answers(night.folder / "imported")}
    assert items == {item for item, _ in answers(path)}
    assert items & set(NEW) == {item for item, _ in answers(path)} & set(NEW)


def knows(path, user: str) -> bool:
    return Recommender.load(path).live.histories.user_index(user) is not None


def traces_of(path, user: str) -> list[str]:
    """Files below a run that have the id between quotes, or as a cell of a Parquet file."""
    import pyarrow.parquet as pq

    found = []
    for file in sorted(one for one in path.rglob("*") if one.is_file()):
        if file.suffix == ".parquet":
            table = pq.read_table(file)
            if "user_id" in table.column_names and user in table["user_id"].to_pylist():
                found.append(str(file))
        elif file.suffix == ".json" and f'"{user}"' in file.read_text():
            found.append(str(file))
    return found

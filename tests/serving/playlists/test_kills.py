"""Killed at any change of the disk, a playlist run goes on to the same bytes."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.playlists import shards as playlist_shards
from serving.playlists.folder import DELETED, WORK
from serving.playlists.job import playlists
from serving.playlists.plan import Settings
from tests.support.engines import Here
from tests.support.playlist_files import SETTINGS, asked, bytes_of, killed_at, written

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

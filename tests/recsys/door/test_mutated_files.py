"""Damaged and altered files through the door: one clear message or a data set, no traceback, and the run before stays as it was.

Each mutant is a small file of one kind (interactions, items, queries, user or item vectors) in one format, altered by one seeded
mutation; `prepare` or the reader of vectors takes it. What is raised must be a `ValueError` that names the file in one line.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from recsys.data.config import PrepareConfig
from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.door.vectors import read_vectors
from recsys.run import Run
from recsys.seeds import rng
from tests.support.mutants import FORMATS, MUTANTS, frames, mutated

KINDS = ("interactions", "items", "queries", "user vectors", "item vectors")


def test_they_are_two_thousand():
    """The others go through the doors of serving: tests/serving/test_mutated_files.py and export/test_mutated_exports.py."""
    assert sum(MUTANTS.values()) >= 2000


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Path, Run]:
    folder = tmp_path_factory.mktemp("mutants")
    for kind, frame in frames().items():
        frame.to_parquet(folder / f"{kind}.parquet")
    run = Run.create(folder / "run")
    prepare(config_of(folder, "interactions", folder / "interactions.parquet"), run)
    return folder, run


def config_of(folder: Path, kind: str, path: Path) -> PrepareConfig:
    files = {name: folder / f"{name}.parquet" for name in ("interactions", "items", "queries")} | {kind: path}
    return PrepareConfig(source="files", **files, split={"kind": "leave_last_out"})


@pytest.mark.parametrize("part", range(10))
def test_mutants_are_read_or_refused_in_one_line(world, tmp_path, part):
    folder, run = world
    whole = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    tables, outcomes = frames(), Counter[str]()
    index = {
        name: number
        for number, name in enumerate([*(f"u{n}" for n in range(6)), *(f"i{n}" for n in range(8))])
    }
    for number in range(part, MUTANTS["prepare and brought vectors"], 10):
        draw = rng(number, "mutant")
        kind, form = KINDS[number // 10 % len(KINDS)], str(draw.choice(FORMATS))
        path = tmp_path / f"mutant{number}.{form}"
        if not mutated(tables[kind], path, draw):
            outcomes["no file"] += 1
            continue
        try:
            if "vectors" in kind:
                read_vectors(path, "user_id" if kind == "user vectors" else "item_id", index)
            else:
                other = Run.create(tmp_path / "other")
                prepare(config_of(folder, kind, path), other)
                assert len(Dataset.load(other).users)
            outcomes["read"] += 1
        except ValueError as error:
            message = str(error)
            assert "\n" not in message, (number, message)
            assert (
                path.name in message
                or "split" in message
                or "queries" in message
                or "items of the" in message
            ), (number, message)
            if (tmp_path / "other").exists():
                assert not list((tmp_path / "other").glob("prepare*"))
                assert not list((tmp_path / "other").glob(".partial*"))
            outcomes["refused"] += 1
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == whole
    assert len(Dataset.load(run).users) == 42
    assert min(outcomes["read"], outcomes["refused"]) > 20
    assert outcomes["no file"] < 12

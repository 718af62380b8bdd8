"""Damaged and altered files through the doors of a finished run: one clear message or an answer, and the run is as it was.

Requests of playlists, feedback, labelled lists, the items and queries that a run is prepared from again, and configurations;
`tests.support.mutants` says how many of each, and tests/recsys/door/test_mutated_files.py has those of `prepare` and of vectors.
"""

from __future__ import annotations

import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from recsys.artifacts.paths import RunError
from recsys.data.config import PrepareConfig
from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.door.notices import Notices
from recsys.engagement.from_file import read_lists
from recsys.run import Run
from recsys.seeds import rng
from serving import Recommender
from serving.answering.feedback_files import read_feedback
from serving.config.run import load_config
from serving.config.truth import SECTIONS, config_of, out_of_date
from serving.playlists.requests import Source
from tests.support.mutants import FORMATS, MUTANTS, mutated, told
from tests.support.worlds import hashes_of

LATER = 2_000_000  # after the world's last event


@pytest.fixture
def run(world_run, tmp_path) -> Run:
    return Run.open(shutil.copytree(world_run[1].path, tmp_path / "run"))


def of_requests() -> pd.DataFrame:
    frame = pd.DataFrame({"request_id": [f"r{n}" for n in range(8)], "user_id": [f"u{n}" for n in range(8)]})
    return frame.assign(query="even", time=LATER, n=5, exclude=[["i1", "i2"]] * 8)


def of_feedback(number: int) -> pd.DataFrame:
    people, items = [f"u{n}" for n in range(8)], [f"i{n}" for n in range(8)]
    times = LATER + 10 * number + np.arange(8)  # of each file its own, so that none is known already
    return pd.DataFrame({"user_id": people, "item_id": items, "timestamp": times, "event": "view"})


def of_lists() -> pd.DataFrame:
    frame = of_feedback(0).drop(columns="event")
    return frame.assign(query="even", engaged=[1, 0] * 4)


def test_requests_of_playlists(tmp_path):
    outcomes = Counter[str]()
    for number in range(MUTANTS["requests of playlists"]):
        draw = rng(number, "mutated requests")
        path = tmp_path / f"mutant{number}.{draw.choice(FORMATS)}"
        frame = of_requests()
        if path.suffix not in (".parquet", ".arrow", ".jsonl"):
            frame["exclude"] = "i1|i2"
        if not mutated(frame, path, draw):
            continue
        try:
            rows = [row for table in Source(path).tables(7) for row in table.to_pylist()]
            assert rows
            assert all(row["reason"] is None or "\n" not in row["reason"] for row in rows)
            outcomes["read"] += 1
        except ValueError as error:
            told(error, path.name)
            outcomes["refused"] += 1
    assert min(outcomes["read"], outcomes["refused"]) > 15, outcomes
    assert outcomes.total() > 0.9 * MUTANTS["requests of playlists"]


def test_feedback(run, tmp_path):
    service, outcomes = Recommender.load(run.path), Counter[str]()
    absorbed = 0
    for number in range(MUTANTS["feedback"]):
        draw = rng(number, "mutated feedback")
        path = tmp_path / f"mutant{number}.{draw.choice(FORMATS)}"
        if not mutated(of_feedback(number), path, draw):
            continue
        before = hashes_of(run.path)
        try:
            file = read_feedback(run, path, {})
            if number % 5 == 0:  # each trains rows of P_u
                done = service.update(file.events, place=file.place)
                absorbed += done.events
            outcomes["read"] += 1
        except ValueError as error:
            told(error, path.name)
            outcomes["refused"] += 1
            assert hashes_of(run.path) == before
    assert min(outcomes["read"], outcomes["refused"]) > 15, outcomes
    assert absorbed > 8
    assert len(Recommender.load(run.path).recommend("u3", n=5)) == 5


def test_labelled_lists(run, tmp_path):
    data, outcomes = Dataset.load(run), Counter[str]()
    for number in range(MUTANTS["labelled lists"]):
        draw = rng(number, "mutated lists")
        path = tmp_path / f"mutant{number}.{draw.choice(FORMATS)}"
        if not mutated(of_lists(), path, draw):
            continue
        try:
            frame = read_lists(path, {}, data, Notices(), least_known=0.5)
            assert ((frame["item"] >= 0) & frame["engaged"].isin([True, False])).all()
            outcomes["read"] += 1
        except ValueError as error:
            told(error, path.name)
            outcomes["refused"] += 1
    assert min(outcomes["read"], outcomes["refused"]) > 10, outcomes


def test_files_that_a_finished_run_is_prepared_from_again(run, world_run, tmp_path):
    """What is refused leaves the run answering as before; what is read makes it out of date, and it says so."""
    config = world_run[0].prepare
    tables = {
        "items": pd.read_csv(config.items)[:30],
        "queries": pd.read_csv(config.queries),
    }
    before, outcomes = hashes_of(run.path), Counter[str]()
    for number in range(MUTANTS["files of a finished run"]):
        draw = rng(number, "mutated sources")
        kind = str(draw.choice(list(tables)))
        path = tmp_path / f"mutant{number}.{draw.choice(FORMATS)}"
        if not mutated(tables[kind], path, draw):
            continue
        there = Run.open(shutil.copytree(run.path, tmp_path / "there"))
        try:
            prepare(PrepareConfig.model_validate(config.model_dump() | {kind: path}), there)
            outcomes["read"] += 1
            assert out_of_date(there)
            with pytest.raises(
                RunError, match=r"prepare\.(items|queries) was|other artifacts of stage 'prepare'"
            ):
                config_of(there)
        except RunError:
            raise
        except ValueError as error:
            told(error, path.name, "queries", "items of the", "interactions with")
            assert hashes_of(there.path) == before
            outcomes["refused"] += 1
        shutil.rmtree(tmp_path / "there")
    assert min(outcomes["read"], outcomes["refused"]) > 4, outcomes
    assert len(Recommender.load(run.path).recommend("u3", n=5)) == 5


def test_configurations(run, tmp_path):
    """Spoiled bytes, keys and values of a run's own configuration, given as a file and found in the run."""
    whole, outcomes = (run.path / "config.yaml").read_text(), Counter[str]()
    good = config_of(run)
    for number in range(MUTANTS["configurations"]):
        path = tmp_path / f"mutant{number}.yaml"
        path.write_bytes(_mutated_yaml(whole, rng(number, "mutated configuration")))
        try:
            load_config(path)
            outcomes["read"] += 1
        except ValueError as error:
            told(error, path.name, lines=True)
            outcomes["refused"] += 1
        if number % 4 == 0:
            shutil.copy(path, run.path / "config.yaml")
            try:
                found = config_of(run)
                assert all(getattr(found, name) == getattr(good, name) for name in SECTIONS[:5])
            except ValueError as error:
                told(error, "config", lines=True)
    (run.path / "config.yaml").write_text(whole)
    assert min(outcomes["read"], outcomes["refused"]) > 5, outcomes
    assert len(Recommender.load(run.path).recommend("u3", n=5)) == 5


def _mutated_yaml(text: str, draw: np.random.Generator) -> bytes:
    lines = text.splitlines(keepends=True)
    at = int(draw.integers(len(lines)))
    how = int(draw.integers(6))
    if how == 0:
        return text.encode()[: int(draw.integers(len(text)))]
    if how == 1:
        lines.insert(at, lines[at])
    elif how == 2:
        del lines[at]
    elif how == 3:
        lines[at] = (
            lines[at].split(":")[0]
            + ": "
            + str(draw.choice(["-1", "x", "[1, 2", "{}", "1e400", "../..", "null"]))
            + "\n"
        )
    elif how == 4:
        lines[at] = lines[at].replace(":", "_:", 1)
    else:
        data = bytearray(text.encode())
        for place in draw.integers(0, len(data), 3):
            data[place] = int(draw.choice([0, 34, 58, 123, 9, 255]))
        return bytes(data)
    return "".join(lines).encode()

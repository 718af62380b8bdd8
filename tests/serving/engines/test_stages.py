"""`prepare` and the texts of `embed` over engines: the same bytes whoever works, and the same words for what is wrong."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.artifacts.manifest import sha256_of
from recsys.data.config import PrepareConfig
from recsys.data.prepare import prepare
from recsys.data.splits import SplitConfig
from recsys.data.text_vectors import encode_texts
from recsys.door import stored
from recsys.door.tables import DataError
from recsys.elsewhere import Elsewhere
from recsys.run import Run
from serving.bench.worlds.planted import Settings
from serving.bench.worlds.write import write_world
from serving.engines.base import workers_of
from serving.engines.choose import engine
from serving.engines.local import LocalEngine


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """2,000 events in seven files of seven row groups, the last smaller."""
    folder = tmp_path_factory.mktemp("worlds") / "world"
    write_world(Settings(users=60, items=40, events=2000), folder, part=300, quiet=True)
    for file in (folder / "interactions").iterdir():
        pq.write_table(pq.read_table(file), file, row_group_size=50)
    return folder


class Counted:
    """An engine's workers, and what they were asked to do."""

    def __init__(self, workers):
        self.workers, self.tasks = workers, 0

    def __call__(self, factory, arguments, tasks):
        self.tasks += len(tasks)
        return self.workers(factory, arguments, tasks)


def prepared(folder, interactions, items, workers) -> dict[str, str]:
    """The hash of every artifact, and prepare.json without the paths in it."""
    run = Run.create(folder)
    config = PrepareConfig(
        source="files", interactions=interactions, items=items, split=SplitConfig(kind="leave_last_out")
    )
    prepare(config, run, workers)
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["prepare"]
    return {
        path.name: sha256_of(path) for path in (folder / "prepare").iterdir() if path.name != "stage.json"
    }


@pytest.mark.parametrize("name", ["local", "ray"])
def test_prepare_makes_the_same_bytes_over_an_engine(tmp_path, world, monkeypatch, name, request):
    if name == "ray":
        request.getfixturevalue("cluster")
    monkeypatch.setattr(stored, "PIECE", 320)  # pieces across files, not as many as row groups
    alone = prepared(tmp_path / "alone", world / "interactions", world / "items", None)
    workers = Counted(workers_of(engine(name, 2)))
    assert prepared(tmp_path / "run", world / "interactions", world / "items", workers) == alone
    assert workers.tasks == 2 * 6  # two columns of ids, each of 2,000 rows


def test_what_is_wrong_is_said_in_the_same_words(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "PIECE", 10)
    frame = pd.DataFrame(
        {"user_id": [f"u{n % 7}" for n in range(60)], "item_id": [f"i{n % 9}" for n in range(60)]}
    )
    frame["timestamp"] = np.arange(60) + 1_700_000_000
    for number, (row, value) in enumerate([(33, None), (41, "nan"), (25, "a\nb")]):
        frame.loc[row, "item_id"] = value
        folder = tmp_path / str(number)
        folder.mkdir()
        pq.write_table(
            pa.Table.from_pandas(frame, preserve_index=False), folder / "a.parquet", row_group_size=5
        )
        with pytest.raises(DataError) as expected:
            prepared(tmp_path / f"alone-{number}", folder, None, None)
        with pytest.raises(DataError, match=re.escape(str(expected.value))):
            prepared(tmp_path / f"run-{number}", folder, None, workers_of(LocalEngine(1)))
        assert not any(path.is_dir() for path in (tmp_path / f"run-{number}").iterdir())  # nothing is left
        frame.loc[row, "item_id"] = "i1"


@pytest.mark.parametrize("batches", ["listed", pytest.param("alike", marks=pytest.mark.slow)])
def test_texts_have_the_same_vectors_over_an_engine(tmp_path, monkeypatch, batches):
    import torch

    monkeypatch.setenv("PRELUDE_TEXT_CACHE", "off")
    texts = [f"{'a long story about ' * (n % 4)}item number {n % 50}" for n in range(120)]
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers have
    try:
        alone = encode_texts(texts, batch=8, batches=batches)
    finally:
        torch.set_num_threads(before)
    workers = Counted(workers_of(LocalEngine(1)))
    found = encode_texts(texts, batch=8, batches=batches, others=Elsewhere(workers, tmp_path))
    np.testing.assert_array_equal(found, alone)
    assert workers.tasks > 0

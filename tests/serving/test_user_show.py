"""What `prelude user` prints is of the catalogue, not of the run's inside; and a user's id is one however it is written."""

from __future__ import annotations

import json
import os
import shutil

import pandas as pd
import pytest

from recsys.data.dataset import Dataset
from recsys.run import Run
from serving.user_state import show
from tests.support.command_line import prelude


def test_an_item_is_shown_by_id_and_title(small_run, monkeypatch, capsys):
    """u3 has one query, and its item is a row of queries.parquet."""
    run = small_run[1]
    data = Dataset.load(run)
    asked = data.queries[data.queries["user"] == data.user_index("u3")]
    assert len(asked) == 1
    item_id = data.catalogue.item_ids[asked["item"].iloc[0]]
    held = {holding.artifact: holding.facts for holding in show(run, "u3")}
    assert held["prepare/queries.parquet"]["item"] == f"{item_id} (Title {item_id[1:]})"
    code, out, _ = prelude(monkeypatch, capsys, "user", run.path, "--id", " u3 ", "show")
    assert code == 0
    assert f"item: {item_id} (Title {item_id[1:]})" in out
    for facts in held.values():  # a list of many has no item of its own
        assert not isinstance(facts.get("item"), int)


@pytest.fixture
def numbered(tmp_path, monkeypatch, capsys) -> Run:
    """A prepared run whose users and items are whole numbers."""
    rows = [(user, item, 1_600_000_000 + 100 * at) for user in range(10) for at, item in enumerate(range(user, user + 8))]  # fmt: skip
    pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).to_csv(tmp_path / "e.csv", index=False)
    code, _, err = prelude(monkeypatch, capsys, "prepare", tmp_path / "run", "--interactions", tmp_path / "e.csv")  # fmt: skip
    assert code == 0, err
    return Run.open(tmp_path / "run")


@pytest.mark.parametrize("spelled", ["7", "7.0", " 7 "])
def test_a_person_is_shown_exported_and_deleted_however_the_id_is_written(
    numbered, tmp_path, monkeypatch, capsys, spelled
):
    run = numbered.path
    code, out, err = prelude(monkeypatch, capsys, "user", run, "--id", spelled, "show", "--json")
    assert code == 0, err
    assert {one["artifact"]: one["rows"] for one in json.loads(out)} == {
        "prepare/events.parquet": 8,
        "prepare/users.parquet": 1,
    }
    code, out, err = prelude(monkeypatch, capsys, "user", run, "--id", spelled, "export", "--out", tmp_path / "7.json")  # fmt: skip
    assert code == 0, err
    assert json.loads((tmp_path / "7.json").read_text())["user_id"] == "7"
    shutil.copytree(run, tmp_path / "copy", copy_function=os.link)
    code, out, err = prelude(monkeypatch, capsys, "user", tmp_path / "copy", "--id", spelled, "delete", "--yes")  # fmt: skip
    assert code == 0, err
    data = Dataset.load(Run.open(tmp_path / "copy"))
    assert data.user_index("7") is None
    assert (data.users != 7).all()

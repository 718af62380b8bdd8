"""What a person has turned down is theirs: shown, and deleted with all else."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from recsys.artifacts.user_rows import forget_everyone
from recsys.data.config import PrepareConfig
from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.run import Run
from serving.user_state import delete, show

FAULTS = Path(__file__).parents[2] / "support" / "faults"
DISLIKED = "prepare/against.parquet"


def a_run(folder: Path) -> Run:
    run = Run.create(folder / "run")
    files = {"interactions": FAULTS / "o_dislike_metal.csv", "items": FAULTS / "base_items.csv"}
    prepare(PrepareConfig(source="files", events={"listen": 1.0, "dislike": "against"}, **files), run)
    return run


def test_dislikes_are_shown_and_deleted_with_their_person(tmp_path):
    run = a_run(tmp_path)
    before = Dataset.load(run)
    table = pd.read_csv(FAULTS / "o_dislike_metal.csv")
    given = table["user_id"][table["event"] == "dislike"].value_counts()
    person, stays = given.index[0], given.index[1]
    held = {holding.artifact: holding.rows for holding in show(run, person)}
    assert held[DISLIKED] == given[person]
    number = before.user_index(person)
    delete(run, person)
    after = Dataset.load(Run.open(run.path))
    assert len(after.against.users) == len(before.against.users) - given[person]
    assert number not in after.against.users
    kept = before.against.users != number
    assert after.against.items.tolist() == before.against.items[kept].tolist()
    assert {holding.artifact: holding.rows for holding in show(run, stays)}[DISLIKED] == given[stays]
    nobody = next(user for user in table["user_id"].unique() if user not in given.index)
    delete(run, nobody)  # who has turned nothing down
    assert Dataset.load(Run.open(run.path)).against.items.tolist() == after.against.items.tolist()
    assert not list(run.path.glob(".rewrite*"))


def test_an_export_without_users_has_nobodys_dislikes(tmp_path):
    run = a_run(tmp_path)
    forget_everyone(run.artifact("prepare", "against.parquet"), tmp_path / "against.parquet")
    assert len(pd.read_parquet(tmp_path / "against.parquet")) == 0
    assert Dataset.load(run).without_users().against is None

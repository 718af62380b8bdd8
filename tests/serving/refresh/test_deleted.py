"""A person who was deleted stays deleted: no file has their id after another night, going back and forth, an export and an import."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from recsys.artifacts import versions
from recsys.run import Run
from serving import Recommender
from serving.export.folder import export_run, import_run
from serving.refresh.refresh import go_back, refresh
from serving.user_state import delete
from tests.support.nights import NEW, events_yesterday, items_today, vectors_today

TRAINED, LATER = "u7", "guest-5f3a"  # one whom the run was trained on, and one whom a night's events brought


def traces_of(path: Path, user: str) -> list[str]:
    """Files below a folder that have the id: as a cell of a table or a database, as a word of a text or a name, or in their bytes."""
    word = re.compile(rf"(?<![\w-]){re.escape(user)}(?![\w-])")
    return [
        str(file)
        for file in sorted(path.rglob("*"))
        if word.search(file.name) or (file.is_file() and _has(file, user, word))
    ]


def _has(file: Path, user: str, word: re.Pattern[str]) -> bool:
    raw = file.read_bytes()
    if len(user) > 4 and user.encode() in raw:  # a shorter one is there by chance in weights
        return True
    if file.suffix == ".parquet":
        return any(user in column.to_pylist() for column in pq.read_table(file).columns)
    if file.suffix == ".sqlite":
        with sqlite3.connect(file) as state:
            names = [name for (name,) in state.execute("select name from sqlite_master where type = 'table'")]
            return any(user in row for name in names for row in state.execute(f'select * from "{name}"'))
    return file.suffix in (".json", ".yaml", ".csv", ".html", ".md", ".txt") and bool(
        word.search(raw.decode())
    )


def test_a_deleted_person_stays_deleted(night):
    path = night.run.path
    with night.files["events"].open("a") as events:
        events.write(f"{LATER},i3,1100500\n{LATER},i5,1100510\n")
    refresh(path, **night.files)
    names = {user: {Path(one).name for one in traces_of(path, user)} for user in (TRAINED, LATER)}
    assert {"users.parquet", "state.sqlite"} <= names[
        TRAINED
    ]  # who looks for them finds them, as long as they are there
    assert names[LATER]
    assert all(name.startswith("state.sqlite") for name in names[LATER])
    for user in (TRAINED, LATER):
        assert knows(path, user)
        delete(Run.open(path), user)

    def gone(where: Path) -> None:
        for user in (TRAINED, LATER):
            assert traces_of(where, user) == []
            assert not knows(where, user)

    gone(path)
    refresh(path, **night.files)  # the same files, which have them
    gone(path)
    items_today(night.run, night.folder / "items.csv", (*NEW, "n3"))
    vectors_today(night.run, night.folder / "vectors.parquet", 1, (*NEW, "n3"))
    events_yesterday(night.folder / "events.csv", 1_300_000)
    events = pd.read_csv(night.folder / "events.csv")
    events[events["uid"] != TRAINED].to_csv(night.folder / "events.csv", index=False)
    assert refresh(path, **night.files).number == 2  # another night
    gone(path)
    for number in (1, 0, 2):
        go_back(path, number)
        assert versions.pointer(path).serves == number
        gone(path)
    export_run(path, night.folder / "out")
    gone_of_files = [one for user in (TRAINED, LATER) for one in traces_of(night.folder / "out", user)]
    assert gone_of_files == []
    assert import_run(night.folder / "out", night.folder / "imported")
    gone(night.folder / "imported")
    assert answers(night.folder / "imported") == answers(path)
    assert set(answers(path)) & {*NEW, "n3"}


def knows(path: Path, user: str) -> bool:
    return Recommender.load(path).live.histories.user_index(user) is not None


def answers(path: Path) -> list[str]:
    found = Recommender.load(path).recommend("u1", n=8, method="no_context", history=["i1", "i3"])
    return [one.item_id for one in found]

"""Folders, lists and text columns: what of a source is not read is named, and what is no word is no text."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from recsys.data.catalogue import read_items
from recsys.data.interactions import read_interactions
from recsys.door.notices import Notices
from recsys.door.sources import read_table
from recsys.door.tables import DataError

ROWS = "user_id,item_id,timestamp\na,x,1\nb,y,2\n"


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_interactions(path)
    return str(caught.value)


# -- folders -----------------------------------------------------------------------------------------------------


def test_what_of_a_folder_is_not_read_is_named(tmp_path):
    for name in ("a.csv", "b.csv.xz", "b.parq", "_c.csv", "_SUCCESS", ".d.crc"):
        (tmp_path / name).write_text(ROWS)
    (tmp_path / "e.csv").write_text("user_id,item_id,timestamp\n")
    table = read_table(tmp_path)
    assert table.n_rows == 2
    assert (
        table.reading[0]
        == f"{tmp_path}: 1 file(s), and 1 without rows; 3 other file(s) are not read (_c.csv, b.csv.xz, b.parq)"
    )


def test_folders_behind_links_are_read_and_what_points_nowhere_is_refused(tmp_path):
    folder, beside = tmp_path / "folder", tmp_path / "beside"
    folder.mkdir()
    beside.mkdir()
    (folder / "a.csv").write_text(ROWS)
    (beside / "b.csv").write_text(ROWS.replace("1", "3"))
    (folder / "more").symlink_to(beside)
    assert read_table(folder).n_rows == 4
    (beside / "again").symlink_to(folder)
    assert "folders deep" in refusal(folder)
    (beside / "again").unlink()
    (folder / "c.csv").symlink_to(tmp_path / "nothing.csv")
    assert "c.csv cannot be read" in refusal(folder)


def test_a_partition_that_the_files_name_too_is_said(tmp_path):
    (tmp_path / "timestamp=2020-01-31").mkdir()
    (tmp_path / "timestamp=2020-01-31" / "a.csv").write_text(ROWS)
    assert "have a column 'timestamp', so the folder's name is not read" in read_table(tmp_path).reading[1]


# -- lists -------------------------------------------------------------------------------------------------------


def lists(path: Path, rows: list[dict]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_lists_that_are_empty_are_counted_and_other_lists_stay_whole(tmp_path):
    rows = [
        {"user_id": "a", "item_id": ["x", "y"], "timestamp": [1, 2], "taste": [0.1, 0.2, 0.3]},
        {"user_id": "b", "item_id": [], "timestamp": [], "taste": [0.1]},
        {"user_id": "c", "item_id": None, "timestamp": None, "taste": None},
    ]
    notices = Notices()
    found = read_interactions(lists(tmp_path / "l.jsonl", rows), notices=notices)
    assert len(found.frame) == 2
    assert "3 rows are read as 2; 2 list(s) are empty (the first:" in notices.readings[0]
    assert "l.jsonl:2)" in notices.readings[0]


def test_lists_in_cells_of_text(tmp_path):
    path = tmp_path / "l.csv"
    frame = pd.DataFrame(
        {"user_id": ["a", "b"], "item_id": ['["x", "y"]', '["z"]'], "timestamp": ["[1, 2]", "[3]"]}
    )
    frame.to_csv(path, index=False)
    assert list(read_interactions(path).frame.itertuples(index=False, name=None)) == [
        ("a", "x", 1), ("a", "y", 2), ("b", "z", 3),
    ]  # fmt: skip
    frame.assign(item_id=["['x', 'y']", "['z']"]).to_csv(path, index=False)
    assert "l.csv:2: item_id is" in refusal(path)
    assert "a list but not JSON" in refusal(path)


def test_two_lists_of_a_user_without_times_have_no_order(tmp_path):
    rows = [
        {"user_id": "a", "item_id": ["x", "y"]},
        {"user_id": "b", "item_id": ["z"]},
        {"user_id": "a", "item_id": ["z"]},
    ]
    path = lists(tmp_path / "l.jsonl", rows)
    assert f"l.jsonl:3: user 'a' already has a list at {path}:1" in refusal(path)
    assert len(read_interactions(lists(path, rows[:2])).frame) == 3


# -- text columns ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "instead"),
    [
        ("[0.12 -0.5 3e-05]", "lists of numbers"),
        ("[0.12, -0.5]", "lists of numbers"),
        ("0.12|0.5", "lists of numbers"),
        ("true", "truth values"),
        ("31/01/2020", "dates"),
        ("2020/1/31", "dates"),
        ("$1,299.00", "numbers"),
        ("12,50 EUR", "numbers"),
        ("3:45", "numbers"),
        ("7%", "numbers"),
        ("www.shop.example/7", "links"),
        ("/images/7.jpg", "links"),
        ("123e4567-e89b-12d3-a456-426614174000", "keys"),
        ("d41d8cd98f00b204e9800998ecf8427e", "keys"),
        ("\\N", "nothing"),
        ("A 7 of hearts", None),
        ("1980s rock", None),
        ("AC/DC", None),
        ("N/A in Berlin", None),
        ("facade", None),
    ],
)
def test_a_column_of_what_is_no_words(tmp_path, cell, instead):
    path, notices = tmp_path / "i.csv", Notices()
    pd.DataFrame({"item_id": ["x", "y"], "title": ["A", "B"], "more": cell, "genre": "jazz"}).to_csv(
        path, index=False
    )
    found = read_items(path, notices=notices)
    assert list(found.columns) == (["more", "genre"] if instead is None else ["genre"])
    said = f"left out: more ({instead})" if instead else "read as text: more, genre; left out: none"
    assert said in notices.readings[-1]


def test_titles_that_most_items_share_and_titles_that_are_none(tmp_path):
    path, notices = tmp_path / "i.csv", Notices()
    pd.DataFrame({"item_id": list("vwxyz"), "title": ["Untitled"] * 3 + ["\\N", "None"]}).to_csv(
        path, index=False
    )
    assert read_items(path, notices=notices).titles == ["Untitled"] * 3 + ["y", "None"]
    assert {one.reason: one.count for one in notices.entries} == {
        "items_without_title": 1,
        "items_that_share_a_title": 3,
    }


def test_rows_without_an_id_are_left_out_of_items_too_where_that_is_said(tmp_path):
    path, notices = tmp_path / "i.csv", Notices()
    path.write_text("item_id,title\nx,A\n,B\nNA,C\ny,D\n")
    with pytest.raises(
        DataError,
        match=r"i\.csv:3: item_id is blank; 2 of 4 row\(s\) have none: fill them in or delete the rows$",
    ):
        read_items(path)
    found = read_items(path, notices=notices, drop_missing_ids=True)
    assert (list(found.item_ids), found.titles) == (["x", "y"], ["A", "D"])
    assert [(one.reason, one.count) for one in notices.entries] == [("items_without_id", 2)]

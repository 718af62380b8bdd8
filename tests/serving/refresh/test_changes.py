"""What a day's items file changes of a catalogue."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.data.catalogue import Catalogue
from recsys.data.config import PrepareConfig
from recsys.door.tables import DataError
from serving.refresh.changes import read_changes

BEFORE = Catalogue(np.array(["a", "b", "c"], object), ["A", "B", "C"], {"kind": [["x"], ["y"], []]})


def changes(tmp_path, text: str, absent="retire", before: Catalogue = BEFORE):
    path = tmp_path / "items.csv"
    path.write_text(text)
    return read_changes(path, before, PrepareConfig(), absent)


def test_items_keep_their_places_and_new_ones_come_behind(tmp_path):
    found = changes(tmp_path, "item_id,title,kind\nd,D,z\nb,B,y\na,A,x\n")
    assert found.after.item_ids.tolist() == ["a", "b", "c", "d"]
    assert found.after.titles == ["A", "B", "C", "D"]
    assert found.after.columns["kind"] == [["x"], ["y"], [], ["z"]]
    assert found.counts() == {"new": 1, "retired": 1, "returned": 0, "changed": 0}
    assert found.after.retired.tolist() == [2]
    assert found.after.n_trained == 3


def test_what_a_file_of_additions_does_not_name_stays(tmp_path):
    assert changes(tmp_path, "item_id,title\nd,D\n", "keep").counts() == {
        "new": 1,
        "retired": 0,
        "returned": 0,
        "changed": 0,
    }


def test_a_retired_item_returns(tmp_path):
    before = changes(tmp_path, "item_id,title,kind\nb,B,y\na,A,x\n").after
    assert before.retired.tolist() == [2]
    found = changes(tmp_path, "item_id,title\nc,C\n", "keep", before)
    assert found.returned.tolist() == [2]
    assert found.after.retired.tolist() == []


def test_changed_words_are_noticed(tmp_path):
    found = changes(tmp_path, "item_id,title,kind\na,A!,x\nb,B,y|z\nc,C,\n")
    assert found.changed.tolist() == [0, 1]
    assert found.after.titles == ["A!", "B", "C"]
    assert found.after.columns["kind"] == [["x"], ["y", "z"], []]


def test_a_column_that_is_not_there_says_nothing(tmp_path):
    found = changes(tmp_path, "item_id\na\nb\nc\n")
    assert not found
    assert found.after.titles == ["A", "B", "C"]


def test_the_catalogue_comes_back_as_it_was_saved(tmp_path):
    after = changes(tmp_path, "item_id,title,kind\nd,D,z\nb,B,y\na,A,x\n").after
    after.save(tmp_path)
    again = Catalogue.load(tmp_path)
    assert (again.n_trained, again.retired.tolist()) == (3, [2])
    assert list(again.columns) == ["kind"]


def test_an_item_twice_is_refused_by_place(tmp_path):
    with pytest.raises(DataError, match=r"items.csv:3"):
        changes(tmp_path, "item_id,title\nd,D\nd,E\n")

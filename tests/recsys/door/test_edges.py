"""Edges from files: both ends as ids, moments where they are named, and what is refused."""

from __future__ import annotations

import pytest

from recsys.door.edges import read_edges
from recsys.door.tables import DataError


def test_ends_are_ids_and_moments_seconds(tmp_path):
    path = tmp_path / "edges.csv"
    path.write_text("from,to,day\n1,x,2020-01-02\n02,y,2020-01-03\n")
    found = read_edges(path, "from", "to", "day")
    assert found.start.tolist() == ["1", "02"]
    assert found.end.tolist() == ["x", "y"]
    assert (found.times[1] - found.times[0]) == 86400
    assert read_edges(path, "from", "to").times is None


def test_a_delimiter_reads_a_text_whose_suffix_says_nothing(tmp_path):
    path = tmp_path / "user_friends.dat"
    path.write_text("userID\tfriendID\n2\t275\n2\t428\n")
    assert read_edges(path, "userID", "friendID", delimiter="\t").end.tolist() == ["275", "428"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("from,until\na,b\n", "to"), ("from,to\na,\n", "edges.csv:2"), ("from,to\n", "edges.csv")],
)
def test_what_is_no_edge_is_refused_by_place(tmp_path, text, message):
    path = tmp_path / "edges.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_edges(path, "from", "to")

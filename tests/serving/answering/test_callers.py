"""What callers of the Python API give by mistake: a `ValueError` of one line that names it, and no answer to another question."""

from __future__ import annotations

import datetime
import os
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recsys.door.tables import DataError
from recsys.run import Run
from serving import Recommender
from serving.answering.feedback_files import read_feedback
from tests.support.worlds import hashes_of


@pytest.fixture(scope="module")
def service(world_run) -> Recommender:
    return Recommender.load(world_run[1].path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exclude": 5}, "exclude is the int 5; expected a list of item ids"),
        ({"allow": 5}, "allow is the int 5"),
        ({"history": {"i1"}}, "history is a set, which has no order"),
        ({"history": [["i1"]]}, r"history\[0\]: id \['i1'\] is a list"),
        ({"method": ["e2p"]}, r"method is \['e2p'\]"),
        ({"exclude_seen": "no"}, "exclude_seen is 'no'; expected True or False"),
        ({"sequence": "yes"}, "sequence is 'yes'; expected True or False"),
        ({"time": pd.NaT}, "time is NaT"),
        ({"time": [5]}, r"time is \[5\]"),
        ({"query": pd.Series(["a"])}, "query is 0 a dtype"),
    ],
    ids=str,
)
def test_what_means_nothing_is_refused_in_one_line(service, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        service.recommend("u3", n=2, **options)
    assert "\n" not in str(caught.value)


def test_the_same_list_in_every_type(service):
    """None is no list; Arrow's arrays, sets and iterators are lists of what may not come, or of what alone may."""
    expected = service.recommend("u3", n=3, exclude=["i1"], method="popularity")
    for given in (pa.array(["i1"]), {"i1"}, iter(["i1"]), pd.Series(["i1", None])):
        assert service.recommend("u3", n=3, exclude=given, method="popularity") == expected
    assert len(service.recommend("u3", n=3, exclude=None, method="popularity")) == 3
    assert len(service.recommend("u3", n=3, exclude_seen=np.bool_(True), method="popularity")) == 3


@pytest.mark.parametrize(
    ("events", "batch_id", "message"),
    [
        (None, None, "events is None; expected a list"),
        ("u1,i1,5", None, "events is 'u1,i1,5'; expected a list"),
        ([("\ud800", "i3", 5)], None, r"events\[0\]: user_id: id .* half a character"),
        ([("u1", "i3", pd.NaT)], None, r"events\[0\]: time is NaT"),
        ([("u1", "i3", 5)], 5, "batch_id is 5; expected text"),
        ([("u1", "i3", 5)], " ", "batch_id is ' '; expected text"),
        ([("u1", "i3", 5)], "a\x1b[2J", "batch_id is .* control character"),
    ],
    ids=repr,
)
def test_feedback_that_is_none_is_refused_and_nothing_is_absorbed(service, events, batch_id, message):
    before = hashes_of(service.methods.run.path)
    with pytest.raises(ValueError, match=message):
        service.update(events, batch_id)
    assert hashes_of(service.methods.run.path) == before


def test_a_day_is_one_moment_at_every_door(world_run, tmp_path, monkeypatch, caplog):
    shutil.copytree(world_run[1].path, tmp_path / "run", copy_function=os.link)
    service = Recommender.load(tmp_path / "run")
    day = 1_600_732_800
    for number, moment in enumerate((20200922, "2020-09-22", datetime.date(2020, 9, 22))):
        service.update([(f"new{number}", "i3", moment)], f"b{number}")
        user = service.live.histories.user_index(f"new{number}")
        assert service.live.histories.events(user)[1].tolist() == [day]


def test_feedback_in_files_says_its_kinds_and_has_times(world_run, tmp_path, caplog):
    run = Run.open(world_run[1].path)
    path = tmp_path / "f.csv"
    path.write_text("uid,iid,ts,event\nu1,i3,2000000,thumb_down\nu1,i4,2000001,like\n")
    assert len(read_feedback(run, path, {}).events) == 2
    assert "1 events are of a kind that sounds like a dislike (thumb_down), and count as likes" in caplog.text
    path = tmp_path / "f.jsonl"
    path.write_text('{"uid": "u1", "iid": ["i3", "i4"]}')
    with pytest.raises(DataError, match="no column 'ts'"):
        read_feedback(run, path, {})

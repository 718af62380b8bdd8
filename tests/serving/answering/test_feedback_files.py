"""Feedback at the door: unknown items are ignored and counted, odd times said, lines named, and kinds mean what the run says."""

from __future__ import annotations

import gzip
import os
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest

import serving
from recsys.run import Run
from serving.answering.feedback_files import read_feedback
from serving.answering.known import Counted
from tests.support.command_line import prelude


@pytest.fixture
def copy(small_run, tmp_path) -> Run:
    shutil.copytree(small_run[1].path, tmp_path / "copy", copy_function=os.link)
    return Run.open(tmp_path / "copy")


# -- feedback ----------------------------------------------------------------------------------------------------

FEEDBACK = [("u1", "i3", 2_000_000), ("u1", "NEW-1", 2_000_010), ("u2", "i4", 2_000_020), ("stranger", "NEW-2", 2_000_030)]  # fmt: skip


def test_feedback_of_unknown_items_is_ignored_and_the_rest_absorbed(copy):
    service = serving.Recommender.load(copy.path)
    done = service.update(FEEDBACK)
    assert (done.absorbed, done.events, done.users, done.new_users) == (True, 2, 2, 0)
    assert done.ignored == {"item_id": Counted(2, "events[1], 'NEW-1'")}
    assert done.odd == {}
    assert service.live.histories.user_index("stranger") is None  # nothing of theirs was taken
    fine = serving.Recommender.load(copy.path)
    user = fine.live.histories.user_index("u1")
    assert fine.methods.dataset.catalogue.item_ids[fine.live.histories.events(user)[0][-1]] == "i3"
    nothing = service.update([("u1", "NEW-3", 5)], "b")
    assert (nothing.absorbed, nothing.events, nothing.users) == (True, 0, 0)
    assert nothing.ignored["item_id"].count == 1


def test_odd_times_are_absorbed_and_said(copy):
    service = serving.Recommender.load(copy.path)
    end = 1_023_039  # about; the world's last event
    done = service.update(
        [("u1", "i3", 0), ("u1", "i5", "1970-01-02"), ("u2", "i4", end), ("u2", "i6", end + 367 * 86_400)]
    )
    assert done.events == 4
    assert done.odd == {
        "before": Counted(2, "events[0], time 0"),
        "after": Counted(1, f"events[3], time {end + 367 * 86_400}"),
    }
    assert service.update([("u3", "i4", end + 300 * 86_400)]).odd == {}


def test_blanks_and_what_is_no_id_are_refused_by_place_and_nothing_is_absorbed(copy):
    service = serving.Recommender.load(copy.path)
    for event, message in (
        (("NA", "i3", 5), r"events\[1\]: user_id is blank"),
        (("u1", None, 5), r"events\[1\]: item_id is blank"),
        ((True, "i3", 5), r"events\[1\]: user_id: id True is a truth value"),
        (("u1", "i3", "soon"), r"events\[1\]: time is 'soon'; expected whole Unix seconds, or a date"),
    ):
        with pytest.raises(ValueError, match=message):
            service.update([FEEDBACK[0], event])
    assert not (copy.path / "live").exists()


def test_the_command_names_lines_and_remembers_the_runs_columns(copy, tmp_path, monkeypatch, capsys):
    """The small run was made from columns uid, iid and ts; its feedback may have those, or ours."""
    path = tmp_path / "new.csv.gz"
    early = [*FEEDBACK, ("u4", "i6", 100)]
    path.write_bytes(gzip.compress(pd.DataFrame(early, columns=["uid", "iid", "ts"]).to_csv(index=False).encode()))  # fmt: skip
    code, out, err = prelude(monkeypatch, capsys, "update", copy.path, "--events", path)
    assert code == 0, err
    said = " ".join(out.split())
    assert "absorbed 3 events of 3 users" in said
    assert (
        f"stored, but no history until the run knows their items: events: 2 (the first: {path}:3, 'NEW-1')"
        in said
    )
    assert (
        f"absorbed, but from before the run's first event (are their times right?): events: 1 (the first: {path}:6, time 100)"
        in said
    )
    ours = tmp_path / "ours.jsonl"
    ours.write_text('{"user_id": "u5", "item_id": "i7", "timestamp": 2000100}\n')
    code, out, err = prelude(monkeypatch, capsys, "update", copy.path, "--events", ours)
    assert (code, "absorbed 1 events" in out) == (0, True), err
    bad = tmp_path / "bad.csv"
    bad.write_text("uid,iid,ts\nu1,i3,2000200\nu1,i3,yesterday\n")
    code, _, err = prelude(monkeypatch, capsys, "update", copy.path, "--events", bad)
    assert code == 2
    assert "bad.csv:3" in err
    bad.write_text("who,iid,ts\nu1,i3,2000200\n")
    code, _, err = prelude(monkeypatch, capsys, "update", copy.path, "--events", bad)
    assert (code, "no column 'uid'" in err) == (2, True)
    code, out, err = prelude(monkeypatch, capsys, "update", copy.path, "--events", bad, "--column", "user_id=who")  # fmt: skip
    assert (code, "absorbed 1 events" in out) == (0, True), err


def test_feedback_means_what_the_runs_kinds_and_ratings_mean(tmp_path):
    """What is against an item, or rated below the run's line, is not trained on as if it had been taken."""
    path = tmp_path / "f.csv"
    path.write_text(
        "user_id,item_id,timestamp,event,stars\n1,7,5,buy,5\n1.0,8,6,dislike,5\n1,9.0,7,view,5\n1,10,8,buy,2\n1,11,9,buy,\n"
    )

    def run(**prepare):
        settings = {"source": "files", "interactions": "x.csv", "columns": {"rating": "stars"}} | prepare
        return SimpleNamespace(read_config=lambda: {"prepare": settings})

    everything = read_feedback(run(), path, {})
    assert everything.events == [("1", str(item), item - 2, None) for item in (7, 8, 9, 10, 11)]
    assert everything.left_out == {}
    kinds = {"buy": 1.0, "dislike": "against", "view": "context"}
    meant = read_feedback(run(events=kinds, min_rating=3), path, {})
    assert meant.events == [("1", "7", 5, None)]
    assert meant.left_out == {"events": 2, "min_rating": 2}
    kept = read_feedback(run(keep_events=["buy"]), path, {})
    assert [kept.place(number) for number in range(3)] == [f"{path}:{line}" for line in (2, 5, 6)]

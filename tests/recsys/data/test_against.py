"""What people turn down: never a positive, kept out of what is recommended from then on, by one rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys.data.config import PrepareConfig
from recsys.data.dataset import Dataset
from recsys.data.later_events import LiveHistories
from recsys.data.prepare import prepare
from recsys.data.splits import TEST
from recsys.engagement.shown_lists import TEST_LISTS, ShownLists
from recsys.run import Run

MEANINGS = {"play": 1.0, "skip": "against"}


def written(folder: Path, **settings) -> tuple[Dataset, dict]:
    """u0 skips i1 at 250 and i2 at 900, and plays i1 all the same at 1000, their last event; u1 and u2 only play."""
    rows = [("u0", f"i{i}", 100 * at, "play") for at, i in enumerate((0, 3, 4, 5, 6, 7, 8, 9), start=1)]
    rows += [("u0", "i1", 250, "skip"), ("u0", "i2", 900, "skip"), ("u0", "i1", 1000, "play")]
    rows += [(f"u{u}", f"i{i}", 100 * i + u, "play") for u in (1, 2) for i in range(10)]
    path = folder / "events.csv"
    folder.mkdir(exist_ok=True)
    path.write_text(
        "user_id,item_id,timestamp,event\n" + "".join(f"{u},{i},{t},{e}\n" for u, i, t, e in rows)
    )
    run = Run.create(folder / "run")
    prepare(PrepareConfig(source="files", interactions=path, events=MEANINGS, **settings), run)
    return Dataset.load(run), run.read_json("prepare", "prepare.json")


def names(data: Dataset, items: np.ndarray) -> list[str]:
    return sorted(data.catalogue.item_ids[items].tolist())


def event_of(data: Dataset, user: str, time: int) -> int:
    return int(np.flatnonzero((data.users == data.user_index(user)) & (data.times == time))[0])


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_what_was_turned_down_is_excluded_from_its_moment_on(tmp_path, exclude_seen):
    data, _ = written(tmp_path, exclude_seen=exclude_seen)
    seen = {200: ["i0"], 300: ["i0", "i3"], 800: ["i0", "i3", "i4", "i5", "i6", "i7", "i8"]}
    down = {200: [], 300: ["i1"], 800: ["i1"]}
    for time in seen:
        request = data.request(event_of(data, "u0", time), data.exclude_seen)
        assert names(data, request.exclude) == sorted([*(seen[time] if exclude_seen else []), *down[time]])
        assert "i1" not in names(data, request.history)
    other = data.request(event_of(data, "u1", 901), False)
    assert other.exclude.tolist() == []  # what one turns down is nobody else's


def test_a_request_never_excludes_its_answer_and_an_answer_that_was_turned_down_is_not_asked_for(tmp_path):
    data, report = written(tmp_path, exclude_seen=False)
    event = event_of(data, "u0", 1000)
    assert data.roles[event] == TEST
    assert names(data, data.request(event, False).exclude) == ["i2"]
    assert event not in data.instances(TEST)
    assert report["card"]["targets"]["test"]["turned_down_before"] == 1
    (notice,) = [one for one in report["warnings"] if one["reason"] == "targets_turned_down_before"]
    assert notice["count"] == 1
    allowed, report = written(tmp_path / "allowed", exclude_seen=False, exclude_against=False)
    assert event in allowed.instances(TEST)
    assert allowed.request(event, False).exclude.tolist() == []
    assert "targets_turned_down_before" not in [one["reason"] for one in report["warnings"]]


def test_a_moment_itself_is_not_before_it(tmp_path):
    data, _ = written(tmp_path)
    user = data.user_index("u0")
    none = np.zeros(0, np.int64)
    assert names(data, data.not_again(user, 250, none, False)) == []
    assert names(data, data.not_again(user, 251, none, False)) == ["i1"]
    assert names(data, data.not_again(user, 10_000, none, False)) == ["i1", "i2"]
    assert data.not_again(None, 10_000, none, False).tolist() == []


def test_feedback_and_shown_lists_obey_the_same_rule(tmp_path):
    data, _ = written(tmp_path, exclude_seen=False)
    user, item = data.user_index("u0"), data.catalogue.index_of("i2")
    live = LiveHistories(data)
    assert names(data, live.request("r", user, data.catalogue.index_of("i0"), 950).exclude) == ["i1", "i2"]
    assert names(data, live.request("r", user, item, 950).exclude) == ["i1"]  # never its own answer
    one = np.array([user])
    lists = ShownLists(
        one, np.array([950]), ["q"], np.array([TEST_LISTS], np.int8), np.zeros(1, bool), np.array([0, 1]),
        np.array([item]), np.zeros(1, bool),
    )  # fmt: skip
    assert names(data, lists.request(0, data).exclude) == ["i1"]  # what was shown is never excluded


def test_what_is_against_counts_for_nothing_and_a_person_takes_it_along(tmp_path):
    data, report = written(tmp_path)
    skipped = data.catalogue.index_of("i2")
    both = data.users[data.items == skipped]
    assert sorted(data.user_ids[both].tolist()) == ["u1", "u2"]
    assert report["rows_kept"] == len(data.users) + len(data.against.users)
    rest = data.without(data.user_index("u0"))
    assert len(rest.against.users) == 0
    assert rest.not_again(data.user_index("u0"), 10_000, np.zeros(0, np.int64), False).tolist() == []
    assert data.without_users().against is None

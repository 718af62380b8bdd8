"""Labelled lists of likes and dislikes: what is engaged, whose moment is read by whom, and nothing later."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from recsys.data.catalogue import Catalogue
from recsys.data.config import PrepareConfig
from recsys.data.dataset import Against, Dataset
from recsys.data.phrases import Phrases
from recsys.data.prepare import prepare
from recsys.data.splits import DROPPED, FIT, PERSONALIZE, TEST, UNUSED, VALIDATION, WARM
from recsys.door.tables import DataError
from recsys.engagement.config import EngagementConfig
from recsys.engagement.from_kinds import lists_from_kinds, role_of_moment
from recsys.engagement.label_lists import make_lists
from recsys.engagement.shown_lists import GENERATOR, PREDICTOR, TEST_LISTS, ShownLists
from recsys.run import Run

GENRES = [["Metal"], ["Jazz"], ["Metal"], ["Jazz"], ["Metal", "Jazz"], ["Metal"]]
Events = list[tuple[int, int, int]]  # user, item, time


def world(likes: Events, roles: list[int], dislikes: Events, **more) -> Dataset:
    ids = np.array([f"i{item}" for item in range(len(GENRES))], dtype=object)
    users, items, times = np.array(likes, np.int64).T
    against = np.array(sorted(dislikes, key=lambda row: (row[0], row[2])), np.int64).reshape(-1, 3).T
    return Dataset(
        np.array([f"u{user}" for user in range(4)], dtype=object),
        Catalogue(ids, [f"Title {item}" for item in range(len(GENRES))], {"genre": GENRES}),
        users, items, times, np.ones(len(users), np.float32), np.array(roles, np.int8),
        pd.DataFrame({"user": [], "item": [], "timestamp": [], "query": []}).astype({"user": "int64", "item": "int64", "timestamp": "int64"}),
        against=Against(*against), **more,
    )  # fmt: skip


def labels_of(data: Dataset, **settings) -> dict[tuple[int, int], bool]:
    """(list's time, item) → engaged."""
    config = EngagementConfig(pair_share=0, **settings)
    made = lists_from_kinds(config, data, Phrases(data)).rows
    return {(row[1], item): label for row in made for item, label in zip(row[3], row[4], strict=True)}


def test_what_was_taken_is_engaged_and_what_was_turned_down_is_not():
    likes = [(0, 1, 100), (0, 0, 110), (0, 5, 99_999)]
    data = world(likes, [PERSONALIZE] * 3, [(0, 2, 120), (0, 3, 130)])
    made = lists_from_kinds(EngagementConfig(pair_share=0), data, Phrases(data)).rows
    assert made.pop()[3] == [5]  # of a session of its own
    found = {item: label for row in made for item, label in zip(row[3], row[4], strict=True)}
    assert found == {1: True, 0: True, 2: False, 3: False}
    assert sorted((row[2], row[3], row[4]) for row in made) == [
        ("jazz", [1, 3], [True, False]),
        ("metal", [0, 2], [True, False]),
    ]
    assert [row[1] for row in made] == [100, 110]  # a list's time is its first item's


def test_the_last_word_of_a_session_counts_and_of_one_moment_the_one_against():
    likes, roles = [(0, 0, 100), (0, 2, 110), (0, 5, 120), (0, 2, 5_000)], [PERSONALIZE] * 4
    data = world(likes, roles, [(0, 0, 105), (0, 2, 90), (0, 5, 120)])
    found = labels_of(data, session_gap_s=60)
    assert {item: label for (time, item), label in found.items() if time < 1000} == {
        0: False,
        2: True,
        5: False,
    }
    assert found[5_000, 2]  # another session, another word
    for row in lists_from_kinds(EngagementConfig(session_gap_s=60), data, Phrases(data)).rows:
        assert len(set(row[3])) == len(row[3])  # no list shows an item twice


def test_a_moments_part_is_that_of_the_next_event_that_is_learned_from_or_held_out():
    likes = [(0, 1, 10), (0, 1, 20), (0, 0, 30), (0, 3, 40), (0, 2, 50), (0, 0, 60), (1, 0, 10)]
    data = world(likes, [FIT, UNUSED, PERSONALIZE, VALIDATION, PERSONALIZE, TEST, UNUSED], [])
    # 50 comes after validation here only to see that a tie takes the latest and another moment the next
    by_time = {time: role_of_moment(data, 0, time) for time in (5, 10, 15, 25, 30, 35, 45, 60, 61)}
    assert by_time == {
        5: FIT, 10: FIT, 15: PERSONALIZE, 25: PERSONALIZE, 30: PERSONALIZE, 35: VALIDATION, 45: PERSONALIZE, 60: TEST, 61: TEST,
    }  # fmt: skip
    assert role_of_moment(data, 1, 5) == TEST  # of whom nothing is learned
    gone = replace(data, user_groups=np.array([WARM, DROPPED, WARM, WARM], dtype=object))
    assert role_of_moment(gone, 1, 5) == UNUSED


def test_dislikes_that_stage_1_has_fitted_the_time_of_are_in_no_list():
    data = world(
        [(0, 1, 100), (0, 3, 200), (0, 1, 300)],
        [FIT, PERSONALIZE, TEST],
        [(0, 0, 90), (0, 2, 150), (0, 5, 250)],
    )
    assert sorted(item for _, item in labels_of(data, session_gap_s=1000)) == [1, 2, 3, 5]
    shown = {(time, item): label for (time, item), label in labels_of(data, session_gap_s=0).items()}
    assert shown == {(150, 2): False, (200, 3): True, (250, 5): False, (300, 1): True}


def test_what_comes_later_than_a_session_changes_no_list_of_it():
    """Planted answer: other likes and dislikes from 1,000 on."""
    likes, roles = [(0, 1, 100), (0, 0, 110), (0, 3, 1000), (0, 5, 1010)], [PERSONALIZE] * 4
    before = labels_of(world(likes, roles, [(0, 2, 120), (0, 4, 1020)]), session_gap_s=60)
    planted = labels_of(
        world([*likes[:2], (0, 2, 1000), (0, 0, 1010)], roles, [(0, 2, 120), (0, 1, 1020)]), session_gap_s=60
    )
    early = [{key: label for key, label in found.items() if key[0] < 1000} for found in (before, planted)]
    assert early[0] == early[1] == {(100, 1): True, (110, 0): True, (110, 2): False}
    assert before != planted


# -- the stage --------------------------------------------------------------------------------------------------------


def a_run(folder, meanings) -> Run:
    """Twelve people who take the even genre and turn the odd one down, or the other way round."""
    rows = []
    for user in range(12):
        for step in range(30):
            item = (user * 7 + step * 5) % 40
            kind = "like" if (item + user) % 2 == 0 else "dislike"
            rows.append((f"u{user}", f"i{item}", 1_000_000 + 10_000 * step + user, kind))
    events, items = folder / "events.csv", folder / "items.csv"
    pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "event"]).to_csv(events, index=False)
    titles = [(f"i{item}", f"Title {item}", "Shared") for item in range(40)]
    pd.DataFrame(titles, columns=["item_id", "title", "kind"]).to_csv(items, index=False)
    run = Run.create(folder / "run")
    prepare(
        PrepareConfig(source="files", interactions=events, items=items, events=meanings, held_out_queries=0),
        run,
    )
    return run


def test_the_stage_runs_on_likes_and_dislikes_by_itself(tmp_path):
    run = a_run(tmp_path, {"like": 1.0, "dislike": "against"})
    make_lists(EngagementConfig(session_gap_s=50_000), run)
    report, lists, data = (
        run.read_json("engagement", "engagement.json"),
        ShownLists.load(run),
        Dataset.load(run),
    )
    assert report["source"] == "kinds"
    assert all(part["engaged_share"] not in (0, 1) for part in report["parts"].values())
    assert {int(part) for part in lists.parts} == set(range(5))
    learned, judged = (set(lists.users[lists.of(part)]) for part in (GENERATOR, PREDICTOR))
    assert not learned & judged  # disjoint users
    liked = set(zip(data.users.tolist(), data.items.tolist(), strict=True))
    down = set(zip(data.against.users.tolist(), data.against.items.tolist(), strict=True))
    first_of_part = {}
    for index in range(len(lists)):
        user = int(lists.users[index])
        items, labels = lists.shown(index)
        for item, label in zip(items.tolist(), labels.tolist(), strict=True):
            assert (user, item) in (liked if label else down)
        request = lists.request(index, data)
        assert request.available(items).all()
        assert set(request.exclude) >= set(data.against.before(user, request.time)) - set(items.tolist())
        first_of_part.setdefault((user, int(lists.parts[index] == TEST_LISTS)), []).append(request.time)
    for (user, is_test), times in first_of_part.items():
        if is_test:
            assert max(first_of_part.get((user, 0), [0])) < min(times)  # test lists are later than all else


def test_without_dislikes_there_is_nothing_to_label_and_it_says_what_to_set(tmp_path):
    run = a_run(tmp_path, {"like": 1.0, "dislike": 1.0})
    with pytest.raises(
        DataError,
        match=r"engagement.source kinds: the run has no events that are against an item; prepare.events",
    ):
        make_lists(EngagementConfig(source="kinds"), run)

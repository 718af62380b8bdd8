"""Labelled lists: how labels are made, which part a list falls into, and that nothing later than its moment is read."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from recsys.artifacts.paths import RunError
from recsys.data.catalogue import Catalogue
from recsys.data.config import PrepareConfig
from recsys.data.dataset import Dataset
from recsys.data.phrases import Phrases, hash_share, words
from recsys.data.prepare import prepare
from recsys.data.splits import FIT, PERSONALIZE, TEST, VALIDATION
from recsys.door.tables import DataError
from recsys.engagement.config import EngagementConfig
from recsys.engagement.from_ratings import lists_from_ratings
from recsys.engagement.from_tags import lists_from_tags
from recsys.engagement.label_lists import make_lists
from recsys.engagement.shown_lists import (
    GENERATOR,
    GENERATOR_VALIDATION,
    PREDICTOR,
    PREDICTOR_VALIDATION,
    TEST_LISTS,
    ShownLists,
)
from recsys.run import Run

GENRES = [["Comedy"], ["Comedy", "Drama"], ["Drama"], ["Horror"], []]


def catalogue(genres=GENRES) -> Catalogue:
    ids = np.array([f"i{item}" for item in range(len(genres))], dtype=object)
    return Catalogue(ids, [f"Title {item}" for item in range(len(genres))], {"genres": genres})


def dataset(rows, roles, ratings=None, queries=(), genres=GENRES, **more) -> Dataset:
    """`rows` of (user, item, time), by user and time."""
    users, items, times = np.array(rows, dtype=np.int64).T
    return Dataset(
        np.array([f"u{user}" for user in range(users.max() + 1)], dtype=object),
        catalogue(genres),
        users,
        items,
        times,
        np.ones(len(users), np.float32),
        np.array(roles, np.int8),
        pd.DataFrame(list(queries), columns=["user", "item", "timestamp", "query"]),
        None if ratings is None else np.array(ratings, np.float32),
        **more,
    )


def test_a_session_becomes_lists_of_what_has_the_query_in_common():
    """Two sessions of one user; every usable rating stands in one list, and its query is a phrase of every item in it."""
    rows = [(0, 3, 1), (0, 0, 100), (0, 2, 110), (0, 1, 120), (0, 4, 10_000)]
    data = dataset(rows, [FIT, *[PERSONALIZE] * 4], [5, 4, 3.5, 2, 5])
    config = EngagementConfig(session_gap_s=60, pair_share=0)
    made = lists_from_ratings(config, data, Phrases(data)).rows
    assert sorted(item for row in made for item in row[3]) == [0, 1, 2, 4]  # the FIT event is in none
    liked = {0: True, 2: False, 1: False, 4: True}
    for user, time, query, items, labels in made:
        assert user == 0
        assert time == min(t for _, item, t in rows if item in items)
        assert labels == [liked[item] for item in items]
        if query != "title 4":  # an item without a phrase is asked for by its title
            assert all(query in [genre.lower() for genre in GENRES[item]] for item in items)
    assert [row[3] for row in made if row[1] == 10_000] == [[4]]
    first = next(row for row in made if row[1] == 100)  # comedy: items 0 and 1, in order of time
    assert (first[2], first[3]) == ("comedy", [0, 1])


def test_a_tag_is_a_phrase_only_once_it_was_given():
    queries = [(1, 0, 500, "late"), (1, 0, 50, "early"), (0, 0, 900, "mine")]
    data = dataset([(0, 0, 100), (1, 3, 1)], [PERSONALIZE, FIT], [4, 4], queries, genres=[[]] * 5)
    seen = {
        lists_from_ratings(EngagementConfig(seed=seed, pair_share=0), data, Phrases(data)).rows[0][2]
        for seed in range(20)
    }
    assert seen == {"early"}  # "mine" was given later, and may say how the film was liked


def test_refused_artists_had_the_tag_before_and_are_new_to_the_user():
    """Month 200: user 0 tags item 0 'rock'. By then others had tagged 1, 2 and 3 so; user 0 had tagged 1 with something else."""
    queries = [
        (1, 2, 100, "rock"), (1, 1, 100, "rock"), (0, 1, 100, "pop"), (2, 3, 100, "rock"),
        (0, 0, 200, "rock"), (2, 4, 200, "rock"), (0, 2, 300, "rock"),
    ]  # fmt: skip
    rows = [(0, 1, 100), (0, 0, 200), (0, 2, 300), (1, 1, 100), (1, 2, 100), (2, 3, 100), (2, 4, 200)]
    data = dataset(rows, [PERSONALIZE] * len(rows), queries=queries)
    refused = set()
    for seed in range(40):
        made = lists_from_tags(EngagementConfig(seed=seed), data).rows
        items, labels = next((row[3], row[4]) for row in made if row[:3] == (0, 200, "rock"))
        assert [item for item, label in zip(items, labels, strict=True) if label] == [0]
        refused |= {item for item, label in zip(items, labels, strict=True) if not label}
    # 2 is tagged by the user later: looking at that would tell what the later list's answer is not. 4 was tagged in the month itself
    assert refused == {2, 3}


def test_refused_artists_are_about_as_popular_as_the_engaged_ones():
    """30 items of one tag, item i tagged by i + 1 users in month 1; in month 2 a new user tags items 4 and 24."""
    queries = [(1 + user, item, 1, "rock") for item in range(30) for user in range(item + 1)]
    queries += [(0, 4, 2, "rock"), (0, 24, 2, "rock")]
    rows = [(0, 4, 2), (0, 24, 2), *((1 + user, 29 - user, 1) for user in range(30))]
    data = dataset(rows, [PERSONALIZE] * len(rows), queries=queries, genres=[[]] * 30)
    refused = []
    for seed in range(60):
        made = lists_from_tags(EngagementConfig(seed=seed), data).rows
        items, labels = next((row[3], row[4]) for row in made if row[:3] == (0, 2, "rock"))
        refused.append(sorted(item for item, label in zip(items, labels, strict=True) if not label))
    low, high = np.array(refused).T
    assert abs(np.log1p(low + 1).mean() - np.log1p(5)) < 0.25
    assert abs(np.log1p(high + 1).mean() - np.log1p(25)) < 0.25
    assert len({tuple(row) for row in refused}) > 20


def test_a_repeated_tagging_is_not_engagement_again():
    queries = [(0, 0, 100, "rock"), (0, 0, 200, "rock"), (1, 1, 50, "rock")]
    data = dataset([(0, 0, 100), (1, 1, 50)], [PERSONALIZE] * 2, queries=queries)
    assert [row[:3] for row in lists_from_tags(EngagementConfig(), data).rows if row[0] == 0] == [
        (0, 100, "rock")
    ]


# -- what is held out ----------------------------------------------------------------------------------------


def test_held_out_texts_do_not_depend_on_the_order_of_words_and_stand_in_no_phrase():
    assert words("Sci-Fi & Ünder 東京!") == ["sci-fi", "ünder", "東京"]
    assert hash_share("dark comedy") == hash_share(" Comedy,  DARK ")
    queries = [(1, item, 1, f"tag {number}") for number, item in enumerate([0, 1, 2, 3, 4] * 40)]
    data = dataset([(0, 0, 5), (1, 3, 1)], [FIT, FIT], queries=queries, held_out_queries=0.2)
    phrases = Phrases(data)
    out = [text for _, _, _, text in queries if phrases.is_held_out(text)]
    assert 20 <= len(out) <= 60  # 40 of 200 are expected
    assert not set(out) & {text for some in phrases.of for text in some}
    assert not any(phrases.is_held_out(genre) for genre in ("Comedy", "drama", "HORROR"))
    generator = np.random.default_rng(0)
    drawn = {phrases.query(item, generator) for _ in range(300) for item in range(5)}
    assert not any(phrases.is_held_out(text) for text in drawn if text)


def test_matching_items_carry_every_word():
    data = dataset([(0, 0, 5)], [FIT], queries=[(0, 3, 1, "dark comedy"), (0, 2, 1, "dark")])
    phrases = Phrases(data)
    assert phrases.matching("Comedy").tolist() == [True, True, False, True, False]
    assert phrases.matching("comedy dark").tolist() == [False, False, False, True, False]
    assert phrases.matching("drama dark").tolist() == [False, False, True, False, False]
    assert phrases.matching("polka") is None
    assert phrases.matching("  ") is None


# -- parts ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def movielens(tmp_path_factory) -> tuple[Run, Dataset, ShownLists]:
    run = Run.create(tmp_path_factory.mktemp("lists"))
    prepare(PrepareConfig(), run)
    make_lists(EngagementConfig(), run)
    return run, Dataset.load(run), ShownLists.load(run)


def test_parts_share_no_user_of_the_same_times_and_no_held_out_text(movielens):
    run, data, lists = movielens
    users = {part: set(lists.users[lists.of(part)]) for part in range(5)}
    generator = users[GENERATOR] | users[GENERATOR_VALIDATION]
    predictor = users[PREDICTOR] | users[PREDICTOR_VALIDATION]
    assert not generator & predictor
    roles = {GENERATOR: PERSONALIZE, PREDICTOR: PERSONALIZE, TEST_LISTS: TEST,
             GENERATOR_VALIDATION: VALIDATION, PREDICTOR_VALIDATION: VALIDATION}  # fmt: skip
    last_role = {}  # of a user's second
    for user, time, role in zip(data.users.tolist(), data.times.tolist(), data.roles.tolist(), strict=True):
        last_role[user, time] = max(role, last_role.get((user, time), 0))
    for index in range(len(lists)):
        user, time = int(lists.users[index]), int(lists.times[index])
        items, labels = lists.shown(index)
        assert last_role[user, time] == roles[int(lists.parts[index])]
        event = data.offsets[user] + np.flatnonzero(
            np.isin(data.items[data.offsets[user] : data.offsets[user + 1]], items)
        )
        assert (data.times[event] >= time).all()  # nothing that was shown is in the history
        assert (data.roles[event] == roles[int(lists.parts[index])]).all()
        by_item = dict(zip(data.items[event].tolist(), data.ratings[event].tolist(), strict=True))
        assert labels.tolist() == [by_item[int(item)] >= 4.0 for item in items]
    held_out = [lists.parts[at] for at in np.flatnonzero(lists.held_out)]
    assert held_out
    assert set(held_out) == {TEST_LISTS}
    texts = {lists.queries[at] for part in (GENERATOR, PREDICTOR) for at in lists.of(part)}
    assert not texts & {lists.queries[at] for at in np.flatnonzero(lists.held_out)}
    report = json.loads((run.path / "engagement" / "engagement.json").read_text())["parts"]
    assert report["test"]["lists"] == len(lists.of(TEST_LISTS)) == 1000
    assert all(0.4 <= part["engaged_share"] <= 0.6 for part in report.values())


def test_a_request_of_a_list_knows_only_what_came_before_and_may_be_answered_with_what_was_shown(movielens):
    _, data, lists = movielens
    for index in lists.of(TEST_LISTS)[:50]:
        request = lists.request(int(index), data)
        assert request.history_times.max(initial=-1) < request.time
        assert request.query == lists.queries[index]
        assert request.available(lists.shown(int(index))[0]).all()
        assert set(request.exclude) == set(request.history)


def test_the_planted_answer_changes_no_list_before_it():
    """Later ratings of a user change neither an earlier list's query nor its items."""
    rows = [(0, 0, 100), (0, 1, 110), (0, 2, 9_000), (1, 3, 5)]
    data = dataset(rows, [PERSONALIZE] * 4, [4, 2, 5, 3])
    config = EngagementConfig(session_gap_s=60)
    before = [row for row in lists_from_ratings(config, data, Phrases(data)).rows if row[:2] == (0, 100)]
    other = replace(data, items=np.array([0, 1, 4, 3]), ratings=np.array([4, 2, 1, 3], np.float32))
    assert before == [
        row for row in lists_from_ratings(config, other, Phrases(other)).rows if row[:2] == (0, 100)
    ]


# -- files of one's own --------------------------------------------------------------------------------------


def labelled_file(folder, rows) -> str:
    path = folder / "lists.csv"
    pd.DataFrame(rows, columns=["user_id", "timestamp", "query", "item_id", "engaged"]).to_csv(
        path, index=False
    )
    return str(path)


def own_run(folder) -> Run:
    events = [
        (f"u{user}", f"i{(user + step) % 6}", 100 * step + user) for user in range(8) for step in range(20)
    ]
    pd.DataFrame(events, columns=["user_id", "item_id", "timestamp"]).to_csv(
        folder / "events.csv", index=False
    )
    run = Run.create(folder / "run")
    prepare(PrepareConfig(source="files", interactions=folder / "events.csv"), run)
    return run


def test_own_lists_keep_their_order_and_fall_into_parts_by_time(tmp_path):
    run = own_run(tmp_path)
    data = Dataset.load(run)
    rows = []
    for user in range(8):
        events = np.arange(data.offsets[user], data.offsets[user + 1])
        for role in (PERSONALIZE, VALIDATION, TEST):
            time = int(data.times[events[data.roles[events] == role][0]])
            rows += [(f"u{user}", time, "calm", "i4", 1), (f"u{user}", time, "calm", "i1", 0)]
        rows.append((f"u{user}", 0, "calm", "i2", 1))  # Stage 1 has fitted that time: left out
    rows.append(("stranger", 10, "calm", "i2", 0))
    rows.append(("u1", 99_999, "after all events", "gone", 1))
    make_lists(EngagementConfig(lists=labelled_file(tmp_path, rows)), run)
    lists = ShownLists.load(run)
    for index in range(len(lists) - 1):
        if lists.users[index] >= 0:
            assert lists.shown(index)[0].tolist() == [int(data.catalogue.index_of(i)) for i in ("i4", "i1")]
            assert lists.shown(index)[1].tolist() == [True, False]
    counts = np.bincount(lists.parts, minlength=5)
    assert counts[TEST_LISTS] == 8 + 1  # one a user, and the stranger's
    assert (
        counts[GENERATOR] + counts[PREDICTOR]
        == counts[GENERATOR_VALIDATION] + counts[PREDICTOR_VALIDATION]
        == 8
    )
    for index in range(len(lists)):
        if lists.users[index] >= 0:
            events = np.arange(data.offsets[lists.users[index]], data.offsets[lists.users[index] + 1])
            role = int(data.roles[events[data.times[events] == lists.times[index]][0]])
            assert role == {TEST_LISTS: TEST, GENERATOR: PERSONALIZE, PREDICTOR: PERSONALIZE}.get(
                lists.parts[index], VALIDATION
            )
    stranger = lists.request(int(np.flatnonzero(lists.users < 0)[0]), data)
    assert stranger.user is None
    assert len(stranger.history) == 0
    warnings = json.loads((run.path / "engagement" / "engagement.json").read_text())["warnings"]
    assert {"lists_of_unknown_items", "lists_of_unknown_users"} <= {warning["reason"] for warning in warnings}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (("u1", 5, "calm", "i1", 2), "lists.csv:3: engaged is '2'; expected 1 (engaged) or 0"),
        (("u1", 5, "", "i1", 1), "lists.csv:3: query is blank"),
        (("u1", "noon", "calm", "i1", 1), "lists.csv:3: timestamp 'noon' is not a Unix time"),
        (("u0", 5, "calm", "i1", 1), "lists.csv:3: this item was already shown in this list"),
        (("u1", 5, "calm", None, 1), "lists.csv:3: item_id is blank"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, says):
    run = own_run(tmp_path)
    path = labelled_file(tmp_path, [("u0", 5, "calm", "i1", 1), row])
    with pytest.raises(DataError) as error:
        make_lists(EngagementConfig(lists=path), run)
    assert says in str(error.value)
    assert not (run.path / "engagement").exists()


def test_what_cannot_be_made_is_refused(tmp_path):
    run = own_run(tmp_path)
    with pytest.raises(DataError, match=r"engagement\.lists"):
        make_lists(EngagementConfig(), run)
    with pytest.raises(DataError, match="no rating column"):
        make_lists(EngagementConfig(source="ratings"), run)
    path = labelled_file(tmp_path, [("u0", 99_999, "calm", "i1", 1)])
    with pytest.raises(RunError, match="no labelled list falls into the part 'generator'"):
        make_lists(EngagementConfig(lists=path), run)

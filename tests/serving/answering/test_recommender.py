"""What a service answers: recommendations, cold starts, errors that name the place."""

from __future__ import annotations

import pytest

import serving


@pytest.fixture(scope="module")
def recommender(small_run):
    return serving.Recommender.load(small_run[1].path)


def test_titles_and_scores_come_back_best_first(recommender):
    found = recommender.recommend("u0", n=5)
    assert (found.method, found.path) == ("E2P", "personalized")
    assert len(found) == len({item.item_id for item in found}) == 5
    assert all(item.title == f"Title {item.item_id[1:]}" for item in found)
    assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)


def test_a_query_changes_the_prompt_and_the_same_call_the_same_list(recommender):
    plain = recommender.recommend("u0", n=10)
    asked = recommender.recommend("u0", "odd", n=10)
    assert recommender.recommend("u0", n=10) == plain
    assert [item.score for item in asked] != [item.score for item in plain]


def test_draws_without_replacement_depend_on_the_seed(recommender):
    lists = [
        [i.item_id for i in recommender.recommend("u3", n=8, temperature=1.0, seed=seed)]
        for seed in (1, 1, 2)
    ]
    assert lists[0] == lists[1] != lists[2]
    assert len(set(lists[0])) == 8


def test_cold_starts_say_so(recommender):
    stranger = recommender.recommend("nobody", n=3)
    assert len(stranger) == 3
    assert "cold start (user 'nobody' is unknown" in stranger.path
    assert "No Context" in stranger.path
    early = recommender.recommend("u0", n=3, time=0)
    assert "no usable event before" in early.path
    assert [i.item_id for i in early] == [i.item_id for i in stranger]
    assert "popularity" in recommender.recommend("nobody", n=3, method="embedding_retrieval").path
    warm = recommender.recommend("nobody", n=3, history=["i0", "i2", "i4"])
    assert warm.path == "personalized"


def test_exclusions_hold_and_more_than_there_is_gives_what_there_is(recommender):
    everything = recommender.recommend("u0", n=1000, exclude_seen=False)
    assert len(everything) == 60
    first = everything[0].item_id
    assert first not in [
        i.item_id for i in recommender.recommend("u0", n=1000, exclude=[first], exclude_seen=False)
    ]
    seen = recommender.recommend("u0", n=1000, exclude_seen=True)
    assert len(seen) < 60


@pytest.mark.parametrize("query", ["", "   ", "x" * 10_000, "лёгкая комедия 軽い 🎬", "a\x00b\n\nc"])
def test_any_query_is_answered(recommender, query):
    assert len(recommender.recommend("u1", query, n=4)) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "at least one"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"method": "magic"}, "no method 'magic'; it has popularity"),
        ({"exclude": "zzz"}, "zzz"),
    ],
)
def test_callers_mistakes_are_named(recommender, arguments, message):
    with pytest.raises((ValueError, KeyError), match=message):
        recommender.recommend("u0", **arguments)


def test_the_module_level_call(small_run):
    assert len(serving.recommend("u0", n=2, run=str(small_run[1].path))) == 2

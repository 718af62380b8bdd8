"""One set of limits: what `recommend` refuses `playlists` refuses, and what is inside is answered in full."""

from __future__ import annotations

import pytest

import serving
from serving.answering.limits import LEAST_TEMPERATURE, MOST_IDS, MOST_ITEMS, MOST_QUERY
from serving.playlists.plan import Settings
from tests.support.command_line import prelude


@pytest.fixture(scope="module")
def recommender(small_run):
    return serving.Recommender.load(small_run[1].path)


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("n", MOST_ITEMS + 1, "at most 1000"),
        ("n", 2000, "at most 1000"),
        ("n", 0, "ask for at least one item"),
        ("temperature", 1e-39, "below 1e-05 rounding decides and no draw; set 0"),
        ("temperature", LEAST_TEMPERATURE / 2, "set 0, which gives the best items first"),
        ("temperature", float("inf"), "expected 0"),
        ("strength", -0.1, "expected 0"),
    ],
)
def test_recommend_and_playlists_have_the_same_limits(recommender, option, value, why, sequence):
    with pytest.raises(ValueError, match=f"^{option} is .*{why}"):
        recommender.recommend("u0", sequence=sequence, **{option: value})
    with pytest.raises(ValueError, match=f"^--{option} .*{why}"):
        Settings(sequence=sequence, **{option: value})


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("temperature", [0.0, LEAST_TEMPERATURE, 1.0, 1e6])
def test_lists_within_the_limits_are_whole(recommender, temperature, sequence):
    for user in ("u0", "nobody"):
        found = recommender.recommend(user, n=MOST_ITEMS, temperature=temperature, sequence=sequence)
        assert len({item.item_id for item in found}) == len(found) == 60
    assert Settings(n=MOST_ITEMS, temperature=temperature).n == MOST_ITEMS


@pytest.mark.parametrize("name", ["history", "exclude", "allow"])
def test_lists_of_ids_have_a_longest(recommender, name):
    longest = ["i1"] * MOST_IDS
    assert recommender.recommend("u0", n=3, method="popularity", **{name: longest}).ignored == {}
    with pytest.raises(ValueError, match=f"{name} has 100,001 ids; at most 100,000"):
        recommender.recommend("u0", n=3, method="popularity", **{name: [*longest, "i1"]})


def test_queries_have_a_longest(recommender):
    assert len(recommender.recommend("u0", "q" * MOST_QUERY, n=3)) == 3
    with pytest.raises(ValueError, match="query has 100,001 characters; at most 100,000"):
        recommender.recommend("u0", "q" * (MOST_QUERY + 1), n=3)


def test_the_command_line_has_them_too(small_run, monkeypatch, capsys):
    for options, why in ((("-n", 2000), "n is 2000; at most 1000"), (("--temperature", "1e-39"), "set 0")):
        code, out, err = prelude(
            monkeypatch, capsys, "recommend", small_run[1].path, "--user", "u0", *options
        )
        assert (code, out) == (2, "")
        assert why in err

"""Caps of lists, on lists that can be walked by eye."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.data.caps import Caps, best_within, within
from recsys.data.catalogue import Catalogue
from recsys.recommender import Ranked

GENRES = [["rock", "pop"], ["rock"], [], ["pop", "pop"], ["jazz"], ["rock", "jazz"]]


CATALOGUE = Catalogue(
    np.array(list("abcdef"), dtype=object), list("ABCDEF"), {"genres": GENRES, "artist": [["x"]] * 6}
)


def ranked(*items: int) -> Ranked:
    return Ranked(np.array(items), np.linspace(1, 0, len(items)))


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"genres": 1}, [0, 2, 4]),  # a fills rock and pop; c has no genre; e fills jazz
        ({"genres": 2}, [0, 1, 2, 3, 4]),  # f would be a third of rock
        ({"artist": 2}, [0, 1]),
        ({"artist": 3, "genres": 1}, [0, 2, 4]),
    ],
)
def test_a_ranked_list_is_walked_down(limits, kept):
    whole = ranked(0, 1, 2, 3, 4, 5)
    found = within(whole, Caps(CATALOGUE, limits), 6)
    assert found.items.tolist() == kept
    assert found.scores.tolist() == whole.scores[kept].tolist()
    assert within(whole, Caps(CATALOGUE, limits), 2).items.tolist() == kept[:2]


def test_an_item_names_what_it_closes():
    counts = Caps(CATALOGUE, {"genres": 2}).start()
    assert set(counts.add(0)) == set()
    assert counts.fits(5)
    assert set(counts.add(1)) == {0, 1, 5}  # rock is full
    assert not counts.fits(5)
    assert set(counts.add(3)) == {0, 3}  # a value that an item has twice is counted once, and pop is full
    assert counts.fits(4)


def test_a_ranking_is_asked_for_more_until_it_fills_the_list_or_ends():
    asked = []

    def ranking(k: int) -> Ranked:
        asked.append(k)
        return ranked(*[0, 1, 3, 5, 4, 2][:k])

    assert best_within(ranking, Caps(CATALOGUE, {"genres": 1}), 2).items.tolist() == [0, 4]
    assert asked == [2, 8]
    asked.clear()
    assert best_within(ranking, Caps(CATALOGUE, {"artist": 1}), 3).items.tolist() == [0]
    assert asked == [3, 12]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"mood": 2}, "column 'mood'; this catalogue has genres, artist"),
        ({"genres": 0}, r"caps\['genres'\] is 0; expected a whole number"),
        ({"genres": 1.5}, "is 1.5"),
        ({"genres": True}, "is True"),
        ({"genres": "3"}, "is '3'"),
    ],
)
def test_caps_that_mean_nothing_are_refused(limits, message):
    with pytest.raises(ValueError, match=message):
        Caps(CATALOGUE, limits)
    bare = Catalogue(np.array(["a"], dtype=object), ["A"], {})
    with pytest.raises(ValueError, match="has no column besides the title"):
        Caps(bare, {"genres": 1})

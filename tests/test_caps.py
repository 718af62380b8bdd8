"""Caps and orders of lists, on lists that can be walked by eye."""

import numpy as np
import pytest

from recsys.data.caps import Caps, best_within, within
from recsys.data.catalogue import Catalogue
from recsys.recommender import Ranked
from serving.answering.ordering import nearest_neighbour_chain, ordered

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


def test_a_smooth_walk_goes_to_the_nearest_that_is_left():
    """From east, by angles 0, 180, 10, 100, 60 degrees: 10, 60, 100, 180. Lengths do not matter."""
    angles = np.radians([0, 180, 10, 100, 60])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1) * np.array([[1], [9], [0.1], [3], [2]])
    assert nearest_neighbour_chain(vectors).tolist() == [0, 2, 4, 3, 1]
    # a zero vector is alike to nothing: it comes after what points the same way, before what points away; ties by place
    vectors = np.array([[1.0, 0], [0, 0], [0, 1], [-1, 0], [2, 0]])
    assert nearest_neighbour_chain(vectors).tolist() == [0, 4, 1, 2, 3]
    assert nearest_neighbour_chain(np.zeros((0, 3))).tolist() == []


def test_orders_keep_items_with_their_scores():
    made = Ranked(np.array([2, 0, 1]), np.array([-3.0, -1.0, -2.0]))
    vectors = np.array([[0.0, 1], [1.0, 0], [1.0, 0.1]])
    assert ordered(made, "as made", lambda: vectors) is made
    by_score = ordered(made, "score", lambda: vectors)
    assert (by_score.items.tolist(), by_score.scores.tolist()) == ([0, 1, 2], [-1, -2, -3])
    smooth = ordered(made, "smooth", lambda: vectors)
    assert (smooth.items.tolist(), smooth.scores.tolist()) == ([2, 1, 0], [-3, -2, -1])
    with pytest.raises(ValueError, match="order is 'shuffled'; expected one of 'as made', 'smooth', 'score'"):
        ordered(made, "shuffled", lambda: vectors)

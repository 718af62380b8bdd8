"""Orders of a finished list, on lists that can be walked by eye."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.recommender import Ranked
from serving.answering.ordering import nearest_neighbour_chain, ordered


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

"""Item-kNN against a case worked by hand and a plain loop; what validation chooses."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.embeddings.item_knn import ItemKnn, ItemKnnConfig, choose_item_knn, similarities
from recsys.embeddings.retrieval import hits_of_scores
from recsys.recommender import Request

# three users × four items: u0 has 0 1, u1 has 0 1 2, u2 has 1 3; item 1 is had by all three
USERS, ITEMS = (
    np.array([0, 0, 1, 1, 1, 2, 2, 2]),
    np.array([0, 1, 0, 1, 2, 1, 3, 3]),
)  # an edge twice counts once


HALF, ROOT3, ROOT6, ROOT2 = 0.5, 3**-0.5, 6**-0.5, 2**-0.5


def test_three_users_and_four_items_by_hand():
    """n = (2, 3, 1, 1); c_01 = 2, c_02 = 1, c_12 = 1, c_13 = 1."""
    expected = np.zeros((4, 4))
    expected[0, 1], expected[0, 2] = 2 * ROOT6, ROOT2
    expected[1, 2] = expected[1, 3] = ROOT3
    expected += expected.T
    np.testing.assert_allclose(similarities(USERS, ITEMS, 4, 0.0, 10).toarray(), expected, rtol=1e-6)
    shrunk = similarities(USERS, ITEMS, 4, 5.0, 10).toarray()
    assert shrunk[0, 1] == pytest.approx(2 / (6**0.5 + 5))
    assert shrunk[1, 3] == pytest.approx(1 / (3**0.5 + 5))


def test_each_item_keeps_its_nearest_and_ties_go_to_the_lower():
    kept = similarities(USERS, ITEMS, 4, 0.0, 1).toarray()
    assert [np.flatnonzero(row).tolist() for row in kept] == [[1], [0], [0], [1]]
    two = similarities(USERS, ITEMS, 4, 0.0, 2).toarray()
    assert np.flatnonzero(two[1]).tolist() == [0, 2]  # 2 and 3 are equally alike


def test_scores_fade_with_half_a_vote_an_item_and_only_the_last_vote():
    similar = similarities(USERS, ITEMS, 4, 0.0, 10)
    sim, counts = similar.toarray(), np.array([2, 3, 1, 1])
    request = Request("r", 0, 9, history=np.array([3, 2, 0]), history_times=np.array([1, 2, 3]))
    norm = (1 + HALF**2) ** 0.5
    np.testing.assert_allclose(
        ItemKnn(similar, 1.0, 2, counts).scores([request])[0], (sim[0] + HALF * sim[2]) / norm, rtol=1e-6
    )
    np.testing.assert_allclose(
        ItemKnn(similar, None, 9, counts).scores([request])[0], (sim[0] + sim[2] + sim[3]) * ROOT3, rtol=1e-6
    )
    repeated = Request("r", 0, 9, history=np.array([0, 0]), history_times=np.array([1, 2]))
    np.testing.assert_allclose(
        ItemKnn(similar, None, 9, counts).scores([repeated])[0], 2 * ROOT2 * sim[0], rtol=1e-6
    )


def test_lists_go_on_by_popularity_where_nothing_votes():
    """Of item 2's neighbours 0 (cosine .71) and 1 (.58); 3 is unknown to it, and so is 2 itself, which is as rare but lower."""
    method = ItemKnn(similarities(USERS, ITEMS, 4, 0.0, 10), None, 9, np.array([2, 3, 1, 1]))
    histories = (np.array([2]), np.zeros(0, int))
    requests = [Request("r", 0, 9, history=h, history_times=np.arange(len(h))) for h in histories]
    best, empty = method.recommend(requests, 4)
    assert best.items.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(best.scores, [ROOT2, ROOT3, 0, 0], rtol=1e-6)
    assert empty.items.tolist() == [1, 0, 2, 3]


def test_similarities_equal_a_loop_across_blocks(monkeypatch):
    monkeypatch.setattr("recsys.embeddings.item_knn.BLOCK", 7)
    generator = np.random.default_rng(0)
    users, items = generator.integers(0, 15, 90), generator.integers(0, 20, 90)
    ours = similarities(users, items, 20, 2.0, 4).toarray()
    having = [set(users[items == item].tolist()) for item in range(20)]
    for i in range(20):
        values = [
            (-len(having[i] & having[j]) / ((len(having[i]) * len(having[j])) ** 0.5 + 2.0), j)
            for j in range(20)
            if j != i and having[i] & having[j]
        ]
        kept = {j: -value for value, j in sorted(values)[:4]}
        assert np.flatnonzero(ours[i]).tolist() == sorted(kept)
        np.testing.assert_allclose(
            [ours[i, j] for j in sorted(kept)], [kept[j] for j in sorted(kept)], rtol=1e-6
        )


def test_validation_chooses_the_pair_that_hits():
    """In a circle of items walked in order, what matters is the last item: the shortest half-life wins, and is reported."""
    n, length = 30, 12
    users = np.repeat(np.arange(n), length)
    walks = (np.arange(n)[:, None] + np.arange(length + 1)) % n
    items, targets = walks[:, :-1].reshape(-1), walks[:, -1]
    requests = [
        Request(f"r{u}", u, 99, walk[:-1], np.arange(length), exclude=walk[:-1])
        for u, walk in enumerate(walks)
    ]
    config = ItemKnnConfig(half_lives=(None, 1.0), shrinks=(0.0, 3.0), neighbours=n)

    def hit_rate(method: ItemKnn) -> float:
        return float(hits_of_scores(method.scores(requests), requests, targets, 1).mean())

    chosen = choose_item_knn(config, users, items, np.ones(n), hit_rate)
    rates = chosen["validation_hit_rates"]
    assert [(row["half_life_items"], row["shrink_users"]) for row in rates] == [
        (None, 0.0), (1.0, 0.0), (None, 3.0), (1.0, 3.0),
    ]  # fmt: skip
    best = max(row["hit_rate"] for row in rates)
    assert (chosen["half_life_items"], best) == (1.0, 1.0)
    for row in rates:
        similar = similarities(users, items, n, row["shrink_users"], n)
        assert row["hit_rate"] == hit_rate(ItemKnn(similar, row["half_life_items"], 50, np.ones(n)))

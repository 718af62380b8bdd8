"""Item-kNN against a case worked by hand and a plain loop; what validation chooses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from recsys.embeddings.item_knn import (
    CoOccurrence,
    ItemKnn,
    ItemKnnConfig,
    choose_item_knn,
    similarities,
)
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


@pytest.mark.parametrize("products", [1, 60, 10_000])
def test_similarities_equal_a_loop_across_blocks(monkeypatch, products):
    monkeypatch.setattr("recsys.embeddings.item_knn.PRODUCTS", products)
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


def a_crowd() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, items and weights of 900 events on 60 items, many of one strength, so that ties abound."""
    generator = np.random.default_rng(1)
    users, items = generator.integers(0, 50, 900), np.minimum(generator.geometric(0.06, 900), 60) - 1
    return users, items, generator.choice([0.5, 1.0, 2.5], 900)


def by_whole_sorts(users, items, n: int, shrink: float, neighbours: int, weights=None) -> sparse.csr_array:
    """As it was made before: the dense product, and a sort of all its entries."""
    strongest: dict[tuple[int, int], float] = {}
    for user, item, weight in zip(
        users, items, np.ones(len(users)) if weights is None else weights, strict=True
    ):
        strongest[user, item] = max(strongest.get((user, item), 0), weight)
    taken = np.zeros((users.max() + 1, n), np.float32 if weights is None else np.float64)
    for pair, weight in strongest.items():
        taken[pair] = weight
    seen = (taken > 0).astype(np.float32)
    together, roots = seen.T @ taken, np.sqrt(seen.sum(0, dtype=np.float64))
    np.fill_diagonal(together, 0)
    row, column = np.nonzero(together)
    values = together[row, column] / (roots[row] * roots[column] + shrink)
    order = np.lexsort((column, -values, row))
    row, column, values = row[order], column[order], values[order]
    kept = np.arange(len(row)) - np.searchsorted(row, row) < neighbours
    return sparse.csr_array((values[kept].astype(np.float32), (row[kept], column[kept])), shape=(n, n))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rows", [None, np.array([0, 3, 4, 17, 59])])
def test_one_pass_gives_to_the_bit_what_a_sort_for_each_shrinkage_gave(weighted, rows, monkeypatch):
    monkeypatch.setattr("recsys.embeddings.item_knn.PRODUCTS", 2000)
    users, items, weights = a_crowd()
    weights = weights if weighted else None
    shrinks = (0.0, 5.0, 20.0)
    found = CoOccurrence(users, items, 60, weights).similar(shrinks, 7, rows)
    for shrink, ours in zip(shrinks, found, strict=True):
        expected = by_whole_sorts(users, items, 60, shrink, 7, weights).toarray()
        if rows is not None:
            expected[np.setdiff1d(np.arange(60), rows)] = 0
        assert np.diff(ours.indptr).max() == 7
        np.testing.assert_array_equal(ours.toarray(), expected)


def requests_of_a_crowd() -> tuple[list[Request], np.ndarray]:
    """Requests with and without histories and exclusions (some of their own target), and targets."""
    generator = np.random.default_rng(2)
    requests, targets = [], generator.integers(0, 60, 90)
    for number, target in enumerate(targets):
        history = generator.integers(0, 60, generator.integers(0, 6))
        exclude = generator.integers(0, 60, generator.integers(0, 9))
        if number % 10 == 0:
            exclude = np.append(exclude, [target, target])
        requests.append(Request(f"r{number}", number, 9, history, np.arange(len(history)), exclude=exclude))
    return requests, targets


@pytest.mark.parametrize("k", [4, 10, 57])
def test_hits_are_those_of_dense_scores(k, monkeypatch):
    """Also where blocks are small, and where an allow-list is in the way."""
    monkeypatch.setattr("recsys.embeddings.retrieval.ENTRIES", 60 * 13)
    users, items, _ = a_crowd()
    requests, targets = requests_of_a_crowd()
    method = ItemKnn(similarities(users, items, 60, 5.0, 7), 2.0, 4, np.ones(60))
    expected = hits_of_scores(method.scores(requests), requests, targets, k)
    assert 0 < expected.sum() < len(requests)
    np.testing.assert_array_equal(method.hits(requests, targets, k), expected)
    allowed = [replace(request, allow=np.arange(0, 60, 2)) for request in requests[:30]]
    some = hits_of_scores(method.scores(allowed), allowed, targets[:30], k)
    np.testing.assert_array_equal(method.hits(allowed, targets[:30], k), some)


@pytest.mark.parametrize("allow", [None, np.arange(5, 40)])
def test_lists_are_those_of_dense_scores(allow):
    users, items, _ = a_crowd()
    counts = np.bincount(items, minlength=60)
    method = ItemKnn(similarities(users, items, 60, 5.0, 7), 2.0, 4, counts)
    requests = [replace(request, allow=allow) for request in requests_of_a_crowd()[0]]
    for n in (1, 12, 100):
        for request, scores, ours in zip(
            requests, method.scores(requests), method.recommend(requests, n), strict=True
        ):
            here = [item for item in range(60) if request.available(np.array([item]))[0]]
            here.sort(key=lambda item: (-scores[item], -counts[item], item))
            assert ours.items.tolist() == here[:n]
            np.testing.assert_array_equal(ours.scores, scores[here[:n]])

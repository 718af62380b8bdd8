"""Text retrieval against plain sums: cosines, popularity among equals, and what says nothing."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.embeddings.text_search import DenseSearch, TextSearch
from recsys.recommender import Request

COUNTS = np.array([5, 1, 9, 0, 2])


def search() -> tuple[DenseSearch, np.ndarray, list[list[str]]]:
    vectors = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    asked: list[list[str]] = []

    def encode(texts):
        asked.append(texts)
        return np.stack([np.full(4, len(text), np.float32) for text in texts])

    return DenseSearch(vectors, encode, COUNTS), vectors, asked


def test_items_are_ranked_by_the_cosine_to_the_query_and_a_query_is_encoded_once():
    one, vectors, asked = search()
    requests = [
        Request("a", 0, 1, query="red  car"),
        Request("b", 1, 1, query="red car", exclude=np.array([2])),
    ]
    expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) @ np.full(4, 7.0)
    np.testing.assert_allclose(one.scores(requests), np.stack([expected] * 2), rtol=1e-5)
    order = np.argsort(-expected, kind="stable")
    whole, less = one.recommend(requests, 5)
    assert whole.items.tolist() == order.tolist()
    assert less.items.tolist() == order[order != 2].tolist()
    assert asked == [["red car"]]


def test_without_a_query_it_is_popularity(tmp_path):
    one, _, asked = search()
    found = one.recommend([Request("a", 0, 1), Request("b", 0, 2, allow=np.array([1, 4, 3]))], 3)
    assert found[0].items.tolist() == [2, 0, 4]
    assert found[1].items.tolist() == [4, 1, 3]
    assert (one.scores([Request("a", 0, 1)]) == 0).all()
    assert asked == []


def test_items_of_one_score_come_by_popularity():
    class Some(TextSearch):
        def of_query(self, query):
            return np.array([1.0, 1.0, 0.0, 0.0, 1.0])

    found = Some(COUNTS).recommend([Request("a", 0, 1, query="x")], 5)[0]
    assert found.items.tolist() == [0, 4, 1, 2, 3]
    assert found.scores == pytest.approx([1, 1, 1, 0, 0])


@pytest.mark.parametrize("levels", [1, 3, 50])
def test_the_best_of_many_are_those_of_a_full_sort_whatever_ties(levels):
    generator = np.random.default_rng(levels)
    counts, scores = generator.integers(0, 5, 400), generator.integers(0, levels, 400) / 7

    class Some(TextSearch):
        def of_query(self, query):
            return scores

    order = np.lexsort((np.arange(400), -np.log1p(counts), -scores))
    for n in (1, 7, 399, 400, 500):
        exclude, allow = generator.permutation(400)[:30], generator.permutation(500)[:60]
        for request in (
            Request("a", 0, 1, query="x"),
            Request("a", 0, 1, query="x", exclude=exclude),
            Request("a", 0, 1, query="x", exclude=exclude, allow=allow),
        ):
            (found,) = Some(counts).recommend([request], n)
            assert found.items.tolist() == order[request.available(order)][:n].tolist()
            np.testing.assert_array_equal(found.scores, scores[found.items].astype(np.float32))

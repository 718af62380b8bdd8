"""Figures of lists beyond accuracy: cases small enough to check by eye, and the same by other libraries where those are at hand."""

from __future__ import annotations

import json
import os
import subprocess

import numpy as np
import pytest

from evaluation.audit import measures

# three people, four items; the last list is short
LISTS = np.array([[0, 1], [0, 2], [0, -1]])


def test_coverage_and_gini_of_exposure():
    counts = measures.exposures(LISTS, 4)
    assert counts.tolist() == [3, 1, 1, 0]
    assert measures.coverage(counts) == 0.75
    # ascending 0 1 1 3: (−3·0 − 1·1 + 1·1 + 3·3) / (4 · 5)
    assert measures.gini(counts) == pytest.approx(9 / 20)
    assert measures.gini(np.ones(4)) == 0
    assert measures.gini(np.array([[0, 0, 0, 5], [2, 2, 2, 2]])).tolist() == [0.75, 0]
    assert np.isnan(measures.gini(np.zeros(4)))


def test_popularity_and_novelty_are_means_over_a_list():
    assert measures.mean_of(LISTS, np.array([8, 4, 2, 1])).tolist() == [6, 5, 8]
    assert np.isnan(measures.mean_of(np.array([[-1, -1]]), np.arange(4))).all()
    assert measures.self_information(np.array([8, 4, 1, 0]), 8).tolist() == [0, 1, 3, 3]


def test_intra_list_distance_is_over_pairs_of_different_items():
    vectors = np.array([[2.0, 0], [0, 3], [1, 1], [5, 0]])
    lists = np.array([[0, 1, 2], [0, 3, -1], [0, -1, -1]])
    found = measures.intra_list_distance(lists, vectors)
    half = 1 - np.sqrt(0.5)
    assert found[:2] == pytest.approx([(1 + half + half) / 3, 0])
    assert np.isnan(found[2])


def test_miscalibration_by_steck():
    kinds = np.array([[1, 0], [0, 1], [0.5, 0.5], [0, 0]])  # the last item has no kind
    own = measures.taste(kinds, np.array([[3.0, 1, 0, 7], [0, 0, 0, 1], [0, 0, 1, 0]]))
    assert own.tolist() == [[0.75, 0.25], [0, 0], [0.5, 0.5]]
    listed = np.array([[1.0, 0.0], [1, 0], [0.5, 0.5]])
    found = measures.miscalibration(own, listed, smoothing=0.01)
    mixed = [0.99 + 0.01 * 0.75, 0.01 * 0.25]
    assert found[0] == pytest.approx(0.75 * np.log(0.75 / mixed[0]) + 0.25 * np.log(0.25 / mixed[1]))
    assert np.isnan(found[1])  # who has had nothing of a kind has no taste
    assert found[2] == 0


def test_lift_is_of_means_of_a_group():
    assert measures.lift(np.array([3.0, 1, np.nan]), np.array([1.0, 1, 5])) == 1.0
    assert np.isnan(measures.lift(np.array([np.nan]), np.array([1.0])))


# -- other libraries, in environments of their own: PRELUDE_RECTOOLS_PYTHON with RecTools 0.19.0 (serving/bench/peers/rectools.txt),
# PRELUDE_LENSKIT_PYTHON with lenskit 2025.8.1 ------------------------------------------------------------------------------------

RECTOOLS = """
import json, sys
import numpy as np, pandas as pd
from scipy.spatial.distance import cosine
from rectools.metrics import AvgRecPopularity, CatalogCoverage, IntraListDiversity, MeanInvUserFreq
from rectools.metrics.distances import PairwiseDistanceCalculator
given = json.load(sys.stdin)
reco = pd.DataFrame([(u, i, r + 1) for u, row in enumerate(given["lists"]) for r, i in enumerate(row)], columns=["user_id", "item_id", "rank"])
before = pd.DataFrame(given["events"], columns=["user_id", "item_id"])
vectors = np.array(given["vectors"])
class Cosine(PairwiseDistanceCalculator):
    def _get_distances_for_item_pairs(self, a, b):
        return np.array([cosine(vectors[i], vectors[j]) for i, j in zip(a, b)])
    def __getitem__(self, pairs):
        return self._get_distances_for_item_pairs(*pairs)
k = len(given["lists"][0])
json.dump({
    "coverage": CatalogCoverage(k=k, normalize=True).calc(reco, catalog=range(len(vectors))),
    "popularity": AvgRecPopularity(k=k).calc(reco, before),
    "novelty": MeanInvUserFreq(k=k).calc(reco, before),
    "distance": IntraListDiversity(k=k, distance_calculator=Cosine()).calc(reco),
}, sys.stdout)
"""
LENSKIT = """
import json, sys
from lenskit.data import ItemList, ItemListCollection, UserIDKey
from lenskit.metrics import RunAnalysis
from lenskit.metrics.ranking import ListGini
given = json.load(sys.stdin)
metric = ListGini(items=given["items"])
parts = [metric.compute_list_data(ItemList(item_ids=row, ordered=True), None) for row in given["lists"]]
json.dump({"gini": float(metric.global_aggregate(parts))}, sys.stdout)
"""


def _case() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lists [50, 5] of 30 items, events of 50 users, and item vectors; every item has an event."""
    stream = np.random.default_rng(0)
    popular = 1 / np.arange(1, 31)
    lists = np.array([stream.choice(30, 5, replace=False, p=popular / popular.sum()) for _ in range(50)])
    events = np.array([(user, item) for user in range(50) for item in stream.choice(30, 8, replace=False)])
    return lists, events, stream.normal(size=(30, 4))


@pytest.mark.slow
@pytest.mark.parametrize("library", ["RECTOOLS", "LENSKIT"])
def test_the_same_by_another_library(library):
    python = os.environ.get(f"PRELUDE_{library}_PYTHON")
    if python is None:
        pytest.skip(f"PRELUDE_{library}_PYTHON is not set")
    lists, events, vectors = _case()
    given = {
        "lists": lists.tolist(),
        "events": events.tolist(),
        "vectors": vectors.tolist(),
        "items": len(vectors),
    }
    code = {"RECTOOLS": RECTOOLS, "LENSKIT": LENSKIT}[library]
    done = subprocess.run(
        [python, "-c", code], input=json.dumps(given), capture_output=True, text=True, check=True
    )
    theirs = json.loads(done.stdout.splitlines()[-1])
    counts = np.bincount(events[:, 1], minlength=30)  # each user has an item once
    ours = {
        "coverage": measures.coverage(measures.exposures(lists, 30)),
        "popularity": measures.mean_of(lists, counts).mean(),
        "novelty": measures.mean_of(lists, measures.self_information(counts, 50)).mean(),
        "distance": measures.intra_list_distance(lists, vectors).mean(),
        "gini": measures.gini(measures.exposures(lists, 30)),
    }
    assert theirs == pytest.approx({name: float(ours[name]) for name in theirs}, rel=1e-6)
    assert theirs

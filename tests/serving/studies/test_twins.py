"""Twin tables beside what is served: who has no history is answered by popularity, whichever retriever is asked."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from evaluation.metrics import pad_lists, recall_at_k
from evaluation.statistics import user_means
from recsys.data.splits import TEST
from recsys.run import Run
from serving.answering.methods import Methods
from serving.studies import twins

RETRIEVERS = ("item_knn", "embedding_retrieval", "sasrec")


@pytest.fixture(scope="module")
def some_cold(small_run, tmp_path_factory):
    """The small run, where a third of the people come to the test without a history."""
    config, run = small_run
    methods = Methods(Run.open(shutil.copytree(run.path, tmp_path_factory.mktemp("twins") / "run")), config)
    data = methods.dataset
    cold = data.events(TEST)[data.users[data.events(TEST)] % 3 == 0]
    data.history_end[cold] = data.offsets[data.users[cold]]
    return methods, cold


def test_cold_people_are_measured_by_what_is_served_to_them(some_cold, monkeypatch):
    methods, cold = some_cold
    monkeypatch.setattr(twins, "_keys", lambda methods: ["popularity", *RETRIEVERS])
    found = twins.analyse_twins(methods)
    data, rows = methods.dataset, {row["name"]: row for row in found["rows"]}
    popular = rows["Popularity"]["groups"]["cold users"]
    assert popular["instances"] == len(cold)
    assert popular["recall@10"] > 0
    for key in RETRIEVERS:
        assert rows[methods.name(key)]["groups"]["cold users"] == popular
        lists = methods.build(key).recommend(data.block(cold, False), 10)
        hits = recall_at_k(pad_lists([one.items for one in lists], 10), data.items[cold], 10)
        assert user_means(hits, data.users[cold])[1].mean() == pytest.approx(popular["recall@10"])


def test_their_targets_have_popularitys_probability_at_any_temperature(some_cold):
    methods, cold = some_cold
    data, alike = methods.dataset, np.arange(methods.dataset.n_items)
    counts = data.item_totals.counts + 1.0
    _, log_p = twins._measured(methods, "sasrec", cold, alike, (0.3, 2.0))
    np.testing.assert_allclose(log_p, np.log(counts / counts.sum())[data.items[cold]][:, None].repeat(2, 1))

"""Every item's log-probability by one tree pass, against the scorer of single items and by its own sum."""

from __future__ import annotations

import numpy as np
import pytest

from llm.decoding import whole_catalogue
from llm.decoding.recommender import SidRecommender
from recsys.data.splits import TEST
from serving.answering.methods import Methods


@pytest.fixture(scope="module")
def methods(small_run):
    config, run = small_run
    return Methods(run, config)


@pytest.mark.parametrize("key", ["no_context", "e2p", "tap_per", "p2p"])
@pytest.mark.parametrize("at_once", [512, 5])
def test_all_items_at_once_are_the_single_scores(methods, monkeypatch, key, at_once):
    monkeypatch.setattr(whole_catalogue, "NODES_AT_ONCE", at_once)
    method = methods.build(key)
    assert isinstance(method, SidRecommender)
    data = methods.dataset
    requests = data.requests(data.events(TEST)[::9][:7], False)
    scores = method.scores(requests)
    assert np.exp(scores.astype(float)).sum(1) == pytest.approx(np.ones(7), abs=1e-5)
    for item in (0, 1, data.n_items // 2, data.n_items - 1):
        assert scores[:, item] == pytest.approx(method.log_prob(requests, np.full(7, item)), abs=2e-5)
    assert (method.scores(requests) == scores).all(), "the kept session is as it was"

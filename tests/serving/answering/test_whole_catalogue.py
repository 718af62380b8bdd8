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


@pytest.mark.parametrize("key", ["no_context", "e2p", "p2p"])
@pytest.mark.parametrize("at_once", [512, 3])
@pytest.mark.parametrize("width", [1, 4, 10_000])
def test_the_likeliest_nodes_are_exact_and_the_others_keep_their_mass(
    methods, monkeypatch, key, at_once, width
):
    """Against the whole pass: an item below a node that was not forwarded has an even share of the node's exact mass."""
    monkeypatch.setattr(whole_catalogue, "NODES_AT_ONCE", at_once)
    method = methods.build(key)
    data, trie = methods.dataset, method.model.trie
    requests = data.requests(data.events(TEST)[::9], False)[:7]
    wanted = np.exp(method.scores(requests).astype(float))
    found, below = method.likely_scores(requests, width)
    assert np.exp(found.astype(float)).sum(1) == pytest.approx(np.ones(7), abs=1e-5)
    if width == 10_000:
        assert (below == -1).all()
        np.testing.assert_allclose(np.exp(found), wanted, rtol=1e-4)
        return
    assert (below >= 0).any()
    for p, exact, node in zip(np.exp(found.astype(float)), wanted, below, strict=True):
        np.testing.assert_allclose(p[node < 0], exact[node < 0], rtol=1e-4)
        for one in np.unique(node[node >= 0]):
            assert np.ptp(p[node == one]) == 0
            assert p[node == one].sum() == pytest.approx(exact[node == one].sum(), rel=1e-4)
    wider, also = method.likely_scores(requests, 2 * width)
    assert (also >= 0).sum() <= (below >= 0).sum()
    distance = [np.abs(np.exp(some.astype(float)) - wanted).sum(1).mean() for some in (found, wider)]
    assert distance[1] <= distance[0] + 1e-9
    assert trie.n_items == data.n_items


def test_the_likeliest_nodes_are_looked_up_as_many_as_was_asked(methods, monkeypatch):
    """Counted at the session: never more than `width` nodes of a request on a depth."""
    method, data = methods.build("no_context"), methods.dataset
    requests = data.requests(data.events(TEST), False)[:5]
    counts = []
    honest = whole_catalogue.PromptSession.logits

    def watched(session, depth, nodes):
        counts.append((depth, int(np.bincount(nodes.row.numpy()).max())))
        return honest(session, depth, nodes)

    monkeypatch.setattr(whole_catalogue.PromptSession, "logits", watched)
    method.likely_scores(requests, 3)
    assert {depth for depth, _ in counts} == set(range(method.model.trie.n_levels))
    assert max(count for _, count in counts) == 3

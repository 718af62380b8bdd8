"""Newcomers beside the frozen trie: one distribution, exactly normalised, whatever is asked of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llm.decoding.newcomers import Weights
from llm.decoding.recommender import SidRecommender
from llm.decoding.with_newcomers import WithNewcomers
from recsys.embeddings.embed import load_item_vectors
from recsys.recommender import Request
from recsys.run import Run
from semantic_ids.tokenizer import load_table
from serving import Recommender
from serving.answering.propensities import given_before, masses, probabilities


@pytest.fixture(scope="module")
def both(refreshed) -> tuple[WithNewcomers, list[Request]]:
    """E2P over trained items and newcomers, which weigh a lot here, and requests with exclusions and an allow-list."""
    service = Recommender.load(refreshed.run.path)
    found: Any = service.method("e2p")
    assert isinstance(found, WithNewcomers)
    weights = found.newcomers.weights
    found.newcomers = replace(
        found.newcomers,
        weights=Weights(weights.node, weights.content, weights.offset + 3),
        had=np.linspace(-1, 0.5, len(found.newcomers)),
    )
    data = service.methods.dataset
    plain = data.block(data.events(3)[:3], False)
    first = found.newcomers.first
    return found, [
        plain[0],
        replace(plain[1], exclude=np.array([1, 2, first])),
        replace(plain[2], allow=np.array([0, 4, 5, first + 1, first + 2])),
    ]


def test_weights_and_their_normaliser_are_those_of_a_slow_reference(both, refreshed):
    """A node's probability by its leaves one by one, a cosine by a loop over the history, and one softmax over what is available."""
    found, requests = both
    run, newcomers = Run.serving(refreshed.run.path), found.newcomers
    codes, vectors = load_table(run).codes, np.array(load_item_vectors(run)["collaborative"], np.float64)
    whole = [replace(request, exclude=request.exclude[:0], allow=None) for request in requests]
    trained = np.exp(SidRecommender.scores(found, whole).astype(np.float64))  # [R, trained]
    weights, depth, first = newcomers.weights, newcomers.depth, newcomers.first
    got = found.log_probs(requests)
    for row, request in enumerate(requests):
        log_w = {}
        for item in range(first, len(codes)):
            below = [one for one in range(first) if tuple(codes[one][:depth]) == tuple(codes[item][:depth])]
            assert below
            log_w[item] = weights.offset + newcomers.had[item - first]
            log_w[item] += weights.node * np.log(sum(trained[row, one] for one in below))
            for half_life, kappa in zip((None, 5.0), weights.content, strict=True):
                user = np.zeros(vectors.shape[1])
                for age, one in enumerate(request.history[::-1]):
                    user += vectors[one] * (1.0 if half_life is None else 0.5 ** (age / half_life))
                log_w[item] += kappa * float(user @ vectors[item]) / np.linalg.norm(user)
        alone = {item: trained[row, item] for item in range(first)} | {i: np.exp(w) for i, w in log_w.items()}
        can = request.available(np.arange(len(codes)))
        total = sum(weight for item, weight in alone.items() if can[item])
        for item, weight in alone.items():
            expected = np.log(weight / total) if can[item] else -np.inf
            np.testing.assert_allclose(got[row, item], expected, atol=2e-4)


def test_probabilities_sum_to_one(both):
    found, requests = both
    p = np.exp(found.log_probs(requests))
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)
    for row, request in zip(p, requests, strict=True):
        assert row[~request.available(np.arange(len(row)))].sum() == 0
    assert (p[:, found.newcomers.first :].sum(1) > 0.01).all()


def test_one_item_is_as_probable_as_among_all(both):
    found, requests = both
    p = found.log_probs(requests)
    first = found.newcomers.first
    for items in ([7, 8, 4], [first, first + 1, first + 2]):
        got = found.log_prob(requests, np.array(items))
        np.testing.assert_allclose(got, p[np.arange(3), items], atol=1e-5)


def test_scores_are_of_lists_and_of_all_alike(both):
    found, requests = both
    scores = found.scores(requests)
    assert scores.shape == (3, found.newcomers.n_items)
    for row, ranked in zip(scores, found.recommend(requests, 5), strict=True):
        np.testing.assert_allclose(row[ranked.items], ranked.scores, atol=1e-4)
    left = found.log_left(requests)
    p = found.log_probs(requests)
    np.testing.assert_allclose((scores - left[:, None])[np.isfinite(p)], p[np.isfinite(p)], atol=1e-4)


def test_draws_are_of_it(both):
    found, requests = both
    p = np.exp(found.log_probs(requests))
    items, values = found.draw(requests, 4000, seed=1)
    np.testing.assert_allclose(values, np.log(p[np.arange(3)[:, None], items]), atol=1e-4)
    for row, mine in zip(p, items, strict=True):
        share = np.bincount(mine, minlength=len(row)) / 4000
        assert np.abs(share - row).max() < 0.035


def test_the_first_drawn_without_replacement_is_a_draw(both):
    found, requests = both
    p, counts = np.exp(found.log_probs(requests[:1]))[0], np.zeros(found.newcomers.n_items)
    for start in range(0, 400, 100):
        some = [replace(requests[0], request_id=f"draw {number}") for number in range(start, start + 100)]
        for ranked in found.recommend(some, 3, temperature=1.0, seed=3):
            assert len(set(ranked.items.tolist())) == 3
            counts[ranked.items[0]] += 1
    new = found.newcomers.items
    share, expected = counts[new].sum() / 400, p[new].sum()
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 400) + 1e-9


def test_caps_hold_across_old_and_new(both, refreshed):
    service = Recommender.load(refreshed.run.path)
    found = service.recommend("u1", n=4, method="no_context", caps={"kind": 1})
    kinds = [
        service.methods.dataset.catalogue.columns["kind"][
            service.methods.dataset.catalogue.index_of(one.item_id)
        ]
        for one in found
    ]
    assert sorted(map(tuple, kinds)) == [("Even",), ("Odd",)]


def test_an_item_s_chance_is_of_what_old_and_new_weigh_whoever_asks_beside_it(both):
    """Of who leaves nothing out too, alone and beside somebody who does."""
    found, (plain, limited, _) = both
    free = replace(plain, exclude=plain.exclude[:0])
    n, every = found.newcomers.n_items, np.exp(found.log_probs([free])[0])
    drawn = found.recommend([free], 4, temperature=1.0, seed=2)[0]
    expected = given_before(every, drawn.items)
    np.testing.assert_allclose(probabilities(found, free, drawn, n, 1.0), expected, rtol=1e-4)
    alone, beside = masses(found, [free], 1.0)[0], masses(found, [free, limited], 1.0)[0]
    assert alone == pytest.approx(beside, rel=1e-6)
    assert alone > 1


def test_an_urn_is_drawn_from_by_what_is_left_in_it_though_its_nodes_are_too_many(both, monkeypatch):
    found, (plain, *_) = both
    half = replace(plain, exclude=plain.exclude[:0], allow=np.arange(0, found.newcomers.n_items, 2))
    expected = found.log_left([half])
    monkeypatch.setattr("llm.decoding.left.MOST_NODES", 0)
    found.model.kept_session = None
    assert np.isnan(SidRecommender.log_left(found, found._trained([half])))
    np.testing.assert_allclose(found.log_left([half]), expected, atol=1e-5)
    n, every = found.newcomers.n_items, np.exp(found.log_probs([half])[0])
    some, counts = [replace(half, request_id=f"half {number}") for number in range(100)], np.zeros(n)
    for ranked in found.recommend(some, 1, temperature=1.0, seed=5):
        counts[ranked.items[0]] += 1
    new = found.newcomers.items
    share, chance = counts[new].sum() / 100, every[new].sum()
    assert abs(share - chance) < 3 * np.sqrt(chance * (1 - chance) / 100)

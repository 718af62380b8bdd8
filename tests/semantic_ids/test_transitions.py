"""The count model over codes: by hand, by a plain loop, against planted and shuffled codes."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset
from recsys.data.splits import FIT, PERSONALIZE, TEST, VALIDATION
from semantic_ids.scores import id_scores
from semantic_ids.transitions import (
    CONCENTRATIONS,
    fitted_concentrations,
    next_items,
    transition_log_probs,
    transition_scores,
)
from tests.support.catalogues import unique_codes

FOUR = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])  # items A, B, C, D


def dataset(users, items, times, roles, n_items: int) -> Dataset:
    n = len(users)
    queries = pd.DataFrame({"user": [], "item": [], "timestamp": [], "query": []})
    ids = np.array([f"i{item}" for item in range(n_items)], dtype=object)
    return Dataset(
        user_ids=np.array([f"u{user}" for user in range(max(users) + 1)], dtype=object),
        catalogue=Catalogue(ids, ids, {}),
        users=np.array(users),
        items=np.array(items),
        times=np.array(times),
        weights=np.ones(n, np.float32),
        roles=np.array(roles, dtype=np.int8),
        queries=queries,
    )


def slow_log_prob(codes, pairs, a, b, concentrations) -> float:
    """The module's three lines, one pair at a time, with counting loops."""
    depth, codes = codes.shape[1], [tuple(row) for row in codes.tolist()]
    log_p = 0.0
    for level in range(depth):
        node, child = codes[b][:level], codes[b][: level + 1]

        def under(item, prefix):
            return codes[item][: len(prefix)] == prefix

        def mass(prefix):
            leaves = sum(under(item, prefix) for item in range(len(codes)))
            return leaves + sum(under(y, prefix) for _, y in pairs)

        p = mass(child) / mass(node)
        for d in range(depth):
            told = codes[a][: d + 1]
            some = [y for x, y in pairs if under(x, told) and under(y, node)]
            mu = concentrations[level][d]
            if math.isfinite(mu):
                p = (sum(under(y, child) for y in some) + mu * p) / (len(some) + mu)
        log_p += math.log(p)
    return log_p


def test_four_items_by_hand():
    """C follows A twice, D follows B once, A follows C once; μ = 1 throughout. p(C | A):

    level 1: popularity of code 1: (3 + 2) / (4 + 4) = 5/8; after code 0: (3 + 5/8) / (3 + 1) = 29/32;
             after A: (2 + 29/32) / (2 + 1) = 31/32
    level 2: C under code 1: (2 + 1) / (3 + 2) = 3/5; after code 0: (2 + 3/5) / (3 + 1) = 13/20;
             after A: (2 + 13/20) / (2 + 1) = 53/60
    """
    pairs = np.array([[0, 2], [0, 2], [1, 3], [2, 0]])
    found = np.exp(transition_log_probs(FOUR, pairs, np.array([[0, 2]]), np.ones((2, 2))))[0]
    assert found == pytest.approx([31 / 32 * 53 / 60, (2 + 1) / (4 + 4)], abs=1e-12)


@pytest.mark.parametrize("seed", [0, 1])
def test_it_equals_a_plain_loop_and_sums_to_one(seed):
    generator = np.random.default_rng(seed)
    codes = unique_codes(17, (3, 4, 3), seed)
    pairs = generator.integers(0, 17, (60, 2))
    concentrations = generator.choice([0.5, 4.0, 64.0, np.inf], (3, 3))
    asked = np.array([[a, b] for a in (0, 5, 16) for b in range(17)])
    found = transition_log_probs(codes, pairs, asked, concentrations)
    slow = [slow_log_prob(codes, pairs, a, b, concentrations) for a, b in asked]
    np.testing.assert_allclose(found[:, 0], slow, atol=1e-10)
    np.testing.assert_allclose(np.exp(found).reshape(3, 17, 2).sum(1), 1.0, atol=1e-12)
    # popularity is the same whatever the codes are
    popular = (np.bincount(pairs[:, 1], minlength=17) + 1) / (60 + 17)
    np.testing.assert_allclose(np.exp(found[:, 1]), popular[asked[:, 1]], atol=1e-12)


def test_concentrations_are_the_best_of_the_grid_for_each_users_last_pair():
    """The choice at the first level and first depth, by trying all; and where nothing is to be had, ∞."""
    generator = np.random.default_rng(2)
    codes = unique_codes(20, (4, 5), 1)
    users = np.repeat(np.arange(30), 5)
    a = generator.integers(0, 20, 150)
    b = np.where(generator.random(150) < 0.7, (a + 1) % 20, generator.integers(0, 20, 150))
    pairs = np.stack([a, b], axis=1)
    chosen = fitted_concentrations(codes, pairs, users)
    last = np.arange(4, 150, 5)
    rest = np.delete(pairs, last, axis=0)
    off = np.full((2, 2), np.inf)
    likelihoods = []
    for concentration in CONCENTRATIONS:
        tried = off.copy()
        tried[0, 0] = concentration
        likelihoods.append(transition_log_probs(codes, rest, pairs[last], tried)[:, 0].mean())
    assert chosen[0, 0] == CONCENTRATIONS[int(np.argmax(likelihoods))]
    found = transition_log_probs(codes, rest, pairs[last], chosen)
    assert found[:, 0].mean() >= max(likelihoods) > found[:, 1].mean()
    contrary = np.array([[0, 1], [0, 1], [0, 2]])  # what was counted misleads about the last pair
    assert np.isinf(fitted_concentrations(FOUR, contrary, np.zeros(3, int))[0]).all()


def test_pairs_are_consecutive_strictly_earlier_and_of_their_roles():
    data = dataset(
        users=[0, 0, 0, 0, 0, 0, 1, 1, 2],
        items=[4, 5, 6, 7, 8, 9, 3, 2, 1],
        times=[1, 2, 2, 3, 4, 5, 1, 2, 7],
        roles=[FIT, FIT, FIT, PERSONALIZE, VALIDATION, TEST, FIT, VALIDATION, VALIDATION],
        n_items=10,
    )
    pairs, users = next_items(data, FIT)
    assert pairs.tolist() == [[4, 5], [4, 6]]  # 5 and 6 tie: neither is before the other
    assert users.tolist() == [0, 0]
    asked, users = next_items(data, VALIDATION)  # user 2 has no history; no test event is anywhere
    assert asked.tolist() == [[7, 8], [3, 2]]
    assert users.tolist() == [0, 1]


def planted(n_users: int = 300, n_items: int = 64, groups: int = 8, seed: int = 0) -> Dataset:
    """Users who go from a group to the next group, to any item of it; the last step of each is validation."""
    generator = np.random.default_rng(seed)
    place = generator.integers(0, groups, n_users)[:, None] + np.arange(6)
    items = (place % groups) * (n_items // groups) + generator.integers(0, n_items // groups, place.shape)
    roles = np.tile([FIT, FIT, FIT, FIT, FIT, VALIDATION], n_users)
    return dataset(
        np.repeat(np.arange(n_users), 6), items.ravel(), np.tile(np.arange(6), n_users), roles, n_items
    )


def test_codes_that_follow_the_transitions_beat_shuffled_ones():
    """Ever more so the fewer pairs an item has of its own: of 64 items a perfect table tells the group, ln 8 = 2.08 nats."""
    codes = np.stack([np.arange(64) // 8, np.arange(64) % 8], axis=1)
    shuffled = codes[np.random.default_rng(0).permutation(64)]
    lost = []
    for n_users in (80, 300, 2000):
        data = planted(n_users)
        good, bad = transition_scores(codes, data), transition_scores(shuffled, data)
        assert abs(good["transition_nats"] - math.log(8)) < 0.25
        assert good["transition_hit_rate@30"] > bad["transition_hit_rate@30"]
        lost.append(good["transition_nats"] - bad["transition_nats"])
    assert lost[0] > 1.0
    assert lost[0] > lost[1] > lost[2] > 0


def test_hit_rate_and_nats_are_means_over_instances():
    data = planted(n_users=40)
    codes = np.stack([np.arange(64) // 8, np.arange(64) % 8], axis=1)
    (pairs, users), (asked, _) = next_items(data, FIT), next_items(data, VALIDATION)
    mu = fitted_concentrations(codes, pairs, users)
    p = np.exp([slow_log_prob(codes, pairs.tolist(), a, b, mu) for a, b in asked])
    popular = (np.bincount(pairs[:, 1], minlength=64) + 1) / (len(pairs) + 64)
    found = transition_scores(codes, data)
    assert found["transition_hit_rate@30"] == pytest.approx(np.mean(1 - (1 - p) ** 30), abs=1e-10)
    assert found["transition_nats"] == pytest.approx(np.mean(np.log(p / popular[asked[:, 1]])), abs=1e-10)
    nothing = dataset([0, 1], [0, 1], [1, 1], [FIT, VALIDATION], 64)
    assert transition_scores(codes, nothing) == {}


def test_scores_of_a_report_by_hand():
    quality = {
        "n_items": 50,
        "neighbours": {
            "k": 10,
            "share_first": 0.4,
            "share_first_two": 0.0,
        },  # of two codes: nobody can share both
        "reconstruction": {"relative_error_after_policy": 0.2},
        "collisions": {"items_moved": 5},
        "levels": [
            {"size": 4, "perplexity": 4.0},
            {"size": 9, "perplexity": 3.0},
            {"size": 1, "perplexity": 1.0},
        ],
    }
    scores = id_scores(quality, FOUR, dataset([0], [0], [1], [FIT], 4))
    assert scores == pytest.approx(
        {
            "neighbours_first": 0.4,
            "relative_error": 0.2,
            "share_moved": 0.1,
            "entropy_first": 1.0,
            "entropy_mean": 0.75,  # (1 + ½) / 2; the level with one code has nothing to say
        }
    )

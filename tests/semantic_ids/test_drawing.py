"""The draw of a child: against a plain inverse CDF, and its frequencies against the softmax."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from semantic_ids.constraints import Constraints
from semantic_ids.drawing import draw_children
from semantic_ids.trie import Trie
from tests.support.catalogues import catalogues, limits

NEXT_TO_ONE = math.nextafter(1.0, 0.0)


def slow_choice(log_probs: list[float], uniform: float) -> tuple[int, float]:
    """The inverse CDF in plain Python, and how far `uniform` is from the nearest boundary."""
    weights = [math.exp(value) for value in log_probs]
    bounds = np.cumsum(weights) / sum(weights)
    last = max(j for j, weight in enumerate(weights) if weight > 0)
    choice = min(sum(bool(bound <= uniform) for bound in bounds), last)
    return choice, min(abs(bound - uniform) for bound in bounds[:last]) if last else 1.0


def check_against_slow_choice(trie, depth, nodes, logits, member, uniform, temperature, constraints, rows):
    found, value = draw_children(trie, depth, nodes, logits, member, uniform, temperature, constraints, rows)
    log_probs, child = trie.child_log_probs(depth, nodes, logits, temperature, constraints, rows)
    for d, (p, number) in enumerate(zip(member.tolist(), uniform.tolist(), strict=True)):
        choice, distance = slow_choice(log_probs[p].tolist(), number)
        if distance > 1e-6:
            assert int(found[d]) == int(child[p, choice])
        mine = int(found[d]) - int(child[p, 0])
        assert math.isfinite(log_probs[p, mine])
        assert float(value[d]) == pytest.approx(float(log_probs[p, mine]), abs=1e-5)


@settings(max_examples=60)
@given(catalogues(), st.data(), st.sampled_from([0.4, 1.0, 2.0]))
def test_the_draw_is_the_inverse_cdf_of_the_live_children(catalogue, data, temperature):
    codes, sizes = catalogue
    trie = Trie(codes, sizes)
    excluded, allowed = data.draw(limits(len(codes)))
    constraints = Constraints(trie, excluded, allowed)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    for depth, size in enumerate(sizes):
        nodes = torch.arange(trie.n_nodes[depth]).repeat(len(excluded))
        rows = torch.arange(len(excluded)).repeat_interleave(trie.n_nodes[depth])
        live = constraints.allowed(depth, nodes, rows)
        nodes, rows = nodes[live], rows[live]
        if not len(nodes):
            continue
        logits = torch.from_numpy(3 * rng.standard_normal((len(nodes), size)))
        member = torch.from_numpy(rng.integers(0, len(nodes), 20))  # in any order, some nodes without a draw
        uniform = torch.from_numpy(rng.random(20))
        uniform[:2] = torch.tensor([0.0, NEXT_TO_ONE])
        check_against_slow_choice(trie, depth, nodes, logits, member, uniform, temperature, constraints, rows)


@pytest.mark.parametrize("width", [1, 31, 32, 33, 64, 100, 256])
def test_the_draw_is_the_inverse_cdf_at_every_width(width):
    """Sums by blocks: rows that are a block, that end within one, and that fill several."""
    rng = np.random.default_rng(width)
    codes = np.array([(a, b) for a in range(3) for b in range(width)])
    for sizes in ((3, width), (3, width + 5)):
        trie = Trie(codes, sizes)
        logits = torch.from_numpy(2 * rng.standard_normal((6, sizes[1]))).float()
        nodes, rows = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0, 0, 0, 1, 1, 1])
        gone = rng.choice(len(codes), len(codes) // 3, replace=False) if width > 1 else np.array([])
        constraints = Constraints(trie, [np.array([]), gone])
        member = torch.from_numpy(rng.integers(0, 6, 300))
        uniform = torch.from_numpy(rng.random(300))
        check_against_slow_choice(trie, 1, nodes, logits, member, uniform, 1.0, constraints, rows)


@settings(max_examples=40)
@given(catalogues(), st.data())
def test_dense_tables_and_lookups_draw_the_same(catalogue, data):
    codes, sizes = catalogue
    dense, looked_up = Trie(codes, sizes), Trie(codes, sizes)
    looked_up.dense = [None] * len(sizes)
    excluded, allowed = data.draw(limits(len(codes)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    for depth, size in enumerate(sizes):
        nodes = torch.arange(dense.n_nodes[depth]).repeat(len(excluded))
        rows = torch.arange(len(excluded)).repeat_interleave(dense.n_nodes[depth])
        live = Constraints(dense, excluded, allowed).allowed(depth, nodes, rows)
        nodes, rows = nodes[live], rows[live]
        logits = torch.from_numpy(rng.standard_normal((len(nodes), size)))
        member = torch.arange(len(nodes)).repeat(5)
        uniform = torch.from_numpy(rng.random(len(member)))
        one, other = (
            draw_children(
                trie, depth, nodes, logits, member, uniform, 0.8, Constraints(trie, excluded, allowed), rows
            )
            for trie in (dense, looked_up)
        )
        assert torch.equal(one[0], other[0])
        torch.testing.assert_close(one[1], other[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_frequencies_are_those_of_the_softmax(temperature):
    """60,000 walks over two levels, with exclusions: chi-square over the items that are left."""
    rng = np.random.default_rng(3)
    codes = np.array([(a, b) for a in range(4) for b in range(40) if (a + b) % 3])
    trie = Trie(codes, (4, 40))
    constraints = Constraints(trie, [np.flatnonzero(codes[:, 0] == 2)], [np.arange(0, len(codes), 2)])
    first, second = (
        torch.from_numpy(rng.standard_normal((1, 4))),
        torch.from_numpy(rng.standard_normal((4, 40))),
    )
    n, root = 60_000, torch.zeros(1, dtype=torch.int64)
    uniform = torch.from_numpy(rng.random((n, 2)))
    node, one = draw_children(
        trie, 0, root, first, torch.zeros(n, dtype=torch.int64), uniform[:, 0], temperature, constraints, root
    )
    reached, member = node.unique(return_inverse=True)
    rows = torch.zeros_like(reached)
    leaf, two = draw_children(
        trie, 1, reached, second[reached], member, uniform[:, 1], temperature, constraints, rows
    )
    count = np.bincount(trie.leaf_item[leaf].numpy(), minlength=len(codes))
    left = [i for i in range(0, len(codes), 2) if codes[i, 0] != 2]
    weight = np.zeros(len(codes))  # exact, by plain sums over the items that are left
    for i in left:
        a, b = codes[i]
        over_a = sum(math.exp(float(first[0, x]) / temperature) for x in {codes[j, 0] for j in left})
        over_b = sum(math.exp(float(second[a, codes[j, 1]]) / temperature) for j in left if codes[j, 0] == a)
        weight[i] = math.exp(float(first[0, a]) / temperature) / over_a
        weight[i] *= math.exp(float(second[a, b]) / temperature) / over_b
    assert weight.sum() == pytest.approx(1.0)
    assert count[weight == 0].sum() == 0
    assert stats.chisquare(count[left], n * weight[left]).pvalue > 1e-3
    item = int(trie.leaf_item[leaf[0]])
    assert math.exp(float(one[0] + two[0])) == pytest.approx(weight[item], rel=1e-5)


def test_a_child_of_probability_zero_is_never_taken():
    """The first and the last child are dead, and some live ones underflow to 0: no number reaches them."""
    trie = Trie(np.arange(40)[:, None], (40,))
    constraints = Constraints(trie, [np.array([0, 1, 38, 39])])
    logits = torch.full((1, 40), -200.0)
    logits[0, [3, 36]] = 0.0
    logits[0, [0, 39]] = 500.0
    uniform = torch.tensor([0.0, 0.25, 0.4999, 0.5001, 0.75, NEXT_TO_ONE], dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.int64)
    found, value = draw_children(trie, 0, zero, logits, zero.expand(6), uniform, 1.0, constraints, zero)
    assert found.tolist() == [3, 3, 3, 36, 36, 36]
    assert value.tolist() == pytest.approx([math.log(0.5)] * 6)


def test_a_tiny_temperature_is_the_argmax():
    trie = Trie(np.arange(3)[:, None], (3,))
    zero, uniform = torch.zeros(2, dtype=torch.int64), torch.tensor([0.0, NEXT_TO_ONE], dtype=torch.float64)
    logits = torch.tensor([[1.0, 2.0, -1.0]])
    found, value = draw_children(trie, 0, zero[:1], logits, zero, uniform, 1e-38)
    assert found.tolist() == [1, 1]
    assert value.tolist() == [0.0, 0.0]


def test_a_node_without_an_allowed_child_raises():
    trie = Trie(np.array([[0, 0], [0, 1], [1, 0]]), (2, 2))
    constraints = Constraints(trie, [np.array([2])])
    nodes, rows = torch.tensor([0, 1]), torch.zeros(2, dtype=torch.int64)
    uniform = torch.tensor([0.5], dtype=torch.float64)
    with pytest.raises(ValueError, match="node 1 of depth 1 has no allowed child"):
        draw_children(trie, 1, nodes, torch.zeros(2, 2), torch.tensor([0]), uniform, 1.0, constraints, rows)

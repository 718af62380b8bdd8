"""Exclusions and allow-lists against Python sets over generated catalogues."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_ids.constraints import AllowList, Constraints
from semantic_ids.trie import Trie
from tests.support.catalogues import catalogues, limits, slow_log_probs


def available(n_items: int, excluded: np.ndarray, allowed: np.ndarray | None) -> set[int]:
    listed = set(range(n_items)) if allowed is None else set(allowed.tolist())
    return listed - set(excluded.tolist())


@given(catalogues(), st.data())
def test_a_node_is_live_iff_an_available_item_is_under_it(catalogue, data):
    codes, sizes = catalogue
    trie = Trie(codes, sizes)
    excluded, allowed = data.draw(limits(len(codes)))
    given_as = data.draw(st.sampled_from(["arrays", "AllowLists"]))
    if given_as == "AllowLists":
        made = {id(some): AllowList(trie, some) for some in allowed if some is not None}
        constraints = Constraints(
            trie, excluded, [None if some is None else made[id(some)] for some in allowed]
        )
    else:
        constraints = Constraints(trie, excluded, allowed)
    left = [available(len(codes), gone, some) for gone, some in zip(excluded, allowed, strict=True)]
    for depth in range(len(sizes) + 1):
        prefixes = sorted({tuple(row[:depth]) for row in codes.tolist()})
        nodes = torch.arange(len(prefixes)).expand(len(excluded), -1)
        rows = torch.arange(len(excluded))[:, None].expand_as(nodes)
        found = constraints.allowed(depth, nodes, rows)
        for row, items in enumerate(left):
            live = {tuple(codes[i, :depth].tolist()) for i in items}
            assert found[row].tolist() == [prefix in live for prefix in prefixes]
    assert constraints.excludes_everything().tolist() == [not items for items in left]


@settings(max_examples=60)
@given(catalogues(), st.data(), st.sampled_from([0.4, 1.0]))
def test_log_probs_are_those_of_the_available_items_alone(catalogue, data, temperature):
    codes, sizes = catalogue
    trie = Trie(codes, sizes)
    excluded, allowed = data.draw(limits(len(codes)))
    constraints = Constraints(trie, excluded, allowed)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    for depth, size in enumerate(sizes):
        prefixes = sorted({tuple(row[:depth]) for row in codes.tolist()})
        # every node for every request in one call: constraints of one request must not reach another's
        nodes = torch.arange(len(prefixes)).repeat(len(excluded))
        rows = torch.arange(len(excluded)).repeat_interleave(len(prefixes))
        logits = 3 * torch.randn(len(nodes), size, generator=generator)
        found, child = trie.child_log_probs(depth, nodes, logits, temperature, constraints, rows)
        for p, (node, row) in enumerate(zip(nodes.tolist(), rows.tolist(), strict=True)):
            items = available(len(codes), excluded[row], allowed[row])
            slow = slow_log_probs(codes, prefixes[node], logits[p], temperature, items)
            live = torch.isfinite(found[p])
            reached = trie.code[depth][child[p]][live].tolist()
            assert dict(zip(reached, found[p][live].tolist(), strict=True)) == pytest.approx(slow, abs=1e-4)


def test_an_allow_list_and_exclusions_that_leave_nothing_by_hand():
    """Codes 0 and 1, two items each. Request 0 may get item 0 only, which is excluded; request 1 has code 1 alone."""
    trie = Trie(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), (2, 2))
    constraints = Constraints(
        trie, [np.array([0, 0]), np.array([0]), np.array([3])], [np.array([0]), np.array([0, 2, 2]), None]
    )
    assert constraints.excludes_everything().tolist() == [True, False, False]
    root, rows = torch.zeros(3, dtype=torch.int64), torch.arange(3)
    found, _ = trie.child_log_probs(0, root, torch.zeros(3, 2), 1.0, constraints, rows)
    assert found[0].tolist() == [-math.inf, -math.inf]
    assert found[1].tolist() == [-math.inf, 0.0]
    assert found[2].exp().tolist() == pytest.approx([0.5, 0.5])
    found, _ = trie.child_log_probs(
        1, torch.ones(3, dtype=torch.int64), torch.zeros(3, 2), 1.0, constraints, rows
    )
    assert found[1:].tolist() == [[0.0, -math.inf], [0.0, -math.inf]]


def test_gradients_stay_finite_under_an_allow_list():
    trie = Trie(np.array([[0], [2], [3]]), (5,))
    constraints = Constraints(trie, [np.array([]), np.array([])], [np.array([0, 2]), np.array([])])
    logits = torch.tensor([[0.0, 5.0, 5.0, math.log(3), 5.0]] * 2, requires_grad=True)
    nodes, rows = torch.zeros(2, dtype=torch.int64), torch.arange(2)
    found, _ = trie.child_log_probs(0, nodes, logits, 1.0, constraints, rows)
    found[0, 0].backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([0.75, 0.0, 0.0, -0.75, 0.0])
    assert logits.grad[1].tolist() == [0.0] * 5


def test_one_list_of_many_requests_is_held_once():
    trie = Trie(np.arange(1000)[:, None], (1000,))
    shared, own = np.arange(0, 500), np.arange(10)
    nothing = [np.array([])] * 40
    assert len(Constraints(trie, nothing, [shared] * 40).live[-1]) == 500
    assert len(Constraints(trie, nothing, [shared, own] * 20).live[-1]) == 510
    made = AllowList(trie, shared)
    assert Constraints(trie, nothing, [made] * 40).live[-1] is made.live[-1]


def test_a_long_list_that_nobody_writes_to_is_sorted_once_for_all_calls():
    trie, n = Trie(np.arange(4000)[:, None], (4000,)), 2000
    nothing = [np.array([])] * 2
    stock = np.arange(n)
    stock.flags.writeable = False
    first = Constraints(trie, nothing, [stock, stock]).live[-1]
    assert Constraints(trie, nothing, [None, stock]).live[-1] is first
    other = np.arange(1, n + 1)  # may be written to between two calls
    before = Constraints(trie, nothing, [other, other]).live[-1]
    other[:] = np.arange(n)
    assert Constraints(trie, nothing, [other, other]).live[-1].tolist() == first.tolist() != before.tolist()
    assert len(trie.lists) == 1
    for start in range(1, 20):  # what lives no longer is not kept, whoever has its address now
        one = np.arange(start, n + start)
        one.flags.writeable = False
        assert Constraints(trie, nothing, [one, None]).live[-1].tolist() == one.tolist()
        del one
    assert len(trie.lists) <= 2


def test_what_is_held_does_not_grow_with_the_catalogue():
    """100 excluded items keep no more than 100 numbers a depth, among a thousand items as among a hundred thousand."""
    for n in (10, 100):
        codes = np.stack(np.meshgrid(np.arange(n), np.arange(n), np.arange(10)), axis=-1).reshape(-1, 3)
        constraints = Constraints(Trie(codes, (n, n, 10)), [np.arange(100)])
        assert [len(keys) for keys in constraints.dead] == [0, 0, 10, 100]


def test_mistakes_are_named():
    trie = Trie(np.arange(3)[:, None], (3,))
    nothing = np.array([])
    with pytest.raises(ValueError, match="request 1 excludes item 3"):
        Constraints(trie, [np.array([0]), np.array([2, 3])])
    with pytest.raises(ValueError, match="request 0 excludes item -1"):
        Constraints(trie, [np.array([-1])])
    with pytest.raises(ValueError, match="allow-list of request 1 holds item 7"):
        Constraints(trie, [nothing, nothing], [None, np.array([1, 7])])
    with pytest.raises(
        ValueError, match="what request 0 excludes must be item numbers, got an array of bool"
    ):
        Constraints(trie, [np.array([True, False, True])])
    with pytest.raises(ValueError, match="2 requests"):
        Constraints(trie, [nothing, nothing], [None])
    with pytest.raises(ValueError, match="another trie"):
        Constraints(trie, [nothing], [AllowList(Trie(np.arange(3)[:, None], (3,)), np.array([1]))])

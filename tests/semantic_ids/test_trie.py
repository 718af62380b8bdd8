"""The trie against Python sets, dicts and brute force over generated catalogues."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_ids.constraints import Constraints
from semantic_ids.trie import Trie, UnknownPrefix
from tests.support.catalogues import catalogues, slow_log_probs


def some_excluded(draw, n_items: int) -> list[np.ndarray]:
    lists = draw(st.lists(st.lists(st.integers(0, n_items - 1), max_size=40), min_size=1, max_size=4))
    return [np.array(items, dtype=np.int64) for items in lists]


@given(catalogues())
def test_nodes_are_the_sorted_prefixes(catalogue):
    codes, sizes = catalogue
    trie = Trie(codes, sizes)
    for depth in range(len(sizes) + 1):
        prefixes = sorted({tuple(row[:depth]) for row in codes.tolist()})
        assert trie.n_nodes[depth] == len(prefixes)
        assert [trie.find(prefix) for prefix in prefixes] == list(range(len(prefixes)))
        for node, prefix in enumerate(prefixes):
            leaves = range(int(trie.leaf_start[depth][node]), int(trie.leaf_start[depth][node + 1]))
            under = {i for i, row in enumerate(codes.tolist()) if tuple(row[:depth]) == prefix}
            assert {int(trie.leaf_item[leaf]) for leaf in leaves} == under


@given(catalogues())
def test_path_leads_to_the_item(catalogue):
    codes, sizes = catalogue
    trie = Trie(torch.from_numpy(codes), sizes)
    path = trie.path(torch.arange(len(codes)))
    for item, row in enumerate(codes.tolist()):
        assert path[item].tolist() == [trie.find(row[:depth]) for depth in range(len(sizes) + 1)]
    assert torch.equal(trie.leaf_item[path[:, -1]], torch.arange(len(codes)))


@given(catalogues(), st.data())
def test_an_unknown_prefix_raises(catalogue, data):
    codes, sizes = catalogue
    trie = Trie(codes, sizes)
    prefix = tuple(data.draw(st.lists(st.integers(-1, 4), max_size=len(sizes) + 1)))
    if prefix in {tuple(row[: len(prefix)]) for row in codes.tolist()}:
        trie.find(prefix)
    else:
        with pytest.raises(UnknownPrefix):
            trie.find(prefix)


@given(catalogues(), st.data())
def test_exclusions_are_those_of_brute_force(catalogue, data):
    codes, sizes = catalogue
    trie = Trie(codes, sizes)
    excluded = some_excluded(data.draw, len(codes))
    exclusions = Constraints(trie, excluded)
    for depth in range(len(sizes) + 1):
        prefixes = sorted({tuple(row[:depth]) for row in codes.tolist()})
        nodes = torch.arange(len(prefixes)).expand(len(excluded), -1)
        rows = torch.arange(len(excluded))[:, None].expand_as(nodes)
        for row, gone in enumerate(excluded):
            left = {tuple(codes[i, :depth].tolist()) for i in set(range(len(codes))) - set(gone.tolist())}
            assert exclusions.allowed(depth, nodes, rows)[row].tolist() == [p in left for p in prefixes]
    assert exclusions.excludes_everything().tolist() == [len(set(e.tolist())) == len(codes) for e in excluded]


@settings(max_examples=50)
@given(catalogues(), st.data(), st.sampled_from([0.3, 1.0, 2.5]))
def test_child_log_probs_against_a_slow_softmax(catalogue, data, temperature):
    codes, sizes = catalogue
    trie = Trie(codes, sizes)
    excluded = some_excluded(data.draw, len(codes))
    exclusions = Constraints(trie, excluded)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    for depth, size in enumerate(sizes):
        prefixes = sorted({tuple(row[:depth]) for row in codes.tolist()})
        for row, gone in enumerate(excluded):
            logits = 3 * torch.randn(len(prefixes), size, generator=generator)
            nodes, rows = torch.arange(len(prefixes)), torch.full((len(prefixes),), row)
            found, child = trie.child_log_probs(depth, nodes, logits, temperature, exclusions, rows)
            allowed = set(range(len(codes))) - set(gone.tolist())
            for node, prefix in enumerate(prefixes):
                slow = slow_log_probs(codes, prefix, logits[node], temperature, allowed)
                live = torch.isfinite(found[node])
                by_code = dict(
                    zip(trie.code[depth][child[node]][live].tolist(), found[node][live].tolist(), strict=True)
                )
                assert by_code == pytest.approx(slow, abs=1e-4)


@settings(max_examples=50)
@given(catalogues(), st.data(), st.sampled_from([0.5, 1.0]))
def test_the_products_along_the_paths_sum_to_one_over_the_allowed_items(catalogue, data, temperature):
    codes, sizes = catalogue
    trie = Trie(codes, sizes)
    excluded = some_excluded(data.draw, len(codes))[:1]
    exclusions = Constraints(trie, excluded)
    path = trie.path(torch.arange(len(codes)))
    total = torch.zeros(len(codes))
    generator = torch.Generator().manual_seed(0)
    for depth, size in enumerate(sizes):
        logits = torch.randn(trie.n_nodes[depth], size, generator=generator)[path[:, depth]]
        rows = torch.zeros(len(codes), dtype=torch.int64)
        found, child = trie.child_log_probs(depth, path[:, depth], logits, temperature, exclusions, rows)
        offset = path[:, depth + 1] - trie.child_start[depth][path[:, depth]]
        assert torch.equal(child.gather(1, offset[:, None])[:, 0], path[:, depth + 1])
        total += found.gather(1, offset[:, None])[:, 0]
    gone = torch.zeros(len(codes), dtype=torch.bool)
    gone[torch.from_numpy(excluded[0])] = True
    assert torch.isneginf(total[gone]).all()
    assert float(total.exp().sum()) == pytest.approx(0.0 if gone.all() else 1.0, abs=1e-5)


def test_an_emptied_subtree_by_hand():
    """Four items; excluding both under code 0 leaves code 1 with probability one, whatever the logits say."""
    trie = Trie(np.array([[1, 0], [0, 1], [0, 0], [1, 1]]), (2, 2))
    exclusions = Constraints(trie, [np.array([2, 1, 1]), np.array([0])])
    root = torch.zeros(2, dtype=torch.int64)
    logits = torch.tensor([[9.0, 0.0], [0.0, math.log(3)]])
    found, child = trie.child_log_probs(0, root, logits, 1.0, exclusions, torch.tensor([0, 1]))
    assert child.tolist() == [[0, 1], [0, 1]]
    assert found[0].tolist() == [-math.inf, 0.0]  # request 0: the subtree of code 0 is gone
    assert found[1].exp().tolist() == pytest.approx(
        [0.25, 0.75]
    )  # request 1: both subtrees have an item left


def test_gradients_are_finite_and_right():
    """d log p(live child) / d logits = onehot − softmax over the live ones; nothing flows elsewhere."""
    trie = Trie(np.array([[0], [2], [3]]), (5,))
    exclusions = Constraints(trie, [np.array([1]), np.array([0, 1, 2])])
    logits = torch.tensor([[0.0, 5.0, 5.0, math.log(3), 5.0]] * 2, requires_grad=True)
    nodes, rows = torch.zeros(2, dtype=torch.int64), torch.arange(2)
    found, _ = trie.child_log_probs(0, nodes, logits, 1.0, exclusions, rows)
    assert torch.isneginf(found[1]).all()
    found[0, 0].backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([0.75, 0.0, 0.0, -0.75, 0.0])
    assert logits.grad[1].tolist() == [0.0] * 5


def test_a_tiny_temperature_is_the_argmax_and_zero_is_refused():
    trie = Trie(np.arange(3)[:, None], (3,))
    logits, root = torch.tensor([[1.0, 2.0, -1.0]]), torch.zeros(1, dtype=torch.int64)
    assert trie.child_log_probs(0, root, logits, 1e-38)[0].exp().tolist() == [[0.0, 1.0, 0.0]]
    for temperature in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="temperature"):
            trie.child_log_probs(0, root, logits, temperature)


def test_shared_codes_are_refused_by_item():
    with pytest.raises(ValueError, match=r"items 1 and 3 share the codes \[1, 1\]"):
        Trie(np.array([[0, 1], [1, 1], [0, 0], [1, 1]]), (2, 2))


@pytest.mark.parametrize(
    ("codes", "sizes", "says"),
    [
        ([[0, 2]], (2, 2), "item 0"),
        ([[-1, 0]], (2, 2), "item 0"),
        ([[0, 0]], (2,), "levels"),
        ([[0.5]], (2,), "integers"),
    ],
)
def test_malformed_codes_are_refused(codes, sizes, says):
    with pytest.raises(ValueError, match=says):
        Trie(np.array(codes), sizes)


def test_items_outside_the_catalogue_are_refused():
    with pytest.raises(ValueError, match=r"\[-1\]"):
        Trie(np.arange(3)[:, None], (3,)).path(torch.tensor([-1]))


@pytest.mark.parametrize(
    "size", [2**15, 2**20]
)  # a key with no bits to spare for the item; no integer key at all
def test_codes_too_wide_for_one_integer_key_sort_the_same(size):
    rng = np.random.default_rng(0)
    codes = np.unique(rng.integers(0, 3, (40, 4)), axis=0)
    rng.shuffle(codes)
    narrow, wide = Trie(codes, (3,) * 4), Trie(codes, (size,) * 4)
    assert torch.equal(narrow.leaf_item[:], wide.leaf_item[:])
    assert all(torch.equal(a[:], b[:]) for a, b in zip(narrow.child_start, wide.child_start, strict=True))


def test_numbers_past_16_bits_survive_the_round_trip():
    """70,000 items, codes up to 69,999: entries of two bytes and of four."""
    codes = np.stack([np.arange(70_000) % 7, np.random.default_rng(0).permutation(70_000)], axis=1)
    trie = Trie(codes.astype(np.int32), (7, 70_000))
    path = trie.path(torch.arange(70_000))
    found = torch.stack([trie.code[level][path[:, level + 1]] for level in range(2)], dim=1)
    assert np.array_equal(found.numpy(), codes)
    assert torch.equal(trie.parent[1][path[:, 2]], path[:, 1])
    assert trie.find(codes[-1].tolist()) == int(trie.item_leaf[69_999])


def test_a_complete_depth_answers_as_the_same_depth_by_lookup():
    """Every code pair exists. With one more code that no item has, the same trie looks its children up."""
    codes = np.stack(np.meshgrid(np.arange(3), np.arange(4)), axis=-1).reshape(-1, 2)
    complete, looked_up = Trie(codes, (3, 4)), Trie(codes, (4, 5))
    assert complete.complete == (True, True)
    assert looked_up.complete == (False, False)
    excluded = [np.array([0, 3, 6, 9, 7])]
    for depth, n in enumerate((1, 3)):
        logits, rows = torch.randn(n, 5), torch.zeros(n, dtype=torch.int64)
        for exclude in ([np.array([])], excluded):
            one, other = (
                trie.child_log_probs(
                    depth,
                    torch.arange(n),
                    logits[:, : trie.sizes[depth]],
                    0.7,
                    Constraints(trie, exclude),
                    rows,
                )
                for trie in (complete, looked_up)
            )
            assert torch.equal(one[1], other[1])
            assert torch.equal(one[0], other[0])


def test_which_depths_have_a_dense_table():
    """Root of 4 codes of 4: complete. Nodes of 2, 3, 2, 2 children of 4: dense. Nodes of 1 child of 4: looked up."""
    pairs = [(0, 0), (0, 1), (1, 0), (1, 2), (1, 3), (2, 0), (2, 1), (3, 2), (3, 3)]
    trie = Trie(np.array([(*pair, 1) for pair in pairs]), (4, 4, 4))
    assert trie.complete == (True, False, False)
    assert [table is not None for table in trie.dense] == [False, True, False]
    table = trie.dense[1]
    assert table is not None
    assert [tuple(cell) for cell in torch.nonzero(table.absent == 0).tolist()] == pairs
    assert table.child[torch.tensor([4 * a + b for a, b in pairs])].tolist() == list(range(9))


def test_children_are_padded_by_the_last_one():
    trie = Trie(np.array([[0, 0], [1, 0], [1, 2], [1, 3]]), (3, 4))
    child, real = trie.children(1, torch.tensor([1, 0]))
    assert child.tolist() == [[1, 2, 3], [0, 0, 0]]
    assert real.tolist() == [[True, True, True], [True, False, False]]


def test_a_million_items_take_at_most_100_megabytes():
    keys = np.random.default_rng(0).permutation(2_000_000)[:1_000_000] * 2147
    trie = Trie(np.stack([keys >> shift & 255 for shift in (24, 16, 8, 0)], axis=1), (256,) * 4)
    assert trie.n_bytes <= 100e6
    some = torch.arange(0, 1_000_000, 997)
    assert torch.equal(trie.leaf_item[trie.path(some)[:, -1]], some)


@pytest.mark.gpu
def test_another_device_answers_the_same():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    codes = np.unique(np.random.default_rng(0).integers(0, 9, (200, 3)), axis=0)
    answers = []
    for trie in (Trie(codes, (9,) * 3), Trie(codes, (9,) * 3).to("cuda")):
        nodes = trie.path(torch.arange(len(codes)))[:, 2]
        logits = torch.linspace(-3, 3, 9 * len(nodes)).reshape(-1, 9).to(trie.device)
        limits = Constraints(trie, [np.arange(20)], [np.arange(10, 150)])
        found, child = trie.child_log_probs(2, nodes, logits, 0.7, limits, torch.zeros_like(nodes))
        offset = trie.path(torch.arange(len(codes)))[:, 3] - child[:, 0]
        answers.append(found.gather(1, offset[:, None]).cpu())
    torch.testing.assert_close(*answers)


def test_no_request_and_no_exclusion():
    trie = Trie(np.arange(3)[:, None], (3,))
    assert Constraints(trie, []).excludes_everything().tolist() == []
    assert Constraints(trie, [np.array([])]).excludes_everything().tolist() == [False]

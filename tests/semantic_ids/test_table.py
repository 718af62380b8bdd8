"""The item ↔ codes table, and the collision policies against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_ids.quantizer import residual_codes, sum_of_codes
from semantic_ids.table import SemanticIdTable, make_unique, place_new
from semantic_ids.trie import UnknownPrefix


def quantised(n: int, sizes: tuple[int, ...], seed: int, spread: float = 1.0):
    """Latents [n, 3], random codebooks that shrink level by level, and the greedy codes."""
    generator = torch.Generator().manual_seed(seed)
    books = [torch.randn(size, 3, generator=generator) / 2**level for level, size in enumerate(sizes)]
    latent = spread * torch.randn(n, 3, generator=generator)
    return latent, books, residual_codes(latent, books).numpy()


def distances(z: torch.Tensor, books, sizes) -> dict[tuple[int, ...], float]:
    """Squared distance of one latent to the sum that each code tuple stands for."""
    everything = list(itertools.product(*map(range, sizes)))
    sums = sum_of_codes(torch.tensor(everything), books).double()
    return dict(zip(everything, (z.double() - sums).square().sum(1).tolist(), strict=True))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 24), st.sampled_from([(24,), (4, 6), (3, 2, 4), (6, 4)]), st.integers(0, 99))
def test_reassign_is_unique_moves_only_the_surplus_and_repeats(n, sizes, seed):
    latent, books, codes = quantised(n, sizes, seed, spread=0.3)
    found = make_unique(codes, sizes, latent, books)
    assert len(np.unique(found.codes, axis=0)) == n
    assert found.sizes == sizes
    assert found.moved.sum() == n - len(np.unique(codes, axis=0))
    assert np.array_equal(found.moved, (found.codes != codes).any(axis=1))
    assert np.array_equal(make_unique(codes, sizes, latent, books).codes, found.codes)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 14), st.integers(0, 99), st.sampled_from([0.0, 0.6, 1.0]))
def test_reassign_keeps_the_best_and_gives_the_nearest_free(n, seed, alike):
    """The policy replayed with dicts of all distances, over sizes (2, 3, 3); a part of the items is alike, as those nobody has had are."""
    sizes = (2, 3, 3)
    latent, books, _ = quantised(n, sizes, seed, spread=0.2)
    latent[: round(alike * n)] = latent[0]
    codes = residual_codes(latent, books).numpy()
    far = [distances(z, books, sizes) for z in latent]
    own = [tuple(row) for row in codes.tolist()]
    order = sorted(range(n), key=lambda i: (far[i][own[i]], i))
    expected: dict[int, tuple[int, ...]] = {}
    for item in order:  # best represented first: the first of each group keeps its codes
        if own[item] not in expected.values():
            expected[item] = own[item]
    for item in order:
        if item in expected:
            continue
        free = set(far[item]) - set(expected.values())
        near = [c for c in free if c[:2] == own[item][:2]] or [c for c in free if c[:1] == own[item][:1]]
        if not near:  # a full first code: those of the other one
            near = list(free)
        expected[item] = min(near, key=lambda c: far[item][c])
    found = make_unique(codes, sizes, latent, books).codes
    assert [tuple(row) for row in found.tolist()] == [expected[item] for item in range(n)]


def test_reassign_fills_every_id_when_it_must():
    latent, books, codes = quantised(8, (2, 2, 2), 0, spread=0.01)
    assert len(np.unique(make_unique(codes, (2, 2, 2), latent, books).codes, axis=0)) == 8
    latent, books, codes = quantised(9, (2, 2, 2), 0)
    with pytest.raises(ValueError, match="8 semantic IDs, too few for 9"):
        make_unique(codes, (2, 2, 2), latent, books)


def test_extra_level_counts_up_from_the_best_represented():
    books = [torch.tensor([[0.0], [10.0]])]
    latent = torch.tensor([[3.0], [10.0], [1.0], [2.0]])
    found = make_unique(np.array([[0], [1], [0], [0]]), (2,), latent, books, "extra_level")
    assert found.codes.tolist() == [[0, 2], [1, 0], [0, 0], [0, 1]]
    assert found.sizes == (2, 3)
    assert found.moved.tolist() == [True, False, False, True]


def test_new_items_take_their_own_codes_or_the_nearest_free():
    sizes = (3, 4)
    latent, books, codes = quantised(6, sizes, 1)
    table = SemanticIdTable(make_unique(codes, sizes, latent, books).codes, sizes)
    new = torch.cat([latent[:2], quantised(4, sizes, 2)[0]])
    placed = place_new(table, new, books)
    taken = {tuple(row) for row in table.codes.tolist()}
    for z, row in zip(new, placed.tolist(), strict=True):
        own = tuple(residual_codes(z[None], books)[0].tolist())
        assert tuple(row) not in taken
        if own not in taken:
            assert tuple(row) == own
        taken.add(tuple(row))
    longer = table.extended(placed)
    assert longer.n_items == 12
    assert longer.content_hash() == table.content_hash()
    with pytest.raises(ValueError, match="too few for 13"):
        place_new(longer, latent[:1], books)


def test_new_items_under_an_extra_level_take_its_lowest_free_code():
    books = [torch.tensor([[0.0], [10.0]])]
    table = SemanticIdTable(np.array([[0, 0], [0, 1], [1, 0]]), (2, 3))
    assert place_new(table, torch.tensor([[9.0], [1.0], [1.0]]), books).tolist() == [[1, 1], [0, 2], [1, 2]]


def test_lookup_is_the_inverse_of_codes_and_unknown_ones_raise():
    codes = np.array([[0, 1], [1, 1], [0, 0]])
    table = SemanticIdTable(codes, (2, 2))
    assert [table.lookup(row) for row in table.codes_of(np.arange(3))] == [0, 1, 2]
    assert table.codes_of(1).tolist() == [1, 1]
    with pytest.raises(UnknownPrefix, match=r"\(1, 0\)"):
        table.lookup((1, 0))
    with pytest.raises(ValueError, match="2 codes"):
        table.lookup((1,))
    for item in (3, -1):
        with pytest.raises(ValueError, match=f"item {item}"):
            table.codes_of([0, item])


def test_shared_codes_are_refused():
    with pytest.raises(ValueError, match="items 0 and 2 share"):
        SemanticIdTable(np.array([[0, 1], [1, 1], [0, 1]]), (2, 2))


def test_the_hash_tells_tables_apart():
    codes = np.array([[0, 1], [1, 1]])
    hashes = {
        SemanticIdTable(codes, (2, 2)).content_hash(),
        SemanticIdTable(codes, (2, 3)).content_hash(),
        SemanticIdTable(codes[::-1], (2, 2)).content_hash(),
        SemanticIdTable(codes[:1], (2, 2)).content_hash(),
    }
    assert len(hashes) == 4
    assert SemanticIdTable(codes.astype(np.int32), [2, 2]).content_hash() in hashes


def test_saved_and_loaded_it_is_the_same_and_a_mixed_pair_is_refused(tmp_path):
    table = SemanticIdTable(np.array([[0, 1], [1, 1]]), (2, 2)).extended(np.array([[0, 0]]))
    table.save(tmp_path)
    again = SemanticIdTable.load(tmp_path)
    assert np.array_equal(again.codes, table.codes)
    assert (again.sizes, again.n_base, again.content_hash()) == ((2, 2), 2, table.content_hash())
    facts = (tmp_path / "semantic_ids.json").read_text()
    SemanticIdTable(np.array([[1, 1], [0, 1], [0, 0]]), (2, 2), 2).save(tmp_path)
    (tmp_path / "semantic_ids.json").write_text(facts)
    with pytest.raises(ValueError, match="does not match"):
        SemanticIdTable.load(tmp_path)

"""Items below a node, asked by a query: by plain loops, forward and backward, in parts and in groups; principal components."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llm.backbone import leaves
from llm.backbone.leaves import LeafItems, principal
from semantic_ids.trie import Trie
from tests.support.catalogues import SIZES, unique_codes

CODES = unique_codes(30)
VECTORS = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def items() -> LeafItems:
    return LeafItems(Trie(CODES, SIZES), VECTORS)


def by_hand(items: LeafItems, queries: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
    trie, rows = items.trie, []
    above = trie.codes_above(trie.n_levels - 1, nodes)
    for query, codes in zip(queries, above.tolist(), strict=True):
        row = [torch.zeros(()) for _ in range(SIZES[-1])]
        for item in range(len(CODES)):
            if CODES[item, :-1].tolist() == codes:
                row[int(CODES[item, -1])] = query @ VECTORS[item]
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("at_once", [1, 40, 1 << 22])
@pytest.mark.parametrize("kind", ["some", "each as often"])
def test_scores_and_their_gradient_are_those_of_plain_loops(items, monkeypatch, kind, at_once):
    monkeypatch.setattr(leaves, "AT_ONCE", at_once)
    n = items.trie.n_nodes[-2]
    generator = torch.Generator().manual_seed(1)
    nodes = (
        torch.arange(n).repeat(3) if kind == "each as often" else torch.randint(n, (25,), generator=generator)
    )
    weights = torch.randn(len(nodes), SIZES[-1], generator=generator)
    gradients = []
    for way in (items.scores, lambda queries, nodes: by_hand(items, queries, nodes)):
        queries = torch.randn(len(nodes), 4, generator=torch.Generator().manual_seed(2)).requires_grad_()
        found = way(queries, nodes)
        (found * weights).sum().backward()
        gradients.append((found.detach(), queries.grad))
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    torch.testing.assert_close(gradients[0][1], gradients[1][1])


def test_nodes_that_are_asked_equally_often_gather_their_items_once(items):
    nodes = torch.arange(items.trie.n_nodes[-2]).repeat(5)
    groups = list(items.groups(nodes))
    assert sum(group.vectors.abs().sum(2).gt(0).sum() for group in groups) == 30
    assert sorted(torch.cat([group.places.reshape(-1) for group in groups]).tolist()) == list(
        range(len(nodes))
    )


def test_nobody_asks(items):
    assert items.scores(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)).shape == (0, SIZES[-1])


def test_principal_components_keep_the_geometry_whatever_the_signs_and_refuse_more_than_there_are():
    generator = np.random.default_rng(0)
    vectors = torch.from_numpy(generator.normal(size=(50, 6)) * [9, 5, 3, 1e-3, 1e-3, 1e-3] + 4)
    found = principal(vectors, 3)
    centred = vectors - vectors.mean(0)
    scale = (centred.square().sum() / (50 * 3)).sqrt()
    torch.testing.assert_close(
        (found @ found.T).double(), centred @ centred.T / scale**2, atol=1e-3, rtol=1e-3
    )
    assert found.square().mean().item() == pytest.approx(1)
    axes = torch.linalg.eigh(centred.T @ centred)[1].flip(1)[:, 0]
    along = centred @ axes
    torch.testing.assert_close(
        found[:, 0].double() * scale, along * axes[axes.abs().argmax()].sign(), atol=1e-3, rtol=1e-3
    )
    with pytest.raises(ValueError, match=r"adapt\.head_asks_dims is 7, and the items' vectors have 6"):
        principal(vectors, 7)

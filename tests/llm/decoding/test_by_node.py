"""A depth head asked node after node for all prompts says what it says of each pair of a prompt and a node."""

import numpy as np
import pytest
import torch

from llm.backbone.heads import DepthHead
from llm.backbone.leaves import LeafItems
from llm.backbone.vocabulary import SidRows
from llm.decoding import by_node
from recsys.seeds import torch_generator
from semantic_ids.trie import Trie
from tests.support.catalogues import SIZES, unique_codes

N_ITEMS, HIDDEN = 60, 24


def a_head(layers: int, trie: Trie, asks: bool) -> DepthHead:
    """Random everywhere, so that nothing is small enough to be left out unseen."""
    rows = SidRows(SIZES, HIDDEN)
    rows.start_from([None] * len(SIZES), norm=1.0, seed=3)
    vectors = torch.randn(N_ITEMS, 7, generator=torch_generator(3, "leaves"))
    head = DepthHead(rows, width=16, layers=layers, items=LeafItems(trie, vectors) if asks else None)
    head.start(seed=3)
    generator = torch_generator(3, "by node", layers)
    for parameter in head.parameters():
        parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    rows.requires_grad_(False)
    return head.requires_grad_(False)


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("layers", [0, 1, 2])
@pytest.mark.parametrize("pairs", [1, 1 << 18])
def test_every_item_has_the_probability_that_its_own_path_has(layers, pairs, asks, monkeypatch):
    monkeypatch.setattr(by_node, "PAIRS", pairs)
    trie = Trie(unique_codes(N_ITEMS), SIZES)
    head = a_head(layers, trie, asks)
    states = torch.randn(5, HIDDEN, generator=torch_generator(0, "states"))
    found = by_node.all_log_probs(head, states, trie)

    path = trie.path(torch.arange(N_ITEMS))
    codes, expected = trie.codes(path), torch.zeros(5, N_ITEMS)
    for row, state in enumerate(states):
        for level in range(trie.n_levels):
            logits = head.logits(level, state.expand(N_ITEMS, 1, HIDDEN), codes, path[:, level])
            log_probs, children = trie.child_log_probs(level, path[:, level], logits)
            child = path[:, level + 1] - children[:, 0]
            expected[row] += log_probs.gather(1, child[:, None])[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.exp().sum(1), 1, rtol=1e-5)
    assert found.std() > 0.5, "a uniform head would prove nothing"

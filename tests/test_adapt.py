"""Stage 1's loss against scoring one target at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llm import scoring
from llm.adapt import window_loss
from llm.windows import Window


def test_the_window_loss_is_the_mean_over_targets_scored_one_by_one(tiny):
    generator = np.random.default_rng(0)
    windows, prompts, targets = [], [], []
    for length, head in ((5, 3), (2, 30), (4, 1), (1, 12), (3, 3)):
        items = generator.integers(0, 30, length)
        start = [256, *generator.integers(0, 256, head).tolist()]
        body = tiny.item_tokens[items].reshape(-1).tolist()
        windows.append(Window(start + body, items, len(start) + 3 * np.arange(length)))
        for place, item in enumerate(items):
            prompts.append(start + body[: 3 * place])
            targets.append(item)
    expected = -scoring.log_probs(tiny, prompts, np.array(targets), budget=1).mean()
    assert window_loss(tiny, windows).item() == pytest.approx(expected, rel=1e-4)


def test_gradients_reach_rows_only_through_the_trie(tiny):
    """A level whose node has one child carries no loss: its output row gets no gradient."""
    tiny.rows.requires_grad_(True)
    try:
        tiny.rows.zero_grad()
        path = tiny.trie.path(torch.arange(30))
        single = [
            item for item in range(30)
            if tiny.trie.child_start[2][path[item, 2] + 1] - tiny.trie.child_start[2][path[item, 2]] == 1
        ]  # fmt: skip
        assert single
        item = single[0]
        window = Window([256, 65, *tiny.item_tokens[item].tolist()], np.array([item]), np.array([2]))
        window_loss(tiny, [window]).backward()
        first, last = (int(token) - tiny.text_size for token in tiny.item_tokens[item][[0, 2]])
        assert tiny.rows.output.grad[last].abs().sum() == 0
        assert tiny.rows.output.grad[first].abs().sum() > 0
    finally:
        tiny.rows.zero_grad()
        tiny.rows.requires_grad_(False)

"""Label smoothing by hand; dropout's randomness and place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from llm.backbone.regularise import BranchDropout
from llm.stage1.adapt import window_loss
from llm.stage1.windows import Window


def test_label_smoothing_by_a_slow_loop(tiny):
    items = np.array([3, 17])
    prompt = [256, 65, 66]
    window = Window([*prompt, *tiny.item_tokens[items].reshape(-1).tolist()], items, np.array([3, 6]))
    total = 0.0
    for place, item in enumerate(items):
        before = [*prompt, *tiny.item_tokens[items[:place]].reshape(-1).tolist()]
        for level in range(3):
            codes = tiny.item_tokens[item].tolist()
            with torch.no_grad():
                hidden = tiny.hidden(tiny.pack([[*before, *codes[:level]]]))[-1:]
                logits = tiny.rows.logits(hidden, level)
            node = tiny.trie.path(torch.tensor([item]))[:, level]
            log_p, children = tiny.trie.child_log_probs(level, node, logits)
            live = log_p[0][~torch.isneginf(log_p[0])]
            own = children[0].tolist().index(int(tiny.trie.path(torch.tensor([item]))[0, level + 1]))
            total += 0.8 * float(log_p[0, own]) + 0.2 * float(live.mean())
    assert window_loss(tiny, [window], 0.2).item() == pytest.approx(-total / 2, rel=1e-5)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn, self.mlp = nn.Identity(), nn.Identity()

    def forward(self, hidden_states):
        hidden_states = hidden_states + self.self_attn(hidden_states)
        return hidden_states + self.mlp(hidden_states)


def test_dropout_is_inside_on_alone_keyed_by_the_step_and_keeps_the_mean():
    block, x, cpu = Block(), torch.ones(1, 1000, 8), torch.device("cpu")
    dropout = BranchDropout([block], 0.25, seed=1)
    assert (block(x) == 4).all()

    def at(step):
        with dropout.on(step, cpu):
            return block(x)

    first = at(0)
    assert (at(0) == first).all()
    assert not (at(1) == first).all()
    assert (block(x) == 4).all(), "nothing is dropped outside"
    assert first.mean().item() == pytest.approx(4, rel=0.03)
    assert (first == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)  # what did not enter at all
    assert not torch.isin(first, torch.tensor([4.0])).any()  # 4/3 · (1 or 7/3) · (1 or 7/3)
    state = torch.get_rng_state()
    at(2)
    assert (torch.get_rng_state() == state).all(), "nobody else's numbers move"


def test_a_real_decoder_is_dropped_from_in_every_branch(tiny):
    """Attention, MLP and what enters, of transformers' own layers: each changes the states by itself, and the expectation is kept."""
    packed, cpu = tiny.pack([[256, 65, 66, 67]]), torch.device("cpu")
    whole = tiny.hidden(packed).detach()
    seen = []

    def note(module, args, output):
        seen.append(output[0] if isinstance(output, tuple) else output)

    dropout = BranchDropout(tiny.layers, 0.5, seed=0)
    hooks = [
        part.register_forward_hook(note) for layer in tiny.layers for part in (layer.self_attn, layer.mlp)
    ]
    try:
        with dropout.on(0, cpu), torch.no_grad():
            dropped = tiny.hidden(packed)
        assert len(seen) == 2 * len(tiny.layers)
        for branch in seen:
            assert 0.3 < (branch == 0).float().mean() < 0.7
        assert not torch.allclose(dropped, whole)
        seen.clear()
        with torch.no_grad():
            assert torch.equal(tiny.hidden(packed), whole)
        assert not any((branch == 0).any() for branch in seen)
    finally:
        for hook in hooks:
            hook.remove()

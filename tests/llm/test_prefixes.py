"""E2P against the formula, its budget, and where the soft token goes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llm.backbone.vocabulary import PREFIX, SidRows
from llm.prompts.prefixes import E2P, StaticPrefix, parameter_count
from tests.support.catalogues import SIZES


def test_e2p_is_equation_2():
    phi = E2P(dim=5, bottleneck=4, hidden_size=7, seed=1)
    with torch.no_grad():
        for parameter in phi.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            )
    c = np.random.default_rng(0).normal(size=(3, 5))
    w1, w2, b = (t.detach().double().numpy() for t in (phi.w1.weight, phi.w2.weight, phi.w2.bias))
    gain, shift = phi.norm.weight.detach().double().numpy(), phi.norm.bias.detach().double().numpy()
    scaled = c / np.linalg.norm(c, axis=1, keepdims=True) * 5**0.5
    hidden = np.maximum(scaled @ w1.T, 0)
    normed = (hidden - hidden.mean(1, keepdims=True)) / np.sqrt(
        hidden.var(1, keepdims=True) + 1e-5
    ) * gain + shift
    ours = phi(torch.from_numpy(c).float())
    assert ours.shape == (3, 1, 7)
    np.testing.assert_allclose(ours[:, 0].detach().numpy(), normed @ w2.T + b, rtol=1e-4, atol=1e-5)


def test_the_budget_of_the_paper():
    """About 100,000 parameters at 120-d for h = 576: W₁, LayerNorm, W₂ and b."""
    phi = E2P(120, 142, 576)
    assert parameter_count(phi) == 120 * 142 + 2 * 142 + 142 * 576 + 576 == 99_692


def test_it_starts_near_the_norm_of_a_token_embedding():
    norms = E2P(120, 142, 576, norm=3.2)(
        torch.randn(200, 120, generator=torch.Generator().manual_seed(0))
    ).norm(dim=-1)
    assert norms.mean().item() == pytest.approx(3.2, rel=0.1)


def test_the_static_prefix_ignores_the_user_and_shares_phi():
    static = StaticPrefix(5, 4, 7, seed=2)
    out = static(torch.randn(3, 5))
    assert torch.equal(out[0], out[2])
    assert torch.equal(out[0], static.phi(static.constant)[0])
    assert parameter_count(static) == parameter_count(E2P(5, 4, 7)) + 5


def test_soft_tokens_take_the_prefix_places_and_nothing_else_moves(tiny):
    prefix = torch.randn(2, 2, 64, generator=torch.Generator().manual_seed(0))
    packed = tiny.pack([[PREFIX, PREFIX, 256, 65], [7], [256, PREFIX, PREFIX, int(tiny.item_tokens[3, 0])]])
    prefix = torch.stack([prefix[0], torch.zeros(2, 64), prefix[1]])
    out = tiny.embed(packed, prefix)
    assert torch.equal(out[:2], prefix[0])
    assert torch.equal(out[6:8], prefix[2])
    table = tiny.inner.get_input_embeddings().weight
    assert torch.equal(out[3:5], table[[65, 7]])
    assert torch.equal(out[8], tiny.rows.input[int(tiny.item_tokens[3, 0]) - tiny.text_size])
    with pytest.raises(ValueError, match="2 places for soft tokens, and 1 are given"):
        tiny.embed(packed, prefix[:, :1])
    with pytest.raises(ValueError, match="and 0 are given"):
        tiny.embed(packed, None)


def test_rows_start_from_codebooks_at_the_norm_of_the_text_embeddings():
    rows = SidRows(SIZES, 64)
    books = [torch.randn(size, 6, generator=torch.Generator().manual_seed(size)) for size in SIZES]
    rows.start_from(books, norm=3.0, seed=0)
    first = rows.input[:4].detach()
    assert first.norm(dim=1).mean().item() == pytest.approx(3.0, rel=1e-4)
    near = torch.cdist(books[0] - books[0].mean(0), books[0] - books[0].mean(0))
    ours = torch.cdist(first, first)
    pairs = torch.triu_indices(4, 4, 1)
    assert np.corrcoef(near[pairs[0], pairs[1]], ours[pairs[0], pairs[1]])[0, 1] > 0.8
    with pytest.raises(ValueError, match="level 1"):
        rows.start_from([books[0], books[0], books[2]], 1.0, 0)

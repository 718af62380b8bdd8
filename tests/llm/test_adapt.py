"""Stage 1's loss against scoring one target at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llm.backbone.load import BackboneConfig, load_backbone
from llm.decoding import scoring
from llm.stage1.adapt import adapt, window_loss
from llm.stage1.config import AdaptConfig
from llm.stage1.model import new_model
from llm.stage1.windows import Window
from recsys.run import Run
from semantic_ids.table import SemanticIdTable
from tests.support.catalogues import SIZES, unique_codes


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


def _adapted(dtype: str):
    """An untrained Stage 1 model under a LoRA whose B is not zero, so that A has a gradient too."""
    config = AdaptConfig(backbone=BackboneConfig(name="tiny-random", device="cpu", dtype=dtype), lora_rank=4)
    table = SemanticIdTable(unique_codes(30), SIZES)
    model = new_model(
        load_backbone(config.backbone), table, [None] * 3, config, [f"title {n}" for n in range(30)]
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.inner.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02, generator=generator)
    return model


def test_what_is_trained_beside_a_bfloat16_backbone_is_float32():
    """As on a GPU: the backbone's weights are bfloat16, LoRA and rows and all of their gradients float32, and the loss the same."""
    items = np.array([3, 17, 8])
    losses = {}
    for dtype in ("float32", "bfloat16"):
        model = _adapted(dtype)
        tokens = [256, 65, 66, *model.item_tokens[items].reshape(-1).tolist()]
        loss = window_loss(model, [Window(tokens, items, 3 + 3 * np.arange(3))])
        loss.backward()
        losses[dtype] = loss.item()
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        assert {p.dtype for p in trained.values()} == {torch.float32}
        assert all(p.grad.dtype == torch.float32 and p.grad.abs().sum() > 0 for p in trained.values())
        assert model.dtype == getattr(torch, dtype)
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["bfloat16"] != losses["float32"]


def test_a_backbone_cannot_be_trained_whole_in_bfloat16(tmp_path):
    wrong = AdaptConfig(backbone=BackboneConfig(name="scratch", dtype="bfloat16"), train="full")
    with pytest.raises(ValueError, match=r"set adapt\.backbone\.dtype to float32 or auto"):
        adapt(wrong, Run.create(tmp_path / "run"))

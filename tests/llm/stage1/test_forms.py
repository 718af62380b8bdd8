"""Stage 1 in each form of an item: its loss against scoring one by one, what it saves, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from llm.backbone.conditions import Condition
from llm.backbone.load import BackboneConfig, load_backbone
from llm.backbone.regularise import BranchDropout
from llm.decoding import scoring
from llm.prompts.builder import PromptBuilder, PromptConfig
from llm.stage1.adapt import window_loss
from llm.stage1.config import AdaptConfig
from llm.stage1.model import new_model
from llm.stage1.windows import Window
from recsys.data.catalogue import Catalogue
from semantic_ids.table import SemanticIdTable
from tests.support.catalogues import SIZES, unique_codes
from tests.support.models import FORMS, tiny_model
from tests.support.slow_references import slow_distribution

FRESH = {"backbone": BackboneConfig(name="tiny-random", device="cpu"), "lora_rank": 4}


@pytest.mark.parametrize("form", FORMS[1:])
def test_the_window_loss_is_the_mean_over_targets_scored_one_by_one(form):
    """And of label smoothing, by plain loops over every node of the path."""
    model, generator = tiny_model(form), np.random.default_rng(0)
    width = model.item_tokens.shape[1]
    windows, prompts, targets = [], [], []
    for length, head in ((5, 3), (2, 30), (4, 1), (1, 12), (3, 3)):
        items = generator.integers(0, 30, length)
        start = [256, *generator.integers(0, 256, head).tolist()]
        body = model.item_tokens[items].reshape(-1).tolist()
        windows.append(Window(start + body[:-width], items, len(start) + width * np.arange(length)))
        for place, item in enumerate(items):
            prompts.append(start + body[: width * place])
            targets.append(item)
    one_by_one = scoring.log_probs(model, prompts, np.array(targets), budget=1)[:, 0]
    assert window_loss(model, windows).item() == pytest.approx(-one_by_one.mean(), rel=1e-4)
    for prompt, item, value in list(zip(prompts, targets, one_by_one, strict=True))[::4]:
        p = slow_distribution(model, prompt, None, np.zeros(0, np.int64), 1.0)
        assert np.exp(value) == pytest.approx(p[item], rel=1e-4)
        assert p.sum() == pytest.approx(1)


def fresh(**settings):
    config = AdaptConfig(**FRESH | settings)
    vectors = np.random.default_rng(0).normal(size=(30, 7)).astype(np.float32)
    table = SemanticIdTable(unique_codes(30), SIZES)
    backbone = load_backbone(config.backbone)
    texts = [f"title {n}" for n in range(30)]
    read, asked = config.item_projection, config.head_asks
    return new_model(
        backbone, table, [None] * 3, config, texts, vectors if read else None, vectors if asked else None
    )


def test_every_part_of_the_new_form_is_trained_and_only_the_vectors_are_frozen():
    model = fresh(
        items="vector",
        head="depth",
        item_projection=True,
        head_layers=2,
        head_asks="joined",
        head_asks_dims=3,
    )
    read = model.embed(model.pack([[int(model.item_tokens[5, 0])]]), None)
    norm = float(model.inner.get_input_embeddings().weight.norm(dim=1).mean())
    assert 0.3 * norm < read.norm() < 3 * norm
    items = np.array([3, 17, 8, 3])
    tokens = [256, 65, *model.item_tokens[items[:-1], 0].tolist()]
    window = Window(tokens, items, 2 + np.arange(4))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):  # a LoRA's A and a block's gate get their gradient once B and V are not zero
        optimizer.zero_grad()
        window_loss(model, [window]).backward()
        optimizer.step()
    still = {n for n, p in model.named_parameters() if p.requires_grad and not p.grad.abs().sum() > 0}
    assert still == set()
    assert any(name.startswith("head.blocks.1.1") for name, _ in model.named_parameters())
    assert "reader.vectors" not in model.state_dict()


def test_forms_that_do_not_go_together_are_refused():
    with pytest.raises(ValidationError, match="set head: depth, or items: codes"):
        AdaptConfig(items="vector")
    with pytest.raises(ValidationError, match="set items: vector, or leave it out"):
        AdaptConfig(item_projection=True)
    with pytest.raises(ValidationError, match="set head: depth, or leave it out"):
        AdaptConfig(head_asks="text")
    with pytest.raises(ValidationError, match="head_width"):
        AdaptConfig(head="depth", head_width=0)
    AdaptConfig(items="codes", head="depth")
    catalogue = Catalogue(["a"], ["A"], {})
    with pytest.raises(ValueError, match=r"prompts\.header is empty and the backbone has no BOS"):
        PromptBuilder(
            PromptConfig(header=""), catalogue, lambda text: list(text.encode()), None, np.zeros((1, 1))
        )


def test_without_a_header_a_prompt_is_its_items():
    model = tiny_model("vector, depth")
    catalogue = Catalogue(["x"] * 30, ["x"] * 30, {})
    builder = PromptBuilder(
        PromptConfig(header=""), catalogue, model.encode, 256, model.item_tokens, model.target_tokens
    )
    assert builder.head([]) == [256]
    assert builder.item_tokens[[4, 9], 0].tolist() == [model.text_size + 4, model.text_size + 9]
    assert builder.target_tokens.shape == (30, 0)


def test_quick_dropout_drops_its_rate_scales_the_rest_and_is_of_its_step():
    model = tiny_model("vector, depth")
    dropout = BranchDropout(model.layers[:0] or [model.layers[0]], 0.25, 7, quick=True)
    x, cpu, made = torch.ones(400, 100), torch.device("cpu"), []
    for step in (0, 0, 1):
        with dropout.on(step, cpu):
            made.append(dropout._drop(x))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert sorted(set(made[0].unique().tolist())) == pytest.approx([0, 1 / 0.75])
    assert (made[0] == 0).float().mean() == pytest.approx(0.25, abs=0.01)
    assert dropout._drop(x) is x


def test_a_soft_token_in_front_moves_every_level():
    model = tiny_model("vector, depth")
    prompts, items = [[-1, 256, 65]] * 2, np.array([3, 9])
    soft = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = model.item_log_probs(prompts, items, Condition(soft)).sum()
    value.backward()
    assert (soft.grad.abs().sum(2) > 0).all()

"""Our Llama is transformers' to the bit: states, gradients, memories, adapters, token numbers."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from llm.backbone.adapter import CONFIG, merge_adapter, save_adapter
from llm.backbone.load import BackboneConfig, load_backbone, load_frozen, weights_hash
from llm.backbone.ragged import Layout, Memory

LENGTHS = [5, 1, 8, 3]
BACKBONES = [
    {"name": "tiny-random"},
    {"name": "scratch", "scratch_hidden": 48, "scratch_heads": 3, "layers": 3},
    {"name": "tiny-random", "dtype": "bfloat16"},
    {"name": "smollm2", "layers": 2},
]


@pytest.fixture(params=BACKBONES, ids=lambda settings: "-".join(map(str, settings.values())))
def both(request):
    config = BackboneConfig(device="cpu", **request.param)
    return load_frozen(config), load_backbone(config)


def inputs(model, lengths):
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(sum(lengths), model.config.hidden_size, generator=draw)
    return x.to(model.embed_tokens.weight.dtype)


def packed(model, x, lengths, **attention):
    layout = Layout(lengths, x.device)
    return model(
        inputs_embeds=x[None], position_ids=layout.place[None], use_cache=False, layout=layout, **attention
    ).last_hidden_state[0]


def test_weights_names_and_states_are_the_same_to_the_bit(both):
    ours, theirs = both
    assert weights_hash(ours.model) == weights_hash(theirs.model)
    assert (ours.hidden_size, ours.bos_id) == (theirs.hidden_size, theirs.bos_id)
    assert not any(parameter.requires_grad for parameter in ours.model.parameters())
    for lengths in (LENGTHS, [7, 7], [4]):
        x = inputs(ours.model, lengths)
        assert torch.equal(packed(ours.model, x, lengths), packed(theirs.model, x, lengths))


def test_gradients_of_what_goes_in_are_the_same_to_the_bit(both):
    gradients = []
    for backbone in both:
        x = inputs(backbone.model, LENGTHS).requires_grad_()
        (packed(backbone.model, x, LENGTHS).float() ** 2).sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)


def test_nodes_behind_a_memory_are_the_same_to_the_bit(both):
    states = []
    for backbone in both:
        model, memory = backbone.model, Memory()
        x = inputs(model, LENGTHS)
        packed(model, x, LENGTHS, memory=memory)
        memory.advance(max(LENGTHS))
        layout = Layout([2] * 4, x.device)
        columns = torch.arange(max(LENGTHS) + 2)
        sees = (columns < torch.tensor(LENGTHS)[:, None])[:, None].repeat(1, 2, 1)
        sees[:, 0, -2] = sees[:, 1, -1] = True
        places = torch.tensor(LENGTHS).repeat_interleave(2)
        out = model(
            inputs_embeds=x[None, :8], position_ids=places[None], layout=layout, memory=memory, sees=sees
        )
        states.append(out.last_hidden_state)
    assert torch.equal(*states)


def test_whole_sequences_without_a_layout_are_those_of_transformers(both):
    ours, theirs = both
    x = inputs(ours.model, [12]).view(2, 6, -1)
    with torch.no_grad():
        expected = theirs.model(inputs_embeds=x).last_hidden_state
        close = {"rtol": 2e-2, "atol": 2e-2} if x.dtype == torch.bfloat16 else {}
        torch.testing.assert_close(ours.model(inputs_embeds=x).last_hidden_state, expected, **close)


def test_token_numbers_are_the_same():
    ours, theirs = (load(BackboneConfig(layers=1, device="cpu")) for load in (load_frozen, load_backbone))
    for text in (
        "",
        " ",
        "dark comedy",
        "  Amélie (2001)\n",
        "日本語 😀\u0301",
        "<|im_start|>user",
        "1999'll've",
    ):
        assert ours.encode(text) == theirs.encode(text), text


def adapter(folder, **settings):
    """An adapter that PEFT has written around the tiny backbone, its numbers all random."""
    torch.manual_seed(0)
    names = ["q_proj", "o_proj", "down_proj"]
    config = LoraConfig(r=3, lora_alpha=7, target_modules=names, init_lora_weights=False, **settings)
    save_adapter(
        get_peft_model(load_backbone(BackboneConfig(name="tiny-random", device="cpu")).model, config), folder
    )
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_plain_lora_is_merged_as_peft_merges_it_to_the_bit(tmp_path, dtype):
    folder = adapter(tmp_path)
    config = BackboneConfig(name="tiny-random", device="cpu", dtype=dtype)
    ours, theirs = load_frozen(config).model, load_backbone(config).model
    before = weights_hash(ours)
    assert merge_adapter(ours, folder)
    merged = PeftModel.from_pretrained(theirs, str(folder)).merge_and_unload()
    assert weights_hash(ours) == weights_hash(merged) != before


@pytest.mark.parametrize(
    "settings", [{"use_rslora": True}, {"use_dora": True}, {"rank_pattern": {"q_proj": 2}}]
)
def test_what_is_more_than_a_plain_lora_is_left_to_peft(tmp_path, settings):
    folder = adapter(tmp_path, **settings)
    model = load_frozen(BackboneConfig(name="tiny-random", device="cpu")).model
    before = weights_hash(model)
    assert not merge_adapter(model, folder)
    assert weights_hash(model) == before


def test_an_adapter_of_other_layers_is_left_to_peft(tmp_path):
    folder = adapter(tmp_path)
    model = load_frozen(BackboneConfig(name="scratch", scratch_hidden=64, layers=1, device="cpu")).model
    assert not merge_adapter(model, folder)
    (folder / CONFIG).write_text(json.dumps(json.loads((folder / CONFIG).read_text()) | {"bias": "all"}))
    assert not merge_adapter(model, folder)

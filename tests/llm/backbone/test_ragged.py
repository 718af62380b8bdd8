"""Packed forward passes against the same model on each sequence alone: values, gradients, and what is not computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from llm.backbone.conditions import NOTHING, Condition
from llm.backbone.load import BackboneConfig, load_backbone
from llm.backbone.ragged import Layout, Memory

LENGTHS = [3, 1, 7, 7, 2]


def alone(inner, embedded: torch.Tensor) -> torch.Tensor:
    """transformers' own attention on one unpadded sequence [T, h]."""
    return inner(inputs_embeds=embedded[None], use_cache=False).last_hidden_state[0]


@pytest.fixture
def inner():
    """Trainable through a LoRA, with a random B so that it changes what comes out."""
    base = load_backbone(BackboneConfig(name="tiny-random", device="cpu")).model
    torch.manual_seed(0)
    model = get_peft_model(
        base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    return model.eval()


def test_a_layout_spreads_and_gathers():
    layout = Layout([2, 0, 3], torch.device("cpu"))
    packed = torch.arange(5.0)[:, None]
    rows = layout.spread(packed)
    assert rows[:, :, 0].tolist() == [[0, 1, 0], [0, 0, 0], [2, 3, 4]]
    assert torch.equal(layout.gather(rows), packed)
    assert layout.row.tolist() == [0, 0, 2, 2, 2]
    assert layout.place.tolist() == [0, 1, 0, 1, 2]
    assert layout.ends.tolist() == [2, 2, 5]


@pytest.mark.parametrize("lengths", [LENGTHS, [4, 4], [5]])
def test_a_packed_pass_is_each_sequence_alone_forward_and_backward(inner, lengths):
    generator = torch.Generator().manual_seed(1)
    embedded = torch.randn(sum(lengths), 64, generator=generator, requires_grad=True)
    weight = torch.randn(sum(lengths), 64, generator=generator)
    layout = Layout(lengths, torch.device("cpu"))
    packed = inner(
        inputs_embeds=embedded[None], position_ids=layout.place[None], use_cache=False, layout=layout
    ).last_hidden_state[0]
    expected = torch.cat([alone(inner, part) for part in embedded.split(lengths)])
    torch.testing.assert_close(packed, expected, rtol=1e-4, atol=1e-5)
    wanted = [embedded, *(p for p in inner.parameters() if p.requires_grad)]
    ours = torch.autograd.grad((packed * weight).sum(), wanted)
    theirs = torch.autograd.grad((expected * weight).sum(), wanted)
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


def test_tokens_of_other_rows_are_not_seen(inner):
    embedded = torch.randn(sum(LENGTHS), 64)
    layout = Layout(LENGTHS, torch.device("cpu"))

    def run(x):
        return inner(inputs_embeds=x[None], position_ids=layout.place[None], layout=layout).last_hidden_state[
            0
        ]

    changed = embedded.clone()
    changed[4:11] += 1.0  # the third row
    with torch.no_grad():
        difference = (run(embedded) - run(changed)).abs().sum(1)
    assert (difference[4:11] > 0).all()
    assert difference[:4].sum() == 0
    assert difference[11:].sum() == 0


def test_only_wanted_tokens_pass_through_the_last_mlp_and_nothing_else_changes(tiny):
    prompts = [[256, 65, 66], [256], [256, 65, 66, 67, 68]]
    packed = tiny.pack(prompts)
    wanted = packed.layout.ends - 1
    with torch.no_grad():
        whole, memory = tiny.hidden(packed), Memory()
        some = tiny.hidden(packed, NOTHING, wanted, memory)
        again = tiny.hidden(packed)
    torch.testing.assert_close(some, whole[wanted], rtol=1e-5, atol=1e-6)
    assert torch.equal(again, whole)  # the switch is off again
    seen = []
    handle = tiny.inner.layers[-1].mlp.gate_proj.register_forward_hook(
        lambda m, i, o: seen.append(o.shape[1])
    )
    with torch.no_grad():
        tiny.hidden(packed, NOTHING, wanted)
    handle.remove()
    assert seen == [3]


def test_the_gradient_is_that_of_the_whole_pass_where_only_wanted_tokens_are_read(tiny):
    packed = tiny.pack([[-1, 256, 65, 66], [-1, 256], [256, 67, 68]])
    wanted = torch.tensor([3, 5, 7, 8])
    prefix = torch.randn(3, 1, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad((tiny.hidden(packed, Condition(prefix), wanted) * weight).sum(), prefix)[0]
    whole = torch.autograd.grad((tiny.hidden(packed, Condition(prefix))[wanted] * weight).sum(), prefix)[0]
    torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-6)
    assert ours[:2].abs().sum() > 0
    assert ours[2].abs().sum() == 0  # a row without a soft token


def test_memory_holds_a_prompt_once_and_forgets_only_nodes():
    generator = np.random.default_rng(0)

    def block(width):
        return torch.from_numpy(generator.normal(size=(2, width, 1, 4)))

    memory, prompt = Memory(), block(5)
    memory.add(0, prompt, -prompt)
    memory.advance(5)
    for _ in range(3):
        first, second = block(2), block(3)
        memory.add(0, first, -first)
        memory.advance(2)
        keys, values = memory.add(0, second, -second)
        memory.advance(3)
        assert torch.equal(keys, torch.cat([prompt, first, second], 1))
        assert torch.equal(values, -keys)
        where = keys.data_ptr()
        memory.rewind(5)
    memory.add(0, first, first)
    memory.advance(2)
    assert memory.add(0, second, second)[0].data_ptr() == where  # room was kept: nothing was copied again


def test_what_packed_attention_cannot_do_is_refused():
    from llm.backbone.ragged import ragged_attention

    layout = Layout([6], torch.device("cpu"))
    x = torch.zeros(1, 1, 6, 4)
    with pytest.raises(ValueError, match="6 tokens is longer than the model's window of 4"):
        ragged_attention(torch.nn.Identity(), x, x, x, None, layout=layout, sliding_window=4)
    with pytest.raises(ValueError, match="uses softcap"):
        ragged_attention(torch.nn.Identity(), x, x, x, None, layout=layout, softcap=50.0)

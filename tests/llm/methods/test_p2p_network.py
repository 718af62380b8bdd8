"""P2P's hypernetwork: the paper's formula, and generated adapters against PEFT's own forward."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, LoraModel, PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file

from llm.backbone.load import BackboneConfig, load_backbone
from llm.backbone.sid_model import SidModel
from llm.decoding import draws
from llm.decoding.scoring import constraints_of
from llm.decoding.session import PromptSession
from llm.methods.p2p.hypernetwork import LoraGenerator
from llm.methods.p2p.method import P2P, P2PConfig
from llm.methods.p2p.profiles import ProfileVectors
from llm.methods.peft_export import export_adapter
from llm.methods.stage2 import lm_loss
from llm.prompts.builder import PromptBuilder, PromptConfig
from llm.prompts.reading import Reading
from tests.support.profiles import DIM, catalogue, letters, maker
from tests.support.requests import make_requests

# -- the hypernetwork -------------------------------------------------------------------------------------------


def fresh(model: SidModel, seed: int = 0) -> LoraGenerator:
    return LoraGenerator(model.updates.layers(("q_proj", "v_proj")), DIM, 3, 6.0, 10, 4, seed)


def awake(generator: LoraGenerator) -> LoraGenerator:
    """With B far from zero."""
    with torch.no_grad():
        for number, head in enumerate(generator.heads):
            head.weight.normal_(std=0.2, generator=torch.Generator().manual_seed(number))
    return generator.requires_grad_(False)


def of(model: SidModel, generator: LoraGenerator) -> P2P:
    vectors = ProfileVectors(maker("summary_and_records"), letters, DIM, 1 << 20)
    return P2P(vectors, generator)


def prompts_and_requests(model: SidModel):
    lines = [b"He", b"History:", b"", b"a long prompt"]
    prompts = [[256, *line, *model.item_tokens[at].tolist()] for at, line in enumerate(lines)]
    requests = [replace(one, user=0, query=query, history=np.array(past, np.int64), history_times=np.arange(len(past)))
                for one, query, past in zip(make_requests(4), ("crime", None, "space", "heat"), ([1, 2, 3], [0, 4, 5], [1, 9, 4], [1, 2, 3]),
                                            strict=True)]  # fmt: skip
    return prompts, requests


def pefts(model: SidModel, condition, row: int, generator: LoraGenerator) -> SidModel:
    """The model with row `row`'s generated A and B inside PEFT's own LoRA layers."""
    backbone = load_backbone(BackboneConfig(name="tiny-random", device="cpu"))
    config = LoraConfig(r=generator.rank, lora_alpha=generator.rank, target_modules=["q_proj", "v_proj"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = LoraModel(backbone.model, config, "one")
    for name, (update,) in condition.updates.items():
        layer = backbone.model.get_submodule(name)
        with torch.no_grad():
            layer.lora_A["one"].weight.copy_(update.a[row])
            layer.lora_B["one"].weight.copy_(update.b[row])
    backbone.model = wrapped.model.eval().requires_grad_(False)
    return SidModel(backbone, model.rows, model.trie).eval()


def test_batched_adapters_are_pefts_own_forward_for_each_user(tiny):
    """In the prompt pass, in the tree that draws, and merged into the weights."""
    generator = awake(fresh(tiny))
    prompts, requests = prompts_and_requests(tiny)
    condition = of(tiny, generator).condition(requests)
    packed = tiny.pack(prompts)
    ours = tiny.hidden(packed, condition).split(packed.layout.lengths.tolist())
    session = PromptSession(tiny, prompts, condition, constraints_of(tiny.trie, requests))
    items, values = draws.draw(session, requests, 6, seed=0)
    wanted = items[:, 0]
    scored = draws.score(session, wanted)[:, 0]
    plain = tiny.hidden(packed).split(packed.layout.lengths.tolist())
    for row, prompt in enumerate(prompts):
        theirs = pefts(tiny, condition, row, generator)
        hidden = theirs.inner(
            inputs_embeds=theirs.embed(theirs.pack([prompt]), None)[None], use_cache=False
        ).last_hidden_state[0]
        torch.testing.assert_close(ours[row], hidden, rtol=1e-4, atol=1e-5)
        assert (plain[row] - hidden).abs().max() > 1e-2
        every = np.arange(tiny.trie.n_items)
        whole = theirs.item_log_probs([prompt] * len(every), every).detach().double().numpy()
        log_p = whole[items[row]] - np.logaddexp.reduce(whole[requests[row].available(every)])
        np.testing.assert_allclose(values[row], log_p, rtol=1e-4, atol=1e-4)
        assert scored[row] == pytest.approx(log_p[0], abs=1e-4)
        merged = load_backbone(BackboneConfig(name="tiny-random", device="cpu")).model
        with torch.no_grad():
            for name, (update,) in condition.updates.items():
                merged.get_submodule(name).weight += update.b[row] @ update.a[row]
            again = merged(inputs_embeds=tiny.embed(tiny.pack([prompt]), None)[None]).last_hidden_state[0]
        torch.testing.assert_close(ours[row], again, rtol=1e-4, atol=1e-5)
    first = condition.updates["layers.0.self_attn.q_proj"][0]
    assert not torch.allclose(first.b[0], first.b[1])
    torch.testing.assert_close(
        first.b[0] @ first.a[0], (first.b[3] @ first.a[3]), rtol=10, atol=10
    )  # same past, another query: near, and yet
    assert not torch.equal(first.b[0], first.b[3])


def test_the_hypernetwork_is_the_papers_formula():
    """[e ‖ E_mod ‖ E_dep] → MLP → Unflatten, layer by layer, with PyTorch's plain modules."""
    layers = {"layers.0.attn.q_proj": (6, 8), "layers.0.attn.v_proj": (6, 2), "layers.1.attn.q_proj": (6, 8),
              "layers.1.attn.v_proj": (6, 2)}  # fmt: skip
    generator = awake(LoraGenerator(layers, DIM, 3, 12.0, 10, 4, 0))
    generator.standardise(torch.full((DIM,), 0.5), torch.tensor(2.0))
    e = torch.randn(5, DIM, generator=torch.Generator().manual_seed(1))
    made = generator(e, torch.tensor([True, True, False, True, True]))
    first = torch.cat([generator.of_profile.weight, generator.of_position], 1)
    for name, (n_in, n_out) in layers.items():
        module, depth = (0 if "q_proj" in name else 1), int(name[7])
        head = generator.heads[generator.shapes.index((n_in, n_out))]
        for row in range(5):
            phi = torch.cat([(e[row] - 0.5) / 2, generator.module[module], generator.depth[depth]])
            x = torch.nn.functional.gelu(first @ phi + generator.of_profile.bias)
            x = head(torch.nn.functional.gelu(generator.inner(x)))
            a, b = x[: 3 * n_in].view(3, n_in), x[3 * n_in :].view(n_out, 3) * 4.0
            (update,) = made[name]
            torch.testing.assert_close(update.a[row], a)
            torch.testing.assert_close(update.b[row], torch.zeros_like(b) if row == 2 else b)


def test_it_starts_as_no_context_and_yet_has_a_gradient(tiny):
    generator = fresh(tiny)
    personalizer = of(tiny, generator)
    prompts, requests = prompts_and_requests(tiny)
    packed = tiny.pack(prompts)
    condition = personalizer.condition(requests)
    assert torch.equal(tiny.hidden(packed, condition), tiny.hidden(packed))
    update = condition.updates["layers.1.self_attn.q_proj"][0]
    assert update.a.std().item() == pytest.approx((3 * 64) ** -0.5, rel=0.4)
    assert not update.b.any()
    reading = Reading(tiny, small_builder(tiny), personalizer)
    lm_loss(reading, requests, np.array([1, 2, 3, 4])).backward()
    for head, (n_in, _) in zip(generator.heads, generator.shapes, strict=True):
        of_b = 3 * n_in
        assert head.weight.grad[of_b:].abs().max() > 0
        assert not head.weight.grad[:of_b].any()  # B = 0: A has none yet
    # after one step everything has
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter -= 0.1 * parameter.grad
            parameter.grad = None
    lm_loss(reading, requests, np.array([1, 2, 3, 4])).backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def small_builder(model: SidModel) -> PromptBuilder:
    return PromptBuilder(PromptConfig(recent_items=1), catalogue(), model.encode, 256, model.item_tokens)


def test_somebody_without_a_past_is_read_as_no_context_is(tiny):
    _, requests = prompts_and_requests(tiny)
    nobody = replace(
        requests[0], user=None, history=np.zeros(0, np.int64), history_times=np.zeros(0, np.int64)
    )
    prompts = [[256, 72], [256, 72, 105]]
    condition = of(tiny, awake(fresh(tiny))).condition([nobody, requests[1]])
    packed = tiny.pack(prompts)
    ours, plain = tiny.hidden(packed, condition), tiny.hidden(packed)
    assert torch.equal(ours[:2], plain[:2])
    assert (ours[2:] - plain[2:]).abs().max() > 1e-3


def test_row_bytes_are_those_of_a_condition(tiny):
    generator = fresh(tiny)
    condition = generator(torch.zeros(1, DIM), torch.ones(1))
    assert generator.row_bytes == sum(4 * (u.a.numel() + u.b.numel()) for (u,) in condition.values())


def test_parameter_counts_that_the_module_states():
    def count(width: int, keys: int, depth: int) -> int:
        layers = {
            f"layers.{at}.{kind}": (width, out)
            for at in range(depth)
            for kind, out in (("q_proj", width), ("v_proj", keys))
        }
        return sum(p.numel() for p in LoraGenerator(layers, 384, 8, 16.0, 64, 16, 0).parameters())

    assert count(576, 192, 30) == pytest.approx(1.03e6, rel=0.01)
    assert count(128, 128, 4) == pytest.approx(0.164e6, rel=0.01)


# -- configuration ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"profile": "summary_only", "k": 2}, "no retrieved records"),
        ({"profile": "full_history", "k": 1}, "no retrieved records"),
        ({"profile": "retrieved_only", "k": 0}, "empty profile"),
        ({"profile": "retrieved_only", "summaries": "s.parquet"}, "has no summary"),
    ],
)
def test_nonsense_is_refused_with_the_reason(settings, reason):
    with pytest.raises(ValidationError, match=reason):
        P2PConfig(**settings)


def test_what_the_network_is_told():
    assert P2PConfig().told == ("summary_and_records", 2)
    assert P2PConfig(k=0).told == P2PConfig(profile="summary_only").told == ("summary_only", 0)
    assert P2PConfig(profile="random", k=5).told == ("random", 5)


# -- export -----------------------------------------------------------------------------------------------------


def test_an_exported_adapter_is_loaded_by_peft_with_the_same_states(tiny, tmp_path):
    reading = Reading(tiny, small_builder(tiny), of(tiny, awake(fresh(tiny))))
    _, requests = prompts_and_requests(tiny)
    facts = export_adapter(reading, requests[2], tmp_path)
    assert facts["rank"] == 3
    assert facts["layers"] == 4
    base = load_backbone(BackboneConfig(name="tiny-random", device="cpu")).model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        theirs = PeftModel.from_pretrained(base, str(tmp_path))
    prompts = reading.prompts([requests[2]])
    placed, condition = reading.conditioned(prompts, [requests[2]])
    packed = tiny.pack(placed)
    with torch.no_grad():
        hidden = theirs(inputs_embeds=tiny.embed(packed, None)[None]).last_hidden_state[0]
    torch.testing.assert_close(tiny.hidden(packed, condition), hidden, rtol=1e-5, atol=1e-5)
    half = replace(reading, strength=0.5)
    export_adapter(half, requests[2], tmp_path / "half")
    whole, part = (
        load_file(folder / "adapter_model.safetensors") for folder in (tmp_path, tmp_path / "half")
    )
    name = "base_model.model.layers.0.self_attn.q_proj.lora_B.weight"
    torch.testing.assert_close(part[name], whole[name] / 2)
    with pytest.raises(ValueError, match="updates no layer"):
        export_adapter(replace(reading, personalizer=None), requests[2], tmp_path)

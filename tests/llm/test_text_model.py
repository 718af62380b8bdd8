"""The backbone as a text model: against transformers' own forward and loss, and one label at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from llm.backbone.load import BackboneConfig
from llm.prompts.prefixes import E2P, StaticPrefix
from llm.text_tasks.model import TextModel, load_text_model
from llm.text_tasks.training import (
    Examples,
    PrefixConfig,
    TaskAdaptConfig,
    adapt_text_model,
    answer_loss,
    batch_rows,
    mean_loss,
    merge_adapter,
    other_users,
    train_text_prefix,
    vectors_of,
)

LABELS = ("red", "reddish brown", "b", "blue")


@pytest.fixture(scope="module")
def model() -> TextModel:
    return load_text_model(BackboneConfig(name="tiny-random", device="cpu"))


@pytest.fixture(scope="module")
def oracle(model) -> LlamaForCausalLM:
    """transformers' own causal LM with the same weights and its own attention."""
    causal = LlamaForCausalLM(model.inner.config).eval()
    causal.model.load_state_dict(model.inner.state_dict())
    causal.lm_head.weight = nn.Parameter(model.head.clone())
    causal.set_attn_implementation("eager")
    yield causal
    model.inner.set_attn_implementation("prelude_ragged")


def embeds(model, tokens, soft):
    return torch.cat([soft, model.inner.get_input_embeddings()(torch.tensor(tokens))])[None]


def prefix_of(rows: int, model, m: int = 1) -> torch.Tensor:
    return torch.randn(rows, m, model.hidden_size, generator=torch.Generator().manual_seed(1)) * 0.1


@pytest.mark.parametrize("soft_tokens", [0, 1, 3])
def test_log_likelihood_is_the_loss_of_transformers(model, oracle, soft_tokens):
    prompts = [model.prompt("What colour?"), model.prompt("A much longer question than that, is it not?")]
    answers = [model.answer("red"), model.answer("blue or so")]
    prefix = prefix_of(2, model, soft_tokens) if soft_tokens else None
    oracle.set_attn_implementation("prelude_ragged")  # the config is shared
    ours = model.log_probs(prompts, answers, prefix)
    oracle.set_attn_implementation("eager")
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        soft = prefix[row] if prefix is not None else torch.zeros(0, model.hidden_size)
        labels = torch.tensor([[-100] * (soft_tokens + len(prompt)) + answer])
        with torch.no_grad():
            loss = oracle(inputs_embeds=embeds(model, [*prompt, *answer], soft), labels=labels).loss
        assert ours[row].item() == pytest.approx(-loss.item() * len(answer), rel=1e-4)
        perplexity = np.exp(-ours[row].item() / len(answer))
        assert perplexity == pytest.approx(torch.exp(loss).item(), rel=1e-4)
    model.inner.set_attn_implementation("prelude_ragged")


@pytest.mark.parametrize("with_prefix", [False, True])
def test_labels_together_are_labels_one_by_one(model, with_prefix):
    prompts = [model.prompt("Which colour?"), model.prompt("And now, please, a longer question: which one?")]
    options = [[model.answer(label) for label in LABELS], [model.answer(label) for label in LABELS[2:]]]
    prefix = prefix_of(2, model) if with_prefix else None
    together = model.label_log_probs(prompts, options, prefix)
    for row, labels in enumerate(options):
        alone = []
        for label in labels:
            soft = None if prefix is None else prefix[row : row + 1]
            alone.append(model.log_probs([prompts[row]], [label], soft)[0])
        torch.testing.assert_close(together[row], torch.stack(alone).log_softmax(0), rtol=1e-4, atol=1e-4)
        assert together[row].exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_an_answer_has_its_end_so_no_label_is_part_of_another(model):
    """Without its end, "b" could never be less likely than "blue"; with it the two are different events."""
    assert model.answer("b")[-1] == model.end_id
    head = model.answer("blue")[: len(model.answer("b"))]
    assert head != model.answer("b")


def test_the_prefix_is_learned_from(model):
    prefix = prefix_of(2, model).requires_grad_()
    prompts, answers = [model.prompt("a"), model.prompt("bcd")], [model.answer("x"), model.answer("yz")]
    model.log_probs(prompts, answers, prefix).sum().backward()
    assert (prefix.grad.norm(dim=-1) > 0).all()
    alone = prefix_of(2, model).requires_grad_()
    model.log_probs(prompts[:1], answers[:1], alone[:1]).sum().backward()
    torch.testing.assert_close(prefix.grad[0], alone.grad[0], rtol=1e-4, atol=1e-6)


def test_a_long_prompt_keeps_its_ends(model):
    whole = model.prompt("abcdefghij" * 10)
    cut = model.prompt("abcdefghij" * 10, 40)
    assert len(cut) == 40 < len(whole)
    assert cut[:10] == whole[:10]
    assert cut[-20:] == whole[-20:]
    assert model.prompt("short", 400) == model.prompt("short")


def test_generation_is_greedy_transformers(model, oracle):
    prompts = [model.prompt("Say"), model.prompt("Say something longer")]
    prefix = prefix_of(2, model)
    words = model.generate(prompts, prefix, longest=5)
    oracle.set_attn_implementation("eager")
    for row, prompt in enumerate(prompts):
        tokens: list[int] = []
        for _ in range(5):  # the plain loop: one forward a token
            with torch.no_grad():
                logits = oracle(inputs_embeds=embeds(model, [*prompt, *tokens], prefix[row])).logits[0, -1]
            if (token := int(logits.argmax())) == model.end_id:
                break
            tokens.append(token)
        assert words[row] == bytes(tokens).decode(errors="replace").strip()
    model.inner.set_attn_implementation("prelude_ragged")


def test_generation_leaves_the_model_as_it_was(model):
    before = model.log_probs([model.prompt("q")], [model.answer("a")])
    drawn = model.generate([model.prompt("q")], longest=8, temperature=1.0, seed=3)
    assert drawn == model.generate([model.prompt("q")], longest=8, temperature=1.0, seed=3)
    others = {model.generate([model.prompt("q")], longest=8, temperature=1.0, seed=s)[0] for s in range(6)}
    assert len(others) > 1
    assert model.inner.config._attn_implementation == "prelude_ragged"
    assert torch.equal(before, model.log_probs([model.prompt("q")], [model.answer("a")]))


def test_text_vectors_are_the_last_hidden_states(model, tmp_path):
    texts = ["I sail.", "I cook and I sail.", "", "I sail."]
    found = model.text_vectors(texts, 64)
    for text, vector in zip(texts, found, strict=True):
        tokens = torch.tensor([[model.bos_id, *text.encode()]])
        with torch.no_grad():
            alone = model.inner(inputs_embeds=model.inner.get_input_embeddings()(tokens)).last_hidden_state[
                0, -1
            ]
        torch.testing.assert_close(vector, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.text_vectors(["xyz I sail."], 7)[0], found[0], rtol=1e-4, atol=1e-5)
    (tmp_path / "c").mkdir()
    blocks = vectors_of(model, texts, 64, batch=2, checkpoint=tmp_path / "c", block=2)
    torch.testing.assert_close(blocks, found, rtol=1e-4, atol=1e-5)
    assert len(list((tmp_path / "c").iterdir())) == 2  # three distinct texts in blocks of two
    kept = vectors_of(model, texts, 64, batch=2, checkpoint=tmp_path / "c", block=2)
    assert torch.equal(kept, blocks)


def test_a_head_that_is_more_than_a_matrix_is_refused():
    fresh = load_text_model(BackboneConfig(name="tiny-random", device="cpu"))
    fresh.inner.config.final_logit_softcapping = 30.0
    with pytest.raises(ValueError, match="final_logit_softcapping"):
        TextModel(
            type(
                "B", (), {"model": fresh.inner, "tokenizer": None}
            )(),  # refused before anything else is read
            fresh.head,
        )


# -- training -----------------------------------------------------------------------------------------------------------


def two_people(model, n: int = 16) -> Examples:
    """People of two kinds get different answers to the same question, so only the vector can tell."""
    kinds = [row % 2 for row in range(n)]
    vectors = torch.tensor([[1.0, 0.0, 0.2], [0.0, 1.0, 0.2]])[kinds]
    answers = [model.answer(("yes", "no")[kind]) for kind in kinds]
    return Examples([model.prompt("Do you like it?")] * n, answers, vectors)


def test_e2p_learns_what_static_cannot(model, tmp_path):
    examples, losses = two_people(model), {}
    config = PrefixConfig(
        bottleneck=8, steps=40, batch=8, learning_rates=(1e-2, 5e-2), pilot_steps=10, validate_every=20
    )
    for method, kind in (("e2p", E2P), ("static_prefix", StaticPrefix)):
        report = train_text_prefix(
            config,
            model,
            method,
            examples,
            examples,
            tmp_path / f"{method}.safetensors",
            tmp_path / method,
            0,
        )
        losses[method] = report["validation_nll"]
        assert report["learning_rate"] in config.learning_rates
        pilots = report["pilot_validation_nll"]
        assert report["learning_rate"] == min(config.learning_rates, key=lambda rate: pilots[str(rate)])
        assert kind.soft_tokens == 1
    assert (
        losses["e2p"] < losses["static_prefix"] - 0.006
    )  # a random model moves little; static's own gain is a third


def test_mean_loss_is_the_loss_of_all(model):
    examples = two_people(model, 7)
    whole = answer_loss(model, examples, range(7), None)
    assert mean_loss(model, examples, None, batch=3) == pytest.approx(whole.item(), rel=1e-5)


def test_every_epoch_sees_everybody():
    seen = [row for step in range(4) for row in batch_rows(7, 2, step, 0)]
    assert sorted(seen) == list(range(7))
    assert [row for step in range(4, 8) for row in batch_rows(7, 2, step, 0)] != seen


def test_stage_1_lowers_the_loss_and_merges_to_the_same_model(tmp_path):
    fresh = load_text_model(BackboneConfig(name="tiny-random", device="cpu"))
    examples = two_people(fresh)
    before = mean_loss(fresh, examples, None, 8)
    config = TaskAdaptConfig(steps=15, batch=8, rank=4, learning_rate=1e-2)
    adapt_text_model(config, fresh, examples, tmp_path, tmp_path / "checkpoint", 0)
    after = mean_loss(fresh, examples, None, 8)
    assert after < before - 0.1
    merged = merge_adapter(
        load_text_model(BackboneConfig(name="tiny-random", device="cpu")), tmp_path / "adapter"
    )
    assert mean_loss(merged, examples, None, 8) == pytest.approx(after, rel=1e-4)
    assert not any(parameter.requires_grad for parameter in merged.parameters())


def test_nobody_gets_their_own_vector():
    users = ["a", "b", "a", "c", "c", "d"]
    rows = other_users(users, 7, seed=0)
    assert rows.shape == (7, 6)
    assert all(users[other] != user for row in rows for other, user in zip(row, users, strict=True))
    for row in rows:  # one person's instances all take from one other person
        assert len({users[row[0]], users[row[2]]}) == 1
    assert len({tuple(row) for row in rows.tolist()}) > 1
    with pytest.raises(ValueError, match="two test users"):
        other_users(["a", "a"], 5, 0)

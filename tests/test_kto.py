"""Objectives on log-probabilities: scalar formulas, TRL on the same batch, lists against a plain loop, who moves which way."""

from __future__ import annotations

import doctest
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llm.align import objectives
from llm.align.objectives import balanced_weights, engagement_loss, kl_baseline, kto_loss
from llm.align.targets import Feedback, Labelled, Reference, rotated, target_log_probs
from llm.backbone.conditions import Condition
from llm.backbone.load import Backbone, BackboneConfig, load_backbone, weights_hash
from llm.backbone.ragged import NAME as RAGGED
from llm.backbone.sid_model import SidModel
from llm.backbone.vocabulary import SidRows
from llm.decoding.scoring import constraints_of, list_log_probs_of
from llm.methods.e2p import UserPrefix
from llm.methods.prefixes import E2P
from llm.prompts.builder import PromptBuilder, PromptConfig
from llm.prompts.reading import Reading
from llm.text_tasks.model import TextModel
from recsys.data.catalogue import Catalogue
from semantic_ids.constraints import Constraints
from semantic_ids.trie import Trie
from tests.conftest import make_requests


def sigmoid(z: float) -> float:
    return 1 / (1 + np.exp(-z))


# -- formulas -----------------------------------------------------------------------------------------------------

LOGP, REF = torch.tensor([-3.0, -9.0, -5.5]), torch.tensor([-4.0, -7.0, -5.0])
ENGAGED = torch.tensor([True, False, True])


def test_equation_5_by_hand():
    """r = 1, −2, −.5; β = .5, so p = σ(.5), σ(−1), σ(−.25); α = 2 weighs the disliked one."""
    expected = -(np.log(sigmoid(0.5)) + 2 * np.log(1 - sigmoid(-1)) + np.log(sigmoid(-0.25))) / 3
    assert float(engagement_loss(LOGP, REF, ENGAGED, beta=0.5, alpha=2.0)) == pytest.approx(
        expected, rel=1e-6
    )


def test_kto_by_hand():
    """KL pairs of log-ratio .8 and −.2: z₀ = .3; r − z₀ = .7, −2.3, −.8; β = .5, λ_D = 1.5, λ_U = 2."""
    z0 = kl_baseline(torch.tensor([-4.2, -6.2]), torch.tensor([-5.0, -6.0]))
    assert float(z0) == pytest.approx(0.3, abs=1e-6)
    ours = kto_loss(LOGP, REF, ENGAGED, z0, beta=0.5, desirable=1.5, undesirable=2.0)
    terms = [1.5 * (1 - sigmoid(0.35)), 2 * (1 - sigmoid(1.15)), 1.5 * (1 - sigmoid(-0.4))]
    assert float(ours) == pytest.approx(np.mean(terms), rel=1e-6)


def test_the_baseline_is_never_negative_and_has_no_gradient():
    pairs = torch.tensor([-6.0, -7.0], requires_grad=True)
    assert float(kl_baseline(pairs, torch.tensor([-5.0, -6.0]))) == 0
    assert not kl_baseline(pairs, torch.tensor([-9.0, -9.0])).requires_grad
    assert float(kl_baseline(pairs[:0], torch.zeros(0))) == 0


def test_extreme_ratios_stay_finite():
    far = torch.tensor([2000.0, -2000.0, 2000.0, -2000.0], requires_grad=True)
    labels = torch.tensor([True, True, False, False])
    for loss in (
        engagement_loss(far, torch.zeros(4), labels, 1.0, 1.0),
        kto_loss(far, torch.zeros(4), labels, torch.zeros(()), 1.0, 1.0, 1.0),
    ):
        (gradient,) = torch.autograd.grad(loss, far)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_a_disliked_item_of_probability_1e_4_has_a_gradient():
    """Equation (5) with p of the sequence gives it 1e-4 of a liked item's; the readout gives both the same size."""
    logp = torch.full((2,), 1e-4).log().requires_grad_()
    labels = torch.tensor([True, False])
    p = logp.exp()
    naive = -torch.where(labels, p.log(), (1 - p).log()).mean()
    liked, disliked = torch.autograd.grad(naive, logp)[0].abs().tolist()
    assert disliked / liked == pytest.approx(1e-4, rel=1e-2)
    ours = engagement_loss(logp, logp.detach(), labels, beta=0.1, alpha=1.0)
    liked, disliked = torch.autograd.grad(ours, logp)[0].tolist()
    assert disliked == pytest.approx(-liked)
    assert disliked == pytest.approx(0.5 * 0.1 / 2)  # −β p at p = ½, a mean over two
    assert disliked > 200 * 1e-4 / 2


def test_weights_are_what_the_authors_advise():
    assert doctest.testmod(objectives).failed == 0
    for desirable, undesirable in [(50, 50), (60, 50), (70, 50), (1, 999), (999, 1), (4, 3), (3, 4)]:
        of_d, of_u = balanced_weights(desirable, undesirable)
        assert 1 - 1e-9 <= of_d * desirable / (of_u * undesirable) <= 4 / 3 + 1e-9
        assert min(of_d, of_u) == 1
    assert balanced_weights(60, 50) == (1, 1)
    with pytest.raises(ValueError, match="0 desirable and 3 undesirable"):
        balanced_weights(0, 3)


# -- TRL ----------------------------------------------------------------------------------------------------------

WORDS = ["<pad>", "<eos>", "<unk>", *(f"w{index}" for index in range(40))]


def llama(seed: int):
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, initializer_range=0.5,
                pad_token_id=0, eos_token_id=1, bos_token_id=None,
            )
        ).eval()  # fmt: skip


def word_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def text_log_probs(model, prompts, completions, prefix=None) -> torch.Tensor:
    """Ours: the packed pass of `TextModel` over the very weights of a transformers model."""
    inner = model.model
    before = inner.config._attn_implementation
    inner.set_attn_implementation(RAGGED)
    try:
        backbone = Backbone(inner, word_tokenizer(), BackboneConfig(device="cpu"), torch.device("cpu"))
        ours = TextModel(backbone, model.lm_head.weight.detach(), chat=False)
        return ours.log_probs(prompts, completions, prefix)
    finally:
        inner.set_attn_implementation(before)


BETA, DESIRABLE, UNDESIRABLE = 0.3, 1.25, 2.5


def trl_batch_and_loss(policy, reference, folder) -> tuple[dict, float]:
    """A batch of uneven prompts and completions as `KTOTrainer` makes it, its own KL pairs included, and its loss."""
    from datasets import Dataset as Rows
    from trl import KTOConfig, KTOTrainer

    generator = np.random.default_rng(7)

    def words(n: int) -> str:
        return " ".join(f"w{index}" for index in generator.integers(0, 40, n))

    rows = {
        "prompt": [words(n) + " " for n in (3, 7, 2, 5, 4, 6)],
        "completion": [words(n) for n in (2, 4, 5, 1, 3, 3)],
        "label": [True, False, True, True, False, False],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = KTOConfig(
            output_dir=str(folder), use_cpu=True, beta=BETA, desirable_weight=DESIRABLE, undesirable_weight=UNDESIRABLE,
            per_device_train_batch_size=6, report_to=[], bf16=False, disable_dropout=True, gradient_checkpointing=False,
        )  # fmt: skip
        trainer = KTOTrainer(
            model=policy, ref_model=reference, args=arguments, train_dataset=Rows.from_dict(rows),
            processing_class=word_tokenizer(),
        )  # fmt: skip
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.model.eval()
        return batch, float(trainer.compute_loss(trainer.model, batch))


def sides(batch: dict, prefix: str) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and completions of a batch of TRL's, without padding."""
    prompts, completions = [], []
    columns = (batch[f"{prefix}{name}"] for name in ("input_ids", "attention_mask", "completion_mask"))
    for tokens, seen, mask in zip(*columns, strict=True):
        real = seen.bool()
        prompts.append(tokens[real & ~mask.bool()].tolist())
        completions.append(tokens[real & mask.bool()].tolist())
    return prompts, completions


@pytest.mark.parametrize("policy_is_far", [True, False])
def test_text_losses_are_those_of_trl(tmp_path, policy_is_far):
    policy, reference = llama(0), llama(1 if policy_is_far else 0)
    if not policy_is_far:
        noise = torch.randn(policy.lm_head.weight.shape, generator=torch.Generator().manual_seed(5))
        policy.lm_head.weight.data.add_(0.05 * noise)
    batch, theirs = trl_batch_and_loss(policy, reference, tmp_path)
    asked, answered = sides(batch, "")
    kl_asked, kl_answered = sides(batch, "KL_")
    assert kl_asked == asked  # only the completion is rotated
    assert sorted(kl_answered) == sorted(answered) != kl_answered
    with torch.no_grad():
        ratios = [
            text_log_probs(policy, *pair) - text_log_probs(reference, *pair)
            for pair in ((asked, answered), (kl_asked, kl_answered))
        ]
    baseline = kl_baseline(ratios[1], torch.zeros(6))
    assert (float(baseline) > 0.1) == (not policy_is_far)  # both sides of the clamp
    engaged = torch.as_tensor(batch["label"]).bool()
    ours = kto_loss(ratios[0], torch.zeros(6), engaged, baseline, BETA, DESIRABLE, UNDESIRABLE)
    assert float(ours) == pytest.approx(theirs, abs=1e-6)


def test_with_a_prefix_the_losses_are_those_of_trl_as_far_as_its_machinery_reaches(tmp_path):
    """TRL knows soft tokens that all rows share (PEFT's prompt tuning). The reference is the model without them."""
    from peft import PromptTuningConfig, get_peft_model

    bare = llama(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for an old name
        policy = get_peft_model(llama(0), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    soft = 0.6 * torch.randn(3, 32, generator=torch.Generator().manual_seed(4))
    policy.prompt_encoder["default"].embedding.weight.data.copy_(soft)
    batch, theirs = trl_batch_and_loss(policy, bare, tmp_path)
    with torch.no_grad():
        ratios = [
            text_log_probs(bare, *pair, soft.expand(6, -1, -1)) - text_log_probs(bare, *pair)
            for pair in (sides(batch, ""), sides(batch, "KL_"))
        ]
    assert ratios[0].abs().min() > 0.05
    engaged, baseline = torch.as_tensor(batch["label"]).bool(), kl_baseline(ratios[1], torch.zeros(6))
    ours = kto_loss(ratios[0], torch.zeros(6), engaged, baseline, BETA, DESIRABLE, UNDESIRABLE)
    assert float(ours) == pytest.approx(theirs, abs=1e-6)


# -- lists --------------------------------------------------------------------------------------------------------


def asked(model: SidModel, n: int, prefix: int = 0):
    """Requests, prompts of uneven lengths, and soft tokens in front of some of them."""
    requests = make_requests(n, seed=3)
    builder = PromptBuilder(
        PromptConfig(recent_items=3),
        Catalogue(["x"] * 30, ["x"] * 30, {}),
        model.encode,
        256,
        model.item_tokens,
    )
    prompts = [
        builder.prompt(replace(request, query="q" * (row % 3))) for row, request in enumerate(requests)
    ]
    soft = torch.randn(n, prefix, 64, generator=torch.Generator().manual_seed(2)) if prefix else None
    known = np.arange(n) % 2 == 0
    condition = Condition(soft, known if prefix else None)
    counts = condition.soft_tokens(n) if prefix else [0] * n
    return (
        requests,
        [builder.with_soft_tokens(p, int(c)) for p, c in zip(prompts, counts, strict=True)],
        condition,
    )


def lists_for(requests, length_of=lambda row: 1 + row % 4) -> list[np.ndarray]:
    generator = np.random.default_rng(9)
    return [
        generator.choice(np.setdiff1d(np.arange(30), request.exclude), length_of(row), replace=False)
        for row, request in enumerate(requests)
    ]


@pytest.mark.parametrize("prefix", [0, 2])
def test_a_list_of_one_is_an_item(tiny, prefix):
    requests, prompts, condition = asked(tiny, 6, prefix)
    items = np.array([some[0] for some in lists_for(requests)])
    excluded = [request.exclude for request in requests]
    one = tiny.item_log_probs(prompts, items, condition, constraints_of(tiny.trie, requests))
    torch.testing.assert_close(
        tiny.list_log_probs(prompts, list(items[:, None]), condition, excluded), one, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("prefix", [0, 2])
def test_a_list_is_item_after_item(tiny, prefix):
    """Against a plain loop: each item scored alone behind the codes of those before it, which it may not be."""
    requests, prompts, condition = asked(tiny, 6, prefix)
    lists = lists_for(requests)
    ours = tiny.list_log_probs(prompts, lists, condition, [request.exclude for request in requests])
    for row, (request, prompt, items) in enumerate(zip(requests, prompts, lists, strict=True)):
        total, tokens, gone = 0.0, list(prompt), list(request.exclude)
        own = condition.rows(np.array([row]))
        for item in items:
            constraints = Constraints(tiny.trie, [np.array(gone, np.int64)])
            total += float(tiny.item_log_probs([tokens], np.array([item]), own, constraints))
            tokens += tiny.item_tokens[item].tolist()
            gone.append(int(item))
        assert float(ours[row]) == pytest.approx(total, abs=2e-5)


def test_ordered_lists_of_two_sum_to_one(tiny):
    """Over all ordered pairs of what an allow-list leaves, and an item twice has none of it."""
    request = replace(make_requests(1)[0], exclude=np.array([4]), allow=np.array([4, 7, 11, 12, 25]))
    left = [7, 11, 12, 25]
    pairs = [np.array([a, b]) for a in left for b in left]
    values = tiny.list_log_probs(
        [[256, 72]] * len(pairs),
        pairs,
        excluded=[request.exclude] * len(pairs),
        allowed=[request.allow] * len(pairs),
    )
    twice = torch.tensor([a == b for a in left for b in left])
    assert values[twice].isneginf().all()
    assert float(values.exp().sum()) == pytest.approx(1, abs=1e-5)


def test_lists_scored_in_small_batches_are_the_same(tiny):
    requests, _, _ = asked(tiny, 6)
    builder = PromptBuilder(
        PromptConfig(recent_items=3),
        Catalogue(["x"] * 30, ["x"] * 30, {}),
        tiny.encode,
        256,
        tiny.item_tokens,
    )
    reading, lists = Reading(tiny, builder), lists_for(requests)
    whole = list_log_probs_of(reading, requests, lists)
    np.testing.assert_allclose(list_log_probs_of(reading, requests, lists, budget=1), whole, atol=1e-5)
    direct = target_log_probs(reading, requests, lists)
    np.testing.assert_allclose(whole, direct.numpy(), atol=1e-5)


def test_kl_pairs_rotate_the_target_alone_and_make_it_available():
    requests = [replace(one, exclude=np.array([5, 6])) for one in make_requests(3)]
    lists = [np.array([1, 2]), np.array([5]), np.array([3])]
    pairs, moved = rotated(requests, lists)
    assert [items.tolist() for items in moved] == [[3], [1, 2], [5]]
    assert [pair.request_id for pair in pairs] == ["r0", "r1", "r2"]
    assert pairs[0] is requests[0]
    assert pairs[2].exclude.tolist() == [6]  # 5 would have no probability there
    assert requests[2].exclude.tolist() == [5, 6]


# -- a world of two items -----------------------------------------------------------------------------------------


class _Vectors:
    """Two users, two vectors."""

    dim, space = 4, "hand-made"

    def vectors(self, requests):
        users = np.array([request.user for request in requests])
        return np.eye(2, 4, dtype=np.float32)[users], np.ones(len(users), bool)


@pytest.fixture
def two_items():
    """A frozen random model over two items; user 0 likes item 0 and dislikes item 1, user 1 the other way round."""
    backbone = load_backbone(BackboneConfig(name="tiny-random", device="cpu"))
    rows = SidRows((2, 2), backbone.hidden_size)
    rows.start_from([None] * 2, norm=1.0, seed=3)
    model = SidModel(backbone, rows, Trie(np.array([[0, 0], [1, 1]]), (2, 2))).eval().requires_grad_(False)
    builder = PromptBuilder(
        PromptConfig(), Catalogue(["a", "b"], ["A", "B"], {}), model.encode, model.bos_id, model.item_tokens
    )
    empty = [replace(one, history=one.history[:0], history_times=one.history[:0], exclude=one.history[:0])
             for one in make_requests(2)]  # fmt: skip
    instances = SimpleNamespace(
        requests=[empty[0], empty[0], empty[1], empty[1]],
        lists=[np.array([0]), np.array([1]), np.array([1]), np.array([0])],
        labels=np.array([True, False, True, False]),
    )
    return model, builder, instances


@pytest.mark.parametrize("kind", ["engagement", "kto"])
def test_a_liked_item_gains_and_a_disliked_one_loses(two_items, kind, tmp_path):
    """Through the frozen model and a prefix made from the user's vector; and the backbone gets no gradient."""
    model, builder, some = two_items
    prefix = UserPrefix(E2P(4, 6, 64, norm=1.0, seed=0), _Vectors())
    reading, plain = Reading(model, builder, prefix), Reading(model, builder)
    before, hash_before = target_log_probs(reading, some.requests, some.lists).detach(), weights_hash(model)
    known = target_log_probs(plain, some.requests, some.lists)
    reference = Reference(None, lambda seed: plain, lambda seed: "plain", tmp_path, 1)  # type: ignore[arg-type]
    weights = {"alpha": 1.0} if kind == "engagement" else {"desirable": 1.0, "undesirable": 1.0}
    objective = Feedback(None, kind, reference, 0.5, weights)  # type: ignore[arg-type]
    instances = labelled(some)
    optimizer = torch.optim.Adam(prefix.parameters(), lr=3e-3)
    first = None
    for _ in range(30):
        optimizer.zero_grad()
        loss = objective._loss(reading, instances, np.arange(4), slice(0, 4), known, 0, torch.divide)
        loss.backward()
        optimizer.step()
        first = float(loss) if first is None else first
    after = target_log_probs(reading, some.requests, some.lists).detach()
    moved = (after - before).numpy()
    assert (moved[some.labels] > 0.05).all(), moved
    assert (moved[~some.labels] < -0.05).all(), moved
    assert float(loss) < first
    assert all(parameter.grad is None for parameter in model.parameters())
    assert weights_hash(model) == hash_before


def labelled(some) -> Labelled:
    made = Labelled.__new__(Labelled)
    made.requests, made.lists, made.labels, made.left_out = some.requests, some.lists, some.labels, 0
    return made


def test_one_step_pushes_both_ways_at_once(two_items):
    """The gradient with respect to log π is negative (raise it) exactly for what was engaged with."""
    model, builder, some = two_items
    logp = target_log_probs(Reading(model, builder), some.requests, some.lists).requires_grad_()
    engaged = torch.from_numpy(some.labels)
    for loss in (
        engagement_loss(logp, logp.detach(), engaged, 0.1, 1.0),
        kto_loss(logp, logp.detach(), engaged, torch.zeros(()), 0.1, 1.0, 1.0),
    ):
        (gradient,) = torch.autograd.grad(loss, logp)
        assert (torch.sign(gradient) == torch.where(engaged, -1.0, 1.0)).all()

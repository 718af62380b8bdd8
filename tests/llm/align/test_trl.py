"""The objectives on a text model against TRL on the same batch."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from llm.align.objectives import kl_baseline, kto_loss
from llm.backbone.load import Backbone, BackboneConfig
from llm.backbone.ragged import NAME as RAGGED
from llm.text_tasks.model import TextModel

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

"""Training for text tasks: Stage 1 (a task LoRA, merged) and Stage 2 (E2P or the static control).

Stage 1 follows TAP-PER: LoRA on q, k, v, o by cross-entropy on answers, over users whom Stage 2 does not
train on. A share of its prompts carries what the prompt method shows, so that this method is trained for too.
Stage 2 is E2P's LM objective (eq. 2 to 4): −mean log p(answer | [φ(c); prompt]), the backbone frozen.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from llm.backbone.adapter import save_adapter
from llm.prompts.prefixes import E2P, StaticPrefix, parameter_count
from llm.text_tasks.model import TextModel
from recsys.config import StageConfig
from recsys.seeds import derive, rng, torch_generator
from recsys.training import loop

PREFIXES: dict[str, type[E2P] | type[StaticPrefix]] = {"e2p": E2P, "static_prefix": StaticPrefix}


class TaskAdaptConfig(StageConfig):
    steps: int = Field(0, ge=0)  # 0: no Stage 1; the backbone answers as it came
    rank: int = Field(8, ge=1)
    alpha: int = 16  # TAP-PER gives none; twice the rank is usual
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    learning_rate: float = 3e-4  # TAP-PER, table 4 (LaMP-3: 5e-4)
    batch: int = Field(8, ge=1)
    warmup: int = 10  # steps
    users_share: float = Field(0.5, gt=0, lt=1)  # of the training users; Stage 2 trains on the others
    context_share: float = Field(0.5, ge=0, le=1)  # of the prompts that carry what the prompt method shows


class PrefixConfig(StageConfig):
    bottleneck: int = Field(64, ge=1)  # d_c
    steps: int = Field(200, ge=1)
    batch: int = Field(8, ge=1)  # instances a step
    learning_rates: tuple[float, ...] = Field((1e-3, 3e-3), min_length=1)  # pilots; validation picks
    pilot_steps: int = Field(20, ge=1)
    weight_decay: float = 0.01
    warmup: int = 5  # steps
    clip_norm: float = 1.0
    validate_every: int = 50  # steps
    patience: int = 4  # validations without a new best; 0: never stop early


@dataclass
class Examples:
    """Tokenised prompts and answers, with user vectors [n, d] where a prefix reads them."""

    prompts: list[list[int]]
    answers: list[list[int]]
    vectors: Tensor | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    def pick(self, rows: Sequence[int]) -> tuple[list[list[int]], list[list[int]]]:
        return [self.prompts[row] for row in rows], [self.answers[row] for row in rows]


def batch_rows(n: int, batch: int, step: int, seed: int) -> list[int]:
    """Rows of a step: every epoch is a fresh permutation, the same for every method of a seed."""
    epoch, part = divmod(step, -(-n // batch))
    order = torch.randperm(n, generator=torch_generator(seed, "text instances", epoch))
    return order[part * batch : (part + 1) * batch].tolist()


def answer_loss(
    model: TextModel, examples: Examples, rows: Sequence[int], prefix: Callable[[Tensor], Tensor] | None
) -> Tensor:
    """−log p(answer) a token, over all answer tokens of the batch."""
    prompts, answers = examples.pick(rows)
    soft = None
    if prefix is not None:
        assert examples.vectors is not None
        soft = prefix(examples.vectors[list(rows)].to(model.device))
    return -model.log_probs(prompts, answers, soft).sum() / sum(len(answer) for answer in answers)


def mean_loss(model: TextModel, examples: Examples, prefix, batch: int) -> float:
    """`answer_loss` over all examples, without gradients."""
    total, tokens = 0.0, sum(len(answer) for answer in examples.answers)
    with torch.no_grad():
        for start in range(0, len(examples), batch):
            rows = list(range(start, min(start + batch, len(examples))))
            part = sum(len(examples.answers[row]) for row in rows)
            total += float(answer_loss(model, examples, rows, prefix)) * part
    return total / tokens


# -- Stage 1 -------------------------------------------------------------------------------------------------


def adapt_text_model(
    config: TaskAdaptConfig, model: TextModel, examples: Examples, folder: Path, checkpoint: Path, seed: int
) -> dict[str, Any]:
    """Train the task LoRA and write `adapter/` into `folder`; returns what the report says of it."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=list(config.targets),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "task lora", bits=31))
        peft = get_peft_model(model.inner, lora)
    model.inner = peft
    parameters = [parameter for parameter in peft.parameters() if parameter.requires_grad]
    curve = loop.fit(
        "Stage 1 for text",
        config.steps,
        loop.trainable_state(peft),
        torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0),
        lambda step: answer_loss(model, examples, batch_rows(len(examples), config.batch, step, seed), None),
        checkpoint,
        schedule=lambda step: loop.cosine(step, config.steps, min(config.warmup, config.steps)),
        clip_norm=1.0,
        log_every=10,
    )
    save_adapter(peft, folder / "adapter")
    count = sum(parameter.numel() for parameter in parameters)
    return {"trainable_parameters": count, "instances": len(examples), "curves": curve.as_dict()}


def merge_adapter(model: TextModel, adapter: Path) -> TextModel:
    """The text model with a Stage 1 adapter merged in, frozen."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        peft = PeftModel.from_pretrained(model.inner, str(adapter))
    model.inner = peft.merge_and_unload()
    return model.eval().requires_grad_(False)


# -- Stage 2 -------------------------------------------------------------------------------------------------


def new_text_prefix(method: str, dim: int, config: PrefixConfig, model: TextModel, seed: int):
    """A fresh E2P or StaticPrefix whose soft token starts at the mean norm of a token embedding."""
    norm = float(model.inner.get_input_embeddings().weight.float().norm(dim=1).mean())
    return PREFIXES[method](dim, config.bottleneck, model.hidden_size, norm, seed).to(model.device)


def train_text_prefix(
    config: PrefixConfig,
    model: TextModel,
    method: str,
    train: Examples,
    validation: Examples,
    path: Path,
    checkpoint: Path,
    seed: int,
) -> dict[str, Any]:
    """Choose the learning rate by pilots, train, write the prefix to `path`; returns the method's report."""
    pilots: dict[float, float] = {}
    if len(config.learning_rates) > 1:
        for rate in config.learning_rates:
            steps = min(config.pilot_steps, config.steps)
            pilots[rate] = _fit(
                config, model, method, train, validation, rate, steps, checkpoint / f"{rate}", seed
            )[1]
    chosen = max(pilots, key=lambda rate: pilots[rate]) if pilots else config.learning_rates[0]
    prefix, best, curve = _fit(
        config, model, method, train, validation, chosen, config.steps, checkpoint / "full", seed
    )
    save_file({name: tensor.cpu() for name, tensor in prefix.state_dict().items()}, path)
    return {
        "learning_rate": chosen,
        "pilot_validation_nll": {str(rate): -value for rate, value in pilots.items()},
        "trainable_parameters": parameter_count(prefix),
        "best_step": curve.best_step,
        "validation_nll": -best,
        "curves": curve.as_dict(),
    }


def _fit(config: PrefixConfig, model, method, train, validation, rate, steps, checkpoint, seed):
    assert train.vectors is not None
    prefix = new_text_prefix(method, train.vectors.shape[1], config, model, seed)
    curve = loop.fit(
        f"{method} at {rate:g}",
        steps,
        loop.trainable_state(prefix),
        torch.optim.AdamW(prefix.parameters(), lr=rate, weight_decay=config.weight_decay),
        lambda step: answer_loss(model, train, batch_rows(len(train), config.batch, step, seed), prefix),
        checkpoint,
        schedule=lambda step: loop.cosine(step, steps, min(config.warmup, steps)),
        validate=lambda: -mean_loss(model, validation, prefix, config.batch),
        validate_every=min(config.validate_every, steps),
        patience=config.patience,
        clip_norm=config.clip_norm,
        log_every=10,
    )
    return prefix, curve.best_value, curve


# -- user vectors --------------------------------------------------------------------------------------------


def vectors_of(
    model: TextModel, texts: Sequence[str], longest: int, batch: int, checkpoint: Path, block: int = 64
) -> Tensor:
    """Last hidden states [n, h] of texts, each distinct text read once;
    blocks already on disk are not read again.
    """
    from safetensors.torch import load_file

    distinct = sorted(set(texts), key=lambda text: (len(text), text))  # alike lengths together
    parts = []
    for start in range(0, len(distinct), block):
        path = checkpoint / f"vectors-{start}.safetensors"
        if not path.exists():
            with torch.no_grad():
                found = [
                    model.text_vectors(distinct[at : min(at + batch, start + block)], longest).cpu()
                    for at in range(start, min(start + block, len(distinct)), batch)
                ]
            temporary = path.with_suffix(".tmp")
            save_file({"vectors": torch.cat(found)}, temporary)
            temporary.replace(path)
        parts.append(load_file(path)["vectors"])
    place = {text: number for number, text in enumerate(distinct)}
    return torch.cat(parts)[[place[text] for text in texts]]


def other_users(users: Sequence[str], permutations: int, seed: int) -> np.ndarray:
    """Rows [K, N]: whose vector an instance gets in each permutation of E2P-Random,
    never one of its own user.

    Users stand in a random circle and each takes the vectors of the next; among several, one is drawn. Raises
    `ValueError` with fewer than two users.
    """
    rows: dict[str, list[int]] = {}
    for number, user in enumerate(users):
        rows.setdefault(user, []).append(number)
    names = sorted(rows)
    if len(names) < 2:
        raise ValueError("e2p_random needs at least two test users; bring more, or leave the method out")
    found = np.zeros((permutations, len(users)), dtype=np.int64)
    for number in range(permutations):
        draw = rng(seed, "other users", number)
        circle = [names[place] for place in draw.permutation(len(names))]
        for user, other in zip(circle, circle[1:] + circle[:1], strict=True):
            found[number, rows[user]] = draw.choice(rows[other], len(rows[user]))
    return found


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")

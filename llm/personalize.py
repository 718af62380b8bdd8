"""Stage `personalize` (Stage 2): train one way to condition the frozen model on a user, and its controls.

Every method trains on the same PERSONALIZE instances, in the same order, for the same number of steps. An instance is
one target; its user vector holds only what came strictly before it, so no sequence shares a vector across times.

  e2p                   φ(c), one soft token from the user's vector (LM objective, E2P paper eq. 2–4)
  static_prefix         the same φ fed one learned constant
  e2p_prompt            φ(c) in front of a prompt that also carries the text profile
  no_context_continued  no prefix: Stage 1's adapter and rows go on training on all that Stage 2 saw
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file

from llm.adapt import AdaptConfig, load_adapted, prompt_builder, save_adapted, validation_events
from llm.backbone import weights_hash
from llm.model import SidModel
from llm.prefixes import E2P, StaticPrefix, parameter_count
from llm.prompts import PromptBuilder
from llm.scoring import constraints_of, expected_hit_rate
from recsys import training
from recsys.config import StageConfig
from recsys.embed import load_user_vectors
from recsys.prepare import Dataset
from recsys.recommender import Request
from recsys.run import Run, RunError
from recsys.seeds import torch_generator
from recsys.splits import PERSONALIZE

Method = Literal["e2p", "static_prefix", "e2p_prompt", "no_context_continued"]
PREFIXES: dict[str, type[E2P] | type[StaticPrefix]] = {
    "e2p": E2P,
    "static_prefix": StaticPrefix,
    "e2p_prompt": E2P,
}


class PersonalizeConfig(StageConfig):
    methods: tuple[Method, ...] = ("e2p", "static_prefix", "e2p_prompt", "no_context_continued")
    seeds: tuple[int, ...] = (0,)  # each method is trained once a seed; figures average them
    bottleneck: int = Field(142, ge=1)  # d_c; 142 gives about 100,000 parameters at 120-d and h = 576
    steps: int = 1000
    batch: int = 32  # instances a step
    # of φ (AdamW): a pilot of `pilot_steps` from each candidate, validation picks; the paper's rate does not transfer
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    pilot_steps: int = 100
    continued_learning_rate: float = 2e-4  # of LoRA and rows in no_context_continued: a fifth of Stage 1's
    weight_decay: float = 0.01
    warmup: int = 20  # steps
    clip_norm: float = 1.0
    validate_every: int = 200  # steps
    patience: int = 4  # validations without a new best; 0: never stop early
    validation_instances: int = 500


class Instances:
    """Requests, targets and user vectors of some events; events whose user has no vector yet are left out."""

    def __init__(self, dataset: Dataset, events: np.ndarray, users, keep_unknown: bool = False):
        requests = dataset.requests(events, dataset.exclude_seen)
        vectors, known = users.vectors(requests)
        keep = np.flatnonzero(known | keep_unknown)
        self.requests: list[Request] = [requests[index] for index in keep]
        self.targets = dataset.items[events][keep]
        self.vectors = torch.from_numpy(vectors[keep])
        self.left_out = len(events) - len(keep)
        if not self.requests:
            raise ValueError("no instance of Stage 2 has a user vector; check the split and the embeddings")


def personalize(config: PersonalizeConfig, adapt_config: AdaptConfig, run: Run) -> None:
    """Run the stage; see the module."""
    stage = run.stage("personalize", config, needs=["prepare", "embed", "tokenize", "adapt"])
    if stage.is_done():
        return
    dataset, users = Dataset.load(run), load_user_vectors(run)
    adapted = run.read_json("adapt", "adapt.json")
    with stage.writing() as folder:
        train = Instances(dataset, dataset.events(PERSONALIZE), users)
        events = validation_events(dataset, config.validation_instances, seed=0)
        validation = Instances(dataset, events, users)
        report: dict = {
            "embedding_space": users.space,
            "table_hash": adapted["table_hash"],
            "instances": len(train.requests),
            "instances_without_a_vector": train.left_out,
            "methods": {},
        }
        curves: dict = {}
        model = load_adapted(run, adapt_config)
        before = weights_hash(model)
        trainer = _Trainer(config, model, prompt_builder(adapt_config, model, dataset), train, validation)
        for method in config.methods:
            for seed in config.seeds:
                name = f"{method}-{seed}"
                checkpoint = stage.checkpoint / name
                if method == "no_context_continued":
                    part = _continue_stage_1(
                        config, adapt_config, run, dataset, train, validation, folder / name, checkpoint, seed
                    )
                else:
                    part = trainer.train_prefix(method, seed, folder, checkpoint)
                curves[name] = part.pop("curves")
                report["methods"][name] = part
        report["frozen_hash_before"], report["frozen_hash_after"] = before, weights_hash(model)
        if report["frozen_hash_after"] != before:
            raise RuntimeError("the frozen model changed during Stage 2; nothing was written")
        (folder / "personalize.json").write_text(json.dumps(report, indent=1))
        (folder / "curves.json").write_text(json.dumps(curves))
    for name, part in report["methods"].items():
        print(
            f"personalize: {name}: {part['trainable_parameters']:,} trainable parameters at lr "
            f"{part['learning_rate']:g}; validation expected hit-rate@30 {part['validation_expected_hit_rate@30']:.4f}"
        )
    print(f"personalize: the frozen model's hash is unchanged ({before[:16]}…)")


class _Trainer:
    def __init__(
        self, config, model: SidModel, builder: PromptBuilder, train: Instances, validation: Instances
    ):
        self.config, self.model, self.builder = config, model, builder
        self.train, self.validation = train, validation
        self._chosen: dict[
            str, tuple[float, dict[float, float]]
        ] = {}  # learning rate and pilots of each method

    def _learning_rate(self, method: str, checkpoint: Path) -> tuple[float, dict[float, float]]:
        """The rate whose pilot, from the first seed, validates best; one pilot a rate for all seeds of a method."""
        if method not in self._chosen:
            config, pilots = self.config, {}
            for rate in config.learning_rates if len(config.learning_rates) > 1 else ():
                steps = min(config.pilot_steps, config.steps)
                pilots[rate], _ = self._fit(
                    method, config.seeds[0], rate, steps, checkpoint / f"{rate}", pilot=True
                )
            best = max(pilots, key=lambda rate: pilots[rate]) if pilots else config.learning_rates[0]
            self._chosen[method] = best, pilots
        return self._chosen[method]

    def train_prefix(self, method: str, seed: int, folder: Path, checkpoint: Path) -> dict:
        """Choose the learning rate, train, save; returns the method's report."""
        config = self.config
        chosen, pilots = self._learning_rate(method, checkpoint.parent / f"pilots-{method}")
        best, (prefix, curve) = self._fit(method, seed, chosen, config.steps, checkpoint / "full")
        save_file(dict(prefix.state_dict()), folder / f"{method}-{seed}.safetensors")
        return {
            "learning_rate": chosen,
            "pilot_validation_expected_hit_rate@30": {str(rate): value for rate, value in pilots.items()},
            "trainable_parameters": parameter_count(prefix),
            "best_step": curve.best_step,
            "validation_expected_hit_rate@30": best,
            "curves": curve.as_dict(),
        }

    def _fit(self, method: str, seed: int, rate: float, steps: int, checkpoint: Path, pilot: bool = False):
        config, model, profile = self.config, self.model, method == "e2p_prompt"
        prefix = new_prefix(method, self.train.vectors.shape[1], config.bottleneck, model, seed).to(
            model.device
        )
        vectors = self.train.vectors.to(model.device)
        held_out = self.validation.vectors.to(model.device)

        def step(index: int) -> torch.Tensor:
            rows = batch_rows(len(self.train.requests), config.batch, index, seed)
            requests = [self.train.requests[row] for row in rows]
            return lm_loss(
                model, self.builder, requests, self.train.targets[rows], prefix(vectors[rows]), profile
            )

        curve = training.fit(
            f"{method}, seed {seed}" + (f", pilot at {rate:g}" if pilot else ""),
            steps,
            training.trainable_state(prefix),
            torch.optim.AdamW(prefix.parameters(), lr=rate, weight_decay=config.weight_decay),
            step,
            checkpoint,
            schedule=lambda index: training.cosine(index, steps, min(config.warmup, steps)),
            validate=lambda: expected_hit_rate(
                model,
                self.builder,
                self.validation.requests,
                self.validation.targets,
                prefix,
                held_out,
                profile,
            ),
            validate_every=steps if pilot else config.validate_every,
            patience=config.patience,
            clip_norm=config.clip_norm,
        )
        return curve.best_value, (prefix, curve)


def new_prefix(method: str, dim: int, bottleneck: int, model: SidModel, seed: int) -> E2P | StaticPrefix:
    """A fresh prefix module whose soft token starts at the mean norm of a text embedding."""
    norm = float(model.inner.get_input_embeddings().weight.float().norm(dim=1).mean())
    return PREFIXES[method](dim, bottleneck, model.hidden_size, norm, seed)


def batch_rows(n: int, batch: int, step: int, seed: int) -> np.ndarray:
    """Rows of the instances of a step: every epoch is a fresh permutation; the same for every method of a seed."""
    batches = -(-n // batch)
    epoch, part = divmod(step, batches)
    order = torch.randperm(n, generator=torch_generator(seed, "instances", epoch))
    return order[part * batch : (part + 1) * batch].numpy()


def lm_loss(
    model: SidModel,
    builder: PromptBuilder,
    requests: list[Request],
    targets: np.ndarray,
    soft: torch.Tensor | None,
    profile: bool = False,
) -> torch.Tensor:
    """−mean log p(target | [soft prefix; prompt]) (E2P eq. 4), inside the trie with the request's exclusions."""
    prompts = [builder.prompt(request, profile, 0 if soft is None else soft.shape[1]) for request in requests]
    return -model.item_log_probs(prompts, targets, soft, constraints_of(model.trie, requests)).mean()


def _continue_stage_1(
    config, adapt_config, run, dataset, train, validation, folder, checkpoint, seed
) -> dict:
    model = load_adapted(run, adapt_config, merge=False)
    builder = prompt_builder(adapt_config, model, dataset)

    def step(index: int) -> torch.Tensor:
        rows = batch_rows(len(train.requests), config.batch, index, seed)
        return lm_loss(model, builder, [train.requests[row] for row in rows], train.targets[rows], None)

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    curve = training.fit(
        f"no_context_continued, seed {seed}",
        config.steps,
        training.trainable_state(model),
        torch.optim.AdamW(parameters, lr=config.continued_learning_rate, weight_decay=config.weight_decay),
        step,
        checkpoint,
        schedule=lambda index: training.cosine(index, config.steps, config.warmup),
        validate=lambda: expected_hit_rate(model, builder, validation.requests, validation.targets),
        validate_every=config.validate_every,
        patience=config.patience,
        clip_norm=config.clip_norm,
    )
    save_adapted(model, folder)
    return {
        "learning_rate": config.continued_learning_rate,
        "trainable_parameters": sum(parameter.numel() for parameter in parameters),
        "best_step": curve.best_step,
        "validation_expected_hit_rate@30": curve.best_value,
        "curves": curve.as_dict(),
    }


def load_prefix(
    run: Run, config: PersonalizeConfig, method: str, seed: int, model: SidModel, table_hash: str, users
):
    """A trained prefix of a run, frozen. Refuses one trained against another table or another embedding space."""
    report = run.read_json("personalize", "personalize.json")
    if report["table_hash"] != table_hash:
        raise RunError(
            f"the prefix {method} in {run.path}/personalize was trained against another semantic-ID table; "
            f"run: prelude personalize {run.path}"
        )
    if report["embedding_space"] != users.space:
        raise RunError(
            f"the prefix {method} in {run.path}/personalize was trained in embedding space "
            f"{report['embedding_space']!r}, the user vectors are of {users.space!r}; run: prelude personalize {run.path}"
        )
    prefix = new_prefix(method, users.dim, config.bottleneck, model, seed)
    prefix.load_state_dict(load_file(run.artifact("personalize", f"{method}-{seed}.safetensors")))
    return prefix.to(model.device).eval().requires_grad_(False)

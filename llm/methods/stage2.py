"""What every way to personalize shares in Stage 2: settings, instances, the loss, and how its learning rate is found.

Every method trains on the same PERSONALIZE instances, in the same order, for the same number of steps. An
instance is one target; what conditions it holds only what came strictly before it, so no sequence shares a
prefix across times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from llm.backbone.sid_model import SidModel
from llm.decoding.scoring import shared_log_likelihood
from llm.methods.config import Stage2Config
from llm.prompts.builder import PromptBuilder
from llm.prompts.contexts import RecordSearch
from llm.prompts.prefixes import parameter_count
from llm.prompts.reading import Personalizer, Reading
from llm.stage1.adapt import validation_events
from llm.stage1.config import AdaptConfig
from llm.stage1.model import load_adapted, prompt_builder
from llm.stage1.records import NAME as RECORDS
from llm.stage1.records import open_record_vectors, write_record_vectors
from llm.stage1.soft import StartingPhi, load_phi
from recsys.data.dataset import Dataset
from recsys.data.splits import PERSONALIZE
from recsys.embeddings.embed import load_user_vectors
from recsys.embeddings.user_vectors import UserVectors
from recsys.recommender import Request
from recsys.requests import blocks, some_of
from recsys.run import Run
from recsys.training import distributed, loop
from recsys.training.rows import rows_of_epoch

WITHOUT = "validation_log_likelihood_without"  # in a method's report: of the frozen model alone
OUTSIDE = "outside"  # of an exported run: copies of files that methods read and that stand outside of a run


class Instances:
    """Requests and targets of some events; events whose user has no vector yet are left out,
    for every method alike.
    """

    weights: np.ndarray | None = None  # [n] how often each is trained on; None: all alike

    def __init__(self, dataset: Dataset, events: np.ndarray, users: UserVectors):
        requests = dataset.requests(events, dataset.exclude_seen)
        known = [np.zeros(0, bool), *(users.vectors(some)[1] for some in blocks(requests))]
        keep = np.flatnonzero(np.concatenate(known))
        self.events = events[keep]
        self.requests: Sequence[Request] = requests.only(keep)
        self.targets = dataset.items[self.events]
        self.weights = dataset.weighed(self.events)
        self.left_out = len(events) - len(keep)
        if not len(self.requests):
            raise ValueError("no instance of Stage 2 has a user vector; check the split and the embeddings")

    def __len__(self) -> int:
        return len(self.requests)


@dataclass
class World:
    """Everything frozen that a method may read: made once for a run, shared by all of its methods."""

    run: Run
    adapt: AdaptConfig
    settings: Stage2Config
    dataset: Dataset
    users: UserVectors
    model: SidModel
    builder: PromptBuilder
    folder: Path | None = None  # of the stage while it is at work
    kept: dict[str, Any] = field(default_factory=dict)  # what methods share besides, by name

    @classmethod
    def load(cls, run: Run, adapt: AdaptConfig, settings: Stage2Config) -> World:
        dataset, model = Dataset.load(run), load_adapted(run, adapt)
        builder = prompt_builder(adapt, model, dataset)
        return cls(run, adapt, settings, dataset, load_user_vectors(run), model, builder)

    @cached_property
    def train(self) -> Instances:
        return Instances(self.dataset, self.dataset.instances(PERSONALIZE), self.users)

    @cached_property
    def validation(self) -> Instances:
        events = validation_events(self.dataset, self.settings.validation_instances, seed=0)
        return Instances(self.dataset, events, self.users)

    @cached_property
    def trained_users(self) -> np.ndarray:
        """Bool [U]: users with a training instance, whose row a method that keeps one a user has trained."""
        events = self.dataset.instances(PERSONALIZE)
        return np.bincount(self.dataset.users[events], minlength=self.dataset.n_users) > 0

    @cached_property
    def search(self) -> RecordSearch:
        return RecordSearch(self.dataset.catalogue)

    def made(self, name: str) -> Path:
        """An artifact of the stage, finished or at work:
        what an earlier method left may be read by a later one.
        """
        return self.run.artifact("personalize", name) if self.folder is None else self.folder / name

    def outside(self, path: Path) -> Path:
        """Where a file lies that a method's settings name:
        there, or in an exported run, where its copy came along.
        """
        return path if self.run.record(OUTSIDE) is None else self.run.artifact(OUTSIDE, str(path))

    @cached_property
    def records(self) -> torch.Tensor:
        """Record vectors [N, h] on disk (`llm.stage1.records`);
        made the first time, while the stage is at work.
        """
        path = self.made(RECORDS)
        if not path.exists():
            write_record_vectors(path, self.model, self.builder)
        return open_record_vectors(path)

    @cached_property
    def phi(self) -> StartingPhi | None:
        """φ₀, where Stage 1 was trained with soft tokens."""
        return load_phi(self.run)

    @cached_property
    def embedding_norm(self) -> float:
        """Mean norm of a text token's embedding: where soft tokens start."""
        return float(self.model.inner.get_input_embeddings().weight.float().norm(dim=1).mean())


def batch_rows(n: int, batch: int, step: int, seed: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Rows of the instances of a step: every epoch is a fresh permutation, or a draw in proportion to `weights` [n]; the same
    for every method of a seed.
    """
    batches = -(-n // batch)
    epoch, part = divmod(step, batches)
    return rows_of_epoch(n, weights, seed, "instances", epoch)[part * batch : (part + 1) * batch]


def lm_loss(reading: Reading, requests: Sequence[Request], targets: np.ndarray) -> torch.Tensor:
    """−mean log p(target | [soft prefix; prompt]) (E2P eq. 4), in the whole catalogue: what a request leaves out may
    have probability in training, which is lost, and learned to be.
    """
    prompts, condition = reading.conditioned(reading.prompts(requests), requests)
    return -reading.model.item_log_probs(prompts, targets, condition).mean()


class Objective(Protocol):
    """What a personalizer is trained for; `measure` says what `value` is of."""

    measure: str

    def loss(self, reading: Reading, step: int, seed: int) -> tuple[torch.Tensor, int]:
        """The loss of this process's share of a step's batch, differentiable in the personalizer,
        and what it is a mean over.
        """
        ...

    def value(self, reading: Reading, seed: int) -> float:
        """On validation; higher is better."""
        ...


class NextItem:
    """The likelihood of the item that came next (E2P eq. 4), on validation too: an expected hit-rate at t = 1 would choose
    what is sharp before it chose what knows more.
    """

    measure = "log_likelihood"  # nats

    def __init__(self, world: World):
        self.world = world

    def loss(self, reading: Reading, step: int, seed: int) -> tuple[torch.Tensor, int]:
        train = self.world.train
        batch = batch_rows(len(train), self.world.settings.batch, step, seed, train.weights)
        rows = batch[own_share(reading, len(batch))]
        return lm_loss(reading, some_of(train.requests, rows), train.targets[rows]), len(rows)

    def value(self, reading: Reading, seed: int) -> float:
        validation = self.world.validation
        return shared_log_likelihood(reading, validation.requests, validation.targets)

    def without(self) -> float:
        """The same of the frozen model alone; worked out once a run."""
        kept = self.world.kept
        if "log_likelihood_without" not in kept:
            plain = Reading(self.world.model, self.world.builder)
            kept["log_likelihood_without"] = self.value(plain, 0)
        return kept["log_likelihood_without"]


def own_share(reading: Reading, n: int) -> slice:
    """The rows of a batch of `n` that this process computes;
    its personalizer is told, so that what is random is of the whole batch.
    """
    mine = distributed.share(n)
    if reading.personalizer is not None:
        reading.personalizer.first_row = mine.start
    return mine


def train_by_gradient(
    label: str,
    world: World,
    new_reading: Callable[[int], tuple[Reading, torch.nn.Module]],
    seed: int,
    checkpoint: Path,
    pilots: Path,
    learning_rates: Sequence[float],
    steps: int,
    objective: Objective | None = None,
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Choose the rate by pilots, then train; returns the trained module, its best state in it,
    and the method's report.

    `new_reading(seed)` gives a fresh reading and the module in it that is trained. All seeds of a method
    share the pilots of the first: `pilots` is their checkpoint's folder. Without an `objective` it is
    `NextItem`. What the module is before its first step is a candidate of the best state too; and where the best does not
    beat the frozen model without it on validation, the report says so.
    """
    settings, values = world.settings, {}
    goal = NextItem(world) if objective is None else objective
    for rate in learning_rates if len(learning_rates) > 1 else ():
        first, some = settings.seeds[0], min(settings.pilot_steps, steps)
        _, curve = _fit(
            f"{label}, pilot at {rate:g}", world, goal, new_reading, first, rate, some, pilots / f"{rate}", True
        )  # fmt: skip
        values[rate] = curve.best_value
    chosen = max(values, key=lambda rate: values[rate]) if values else learning_rates[0]
    module, curve = _fit(
        f"{label}, seed {seed}", world, goal, new_reading, seed, chosen, steps, checkpoint, False
    )
    report = {
        "learning_rate": chosen,
        f"pilot_validation_{goal.measure}": {str(rate): value for rate, value in values.items()},
        "trainable_parameters": parameter_count(module),
        "best_step": curve.best_step,
        f"validation_{goal.measure}": curve.best_value,
        "curves": curve.as_dict(),
    }
    if isinstance(goal, NextItem):
        report[WITHOUT] = goal.without()
    return module, report


def _fit(
    label: str,
    world: World,
    goal: Objective,
    new_reading,
    seed: int,
    rate: float,
    steps: int,
    checkpoint: Path,
    pilot: bool,
) -> tuple[torch.nn.Module, loop.Curves]:
    settings = world.settings
    reading, module = new_reading(seed)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def step(index: int) -> tuple[torch.Tensor, int]:
        module.train()
        if isinstance(module, Personalizer):
            module.step = index
        return goal.loss(reading, index, seed)

    def validate() -> float:
        module.eval()
        return goal.value(reading, seed)

    curve = loop.fit(
        label,
        steps,
        loop.trainable_state(module),
        torch.optim.AdamW(
            parameters,
            lr=rate,
            weight_decay=settings.weight_decay,
            fused=world.model.device.type == "cuda",  # one kernel instead of a dozen
        ),
        step,
        checkpoint,
        schedule=lambda index: loop.cosine(index, steps, min(settings.warmup, steps)),
        validate=validate,
        validate_every=steps if pilot else settings.validate_every,
        start_counts=not pilot,
        patience=settings.patience,
        clip_norm=settings.clip_norm,
    )
    return module.eval(), curve

"""OPPU: One PEFT Per User (Tan et al. 2024, arXiv 2402.04401).

Every user has adapters of their own on the frozen model.

    ΔW_u = argmin_ΔW Σ_{(x, y) before t} −log p(y | x; Ψ ⊕ ΔW)          (P2P, appendix C)

Ψ is the Stage 1 model, adapted to the task and merged as the paper adapts its base model; `base: mt_lora`
puts the run's shared LoRA, trained on the same late events, between the two. ΔW_u is a LoRA (r = 8 on q and
v), IA3 (gains on keys, values and the MLP's inner product: a gain on up_proj's output is one on down_proj's
input) or prompt tuning (m soft tokens). The paper's +rag and +pag put retrieved records and a profile into
the prompt, in training as at test.

What the papers leave open, and here: a user learns from their own events of Stage 2's part, each conditioned
on what came strictly before it; AdamW at a constant rate without decay, warm-up or clipping; every user
starts from the same draw. Rate and epochs are chosen once for all users, on validation events of a sample of
them. A user without such events has no adapter: they get the base model. What is trained is exactly one
ordinary run a user (`llm.methods.per_user.training`).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from llm.backbone.conditions import NOTHING, Condition
from llm.decoding.scoring import log_likelihood
from llm.methods.base import MethodConfig
from llm.methods.lora import MTLoraConfig
from llm.methods.per_user.adapters import ROWS, Form, Ia3Form, LoraForm, PromptForm, UserTable
from llm.methods.per_user.training import Course, Diaries, train_users
from llm.methods.prompting import PromptMethod
from llm.methods.stage2 import Instances, World
from llm.prompts.reading import Reading
from recsys.artifacts.rewrite import write_text_atomically
from recsys.data.splits import TEST, VALIDATION, WARM
from recsys.seeds import rng

IA3_LAYERS = ("k_proj", "v_proj", "up_proj")
RATES = {"lora": (3e-4, 1e-3), "ia3": (1e-3, 1e-2), "prompt": (1e-3, 1e-2)}
OWN = {  # setting -> the kinds it belongs to
    "rank": ("lora",), "alpha": ("lora",), "modules": ("lora", "ia3"), "length": ("prompt",),
}  # fmt: skip


class OnePerUser(MethodConfig):
    """What methods share that train adapters of single users."""

    is_shared: ClassVar[bool] = False

    base: Literal["stage1", "mt_lora"] = "stage1"  # mt_lora: on top of the run's trained MT-LoRA
    prompt: PromptMethod | None = None  # personal context in the prompt too; None: the shared prompt
    batch: int = Field(8, ge=1)  # a user's own instances a step
    learning_rates: tuple[float, ...] | None = None  # of AdamW, constant; None: RATES of the kind
    epochs: tuple[int, ...] = (1, 3)  # passes over a user's own instances; validation picks one
    pilot_users: int = Field(48, ge=1)  # on whom rate and epochs are chosen
    memory_mb: int = Field(1024, ge=1)  # MiB that the training of a group of users may take

    @model_validator(mode="after")
    def _grid(self) -> OnePerUser:
        if not self.epochs or min(self.epochs) < 1:
            raise ValueError(f"{self.method}.epochs {list(self.epochs)}: give numbers of passes, 1 or more")  # type: ignore[attr-defined]
        if self.learning_rates is not None and (not self.learning_rates or min(self.learning_rates) <= 0):
            rates = list(self.learning_rates)
            raise ValueError(f"{self.method}.learning_rates {rates}: give rates above 0")  # type: ignore[attr-defined]
        return self

    def form(self, world: World) -> Form:
        """What a user's numbers mean."""
        raise TypeError(f"{type(self).__name__} does not say what it trains")

    def rates(self) -> tuple[float, ...]:
        return self.learning_rates or RATES["lora"]

    def course(self, world: World, seed: int, rate: float, epochs: int) -> Course:
        context = self.prompt.context(world) if self.prompt else None
        base = self.shared(world, seed)
        return Course(self.form(world), rate, epochs, self.batch, seed, base=base, context=context)

    def shared(self, world: World, seed: int) -> Condition:
        """What every user is told besides: nothing, or the run's MT-LoRA."""
        if self.base == "stage1":
            return NOTHING
        return shared_lora(world).load(world, seed).personalizer.condition([])  # type: ignore[union-attr]

    def diaries(self, world: World) -> Diaries:
        """Everybody's own events of Stage 2."""
        return Diaries.of(world.dataset, world.train.events, world.settings.own_events)

    def newcomers(self, world: World) -> Diaries | None:
        """All own events, before the first test event, of the users whom a user split holds out;
        None where they get nothing.
        """
        if not world.settings.held_out_users:
            return None
        data = world.dataset
        users, first = np.unique(data.users[data.events(TEST)], return_index=True)
        first = data.events(TEST)[first]
        pairs = zip(users.tolist(), data.history_end[first].tolist(), strict=True)
        parts = [np.arange(data.offsets[u], end) for u, end in pairs if data.user_groups[u] != WARM]
        events = data.askable(np.concatenate([np.zeros(0, np.int64), *parts]))
        return Diaries.of(data, events, world.settings.own_events) if len(events) else None

    def chosen(self, world: World, pilots: Path) -> tuple[float, int, dict[str, float]]:
        """Rate, epochs, and validation's figure for each pair; all seeds share the pilots of the first."""
        pairs = list(product(self.rates(), self.epochs))
        if len(pairs) == 1:
            return *pairs[0], {}
        diaries = self.diaries(world)
        validation = world.dataset.instances(VALIDATION)
        able = np.flatnonzero(np.isin(diaries.users, world.dataset.users[validation]))
        if not len(able):
            raise ValueError(
                f"{self.key}: no user has both events to learn from and validation events, so nothing can choose between "
                f"{len(pairs)} settings; give one learning rate and one number of epochs"
            )
        seed = world.settings.seeds[0]
        some = np.sort(rng(seed, "pilot users").permutation(able)[: self.pilot_users])
        mine = diaries.some(some)
        events = validation[np.isin(world.dataset.users[validation], mine.users)]
        held_out = Instances(world.dataset, events, world.users)
        values = {pair: self._pilot(world, seed, pair, mine, held_out, pilots) for pair in pairs}
        rate, epochs = max(values, key=lambda pair: values[pair])
        return rate, epochs, {f"{rate}, {epochs} epochs": value for (rate, epochs), value in values.items()}

    def admitted(
        self, world: World, reading: Reading, events: np.ndarray, seed: int = 0, quiet: bool = True
    ) -> Reading:
        """`reading` with adapters for users whom the run has not seen, made exactly as it made the others';
        it knows these users alone.

        `events` are indices into the data set, of one user or several, such as those that a user split left
        out; every one is an instance conditioned on what came strictly before it.
        """
        raise TypeError(f"{type(self).__name__} does not admit")

    def admit(self, world: World, reading: Reading, events: np.ndarray) -> None:
        self.admitted(world, reading, events, world.settings.seeds[0])

    def _pilot(
        self, world: World, seed: int, pair, diaries: Diaries, held_out: Instances, pilots: Path
    ) -> float:
        done = pilots / f"{pair[0]}-{pair[1]}.json"
        if not done.exists():
            course = self.course(world, seed, *pair)
            label = f"{self.name}, pilot at {pair[0]:g}, {pair[1]} epochs"
            folder = pilots / f"{pair[0]}-{pair[1]}"
            shards = train_users(label, world, course, diaries, self.memory_mb << 20, folder)
            reading = course.reading(world, UserTable.open(shards))
            value = log_likelihood(reading, held_out.requests, held_out.targets)
            write_text_atomically(done, json.dumps(value))
        return json.loads(done.read_text())


class OppuConfig(OnePerUser):
    method: Literal["oppu"] = "oppu"
    reads = "recent items; the adapter also trains on the user's own earlier events"
    stores = "a PEFT a user: LoRA Σ r (in + out), IA3 Σ out, prompt m · h numbers"
    trains = "each user's own LoRA, IA3 or soft tokens"
    use = "few users with long histories, and a training run for each is affordable"
    kind: Literal["lora", "ia3", "prompt"] = "lora"
    rank: int = Field(8, ge=1)  # lora
    alpha: float = Field(16.0, gt=0)  # lora: its scale is alpha / rank
    modules: tuple[str, ...] | None = None  # None: q_proj and v_proj (lora), k_proj, v_proj and up_proj (ia3)
    length: int = Field(8, ge=1)  # prompt: m, soft tokens

    @model_validator(mode="after")
    def _makes_sense(self) -> OppuConfig:
        for setting, kinds in OWN.items():
            changed = getattr(self, setting) != type(self).model_fields[setting].default
            if changed and self.kind not in kinds:
                raise ValueError(
                    f"oppu.{setting} belongs to kind {' or '.join(kinds)}, and kind is {self.kind}"
                )
        if self.modules is not None and not self.modules:
            raise ValueError("oppu.modules is empty, so that nothing would be trained; name linear layers")
        return self

    def rates(self) -> tuple[float, ...]:
        return self.learning_rates or RATES[self.kind]

    def form(self, world: World) -> Form:
        if self.kind == "prompt":
            return PromptForm(self.length, world.model.hidden_size, world.embedding_norm)
        if self.kind == "ia3":
            return Ia3Form(world.model.updates.layers(self.modules or IA3_LAYERS))
        layers = world.model.updates.layers(self.modules or ("q_proj", "v_proj"))
        return LoraForm(layers, self.rank, self.alpha)

    def train(self, world: World, seed: int, folder: Path, checkpoint: Path, pilots: Path) -> dict[str, Any]:
        done, later = checkpoint / "report.json", checkpoint / "newcomers"
        if not done.exists():
            rate, epochs, values = self.chosen(world, pilots)
            course, diaries, newcomers = (
                self.course(world, seed, rate, epochs), self.diaries(world), self.newcomers(world),
            )  # fmt: skip
            label, budget = f"{self.name}, seed {seed}", self.memory_mb << 20
            shards = train_users(label, world, course, diaries, budget, checkpoint)
            if newcomers is not None:
                train_users(f"{label}, held-out users", world, course, newcomers, budget, later)
            reading, held_out = course.reading(world, UserTable.open(shards)), world.validation
            report = {
                "learning_rate": rate,
                "epochs": epochs,
                "pilot_validation_log_likelihood": values,
                "trainable_parameters": course.form.size * len(diaries.users),
                "per_user_parameters": course.form.size,
                "users": len(diaries.users),
                "validation_log_likelihood": log_likelihood(reading, held_out.requests, held_out.targets),
            }
            write_text_atomically(done, json.dumps(report))
        into = folder / f"{self.key}-{seed}"
        link({path.name: path for path in checkpoint.glob("*.safetensors")}, into)
        link({f"newcomers-{path.name}": path for path in later.glob("*.safetensors")}, into)
        return json.loads(done.read_text())

    def load(self, world: World, seed: int) -> Reading:
        course = self.course(world, seed, 1.0, 1)  # nothing is trained with it
        return course.reading(world, UserTable.open(shards_of(world, f"{self.key}-{seed}")))

    def admitted(
        self, world: World, reading: Reading, events: np.ndarray, seed: int = 0, quiet: bool = True
    ) -> Reading:
        course = self.course(world, seed, *self._as_trained(world, seed))
        diaries = Diaries.of(
            world.dataset, np.sort(np.asarray(events, dtype=np.int64)), world.settings.own_events
        )
        with tempfile.TemporaryDirectory() as folder:
            shards = train_users(self.name, world, course, diaries, self.memory_mb << 20, Path(folder), quiet)
            rows, _ = UserTable.open(shards).take(diaries.users)
        return course.reading(world, UserTable([(diaries.users, {ROWS: rows})]))

    def _as_trained(self, world: World, seed: int) -> tuple[float, int]:
        report = world.run.read_json("personalize", "personalize.json")["methods"][f"{self.key}-{seed}"]
        return report["learning_rate"], report["epochs"]


def shared_lora(world: World) -> MTLoraConfig:
    """The run's MT-LoRA. Raises `ValueError` where the run has none before the method that asks."""
    for method in getattr(world.settings, "methods", ()):
        if isinstance(method, MTLoraConfig):
            return method
    raise ValueError(
        "base: mt_lora needs the method mt_lora in personalize.methods, before the one that builds on it"
    )


def shards_of(world: World, name: str) -> list[Path]:
    """The files of a method in `personalize/NAME/`, hashes checked."""
    record = world.run.record("personalize") or {"artifacts": {}}
    return [world.made(file) for file in sorted(record["artifacts"]) if file.startswith(f"{name}/")]


def link(files: Mapping[str, Path], folder: Path) -> None:
    """Give files of a checkpoint another name in `folder`: bytes are not copied."""
    folder.mkdir(exist_ok=True)
    for name, path in files.items():
        os.link(path, folder / name)

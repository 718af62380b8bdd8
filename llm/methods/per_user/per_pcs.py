"""PER-PCS: adapters put together from pieces that a few users share (Tan et al. 2024, arXiv 2406.10471).

1. Sharers. Users' vectors as of the end of training are clustered (k-means); the most active user of each
   cluster shares.
2. Each sharer gets a LoRA of their own (`llm.methods.per_user.oppu`), which falls into pieces: (A, B) of one
   linear layer.
3. Gates. With its LoRA frozen, every piece gets a gate g by the same loss: y = W x + σ(g · x) B A x, from
   g = 0.
4. Assembly, without training. A target user's own training inputs are read once. At each layer, on the way
   forward and so behind the pieces that earlier layers got, every sharer's piece is scored against the
   layer's input x:

       s_i = √in · mean over tokens of cos(g_i, x),   w = softmax over the k best,   ΔW = Σ_i w_i B_i A_i

   A weighted sum of low-rank products is one product of rank k · r: the A are stacked, the weighted B laid
   side by side.

What the paper leaves open, and here: the √in (cosines lie so close together that a softmax over them would be
a mean; it is the scale of PHATGOOSE, arXiv 2402.05859, where the post-hoc gate comes from); weights are per
user, not per request; sharers are assembled like everybody else. A user is kept as k sharers and k weights a
layer. Pieces are named by their sharer's user integer, so a sharer can be forgotten: whoever used their piece
goes on with the others.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from llm.decoding.scoring import log_likelihood
from llm.methods.per_user.adapters import ROWS, LoraForm, UserTable, write_rows
from llm.methods.per_user.oppu import OnePerUser, link, shards_of
from llm.methods.per_user.pieces import GATES, PIECES, WEIGHTS, Assembled, GateForm, Pool, choose_sharers
from llm.methods.per_user.training import Course, Diaries, Lessons, groups, train_users
from llm.methods.stage2 import World
from llm.prompts.reading import Reading
from recsys.artifacts.rewrite import write_text_atomically
from recsys.progress import Progress
from recsys.recommender import Request

POOL, ASSEMBLED, NEWCOMERS = "pool.safetensors", "users.safetensors", "newcomers.safetensors"


class PerPcsConfig(OnePerUser):
    method: Literal["per_pcs"] = "per_pcs"
    reads = "recent items; the pieces are chosen by the user's own earlier events"
    stores = "k pieces and k weights a layer: 2 · k · layers numbers"
    trains = "LoRAs and gates of the sharers"
    use = "many users: a newcomer is assembled in one forward pass, and a few numbers are stored for each"
    sharers: int = Field(50, ge=1)  # clusters, one sharer of each
    sharer: Literal["most_active", "nearest"] = "most_active"  # who of a cluster; nearest: to its centre
    k: int = Field(3, ge=1)  # pieces that are mixed in a layer
    rank: int = Field(8, ge=1)
    alpha: float = Field(16.0, gt=0)
    modules: tuple[str, ...] = Field(("q_proj", "v_proj"), min_length=1)
    gate_learning_rate: float = Field(1e-2, gt=0)
    gate_epochs: int = Field(2, ge=1)  # passes over a sharer's own instances
    assembly_events: int = Field(16, ge=1)  # a user's latest own events whose inputs choose the pieces

    @model_validator(mode="after")
    def _makes_sense(self) -> PerPcsConfig:
        if self.k > self.sharers:
            raise ValueError(f"per_pcs.k is {self.k}, and only {self.sharers} sharers have pieces; lower k")
        return self

    def form(self, world: World) -> LoraForm:
        return LoraForm(world.model.updates.layers(self.modules), self.rank, self.alpha)

    def train(self, world: World, seed: int, folder: Path, checkpoint: Path, pilots: Path) -> dict[str, Any]:
        done = checkpoint / "report.json"
        if not done.exists():
            checkpoint.mkdir(parents=True, exist_ok=True)
            rate, epochs, values = self.chosen(world, pilots)
            course, diaries = self.course(world, seed, rate, epochs), self.diaries(world)
            self._make_pool(world, course, diaries, checkpoint)
            self._assemble_all(world, course, diaries, checkpoint, ASSEMBLED)
            if (newcomers := self.newcomers(world)) is not None:
                self._assemble_all(world, course, newcomers, checkpoint, NEWCOMERS)
            reading = self._reading(world, course, checkpoint / POOL, [checkpoint / ASSEMBLED])
            adapters, held_out = reading.personalizer, world.validation
            assert isinstance(adapters, Assembled)
            report = {
                "learning_rate": rate,
                "epochs": epochs,
                "pilot_validation_log_likelihood": values,
                "trainable_parameters": adapters.shared_parameters,
                "per_user_parameters": adapters.per_user_parameters,
                "shared_parameters": adapters.shared_parameters,
                "users": len(diaries.users),
                "sharers": len(adapters.pool.sharers),
                "validation_log_likelihood": log_likelihood(reading, held_out.requests, held_out.targets),
            }
            write_text_atomically(done, json.dumps(report))
        made = {name: checkpoint / name for name in (POOL, ASSEMBLED, NEWCOMERS)}
        link({name: path for name, path in made.items() if path.exists()}, folder / f"{self.key}-{seed}")
        return json.loads(done.read_text())

    def load(self, world: World, seed: int) -> Reading:
        course = self.course(world, seed, 1.0, 1)  # nothing is trained with it
        pool, *users = sorted(shards_of(world, f"{self.key}-{seed}"), key=lambda path: path.name != POOL)
        return self._reading(world, course, pool, users)

    def admitted(
        self, world: World, reading: Reading, events: np.ndarray, seed: int = 0, quiet: bool = True
    ) -> Reading:
        """Nothing is trained: the pieces are the run's."""
        assert isinstance(reading.personalizer, Assembled)
        course, pool = self.course(world, seed, 1.0, 1), reading.personalizer.pool
        diaries = Diaries.of(world.dataset, np.sort(np.asarray(events, dtype=np.int64)))
        pieces, weights = self._assembled(world, course, pool, diaries, quiet)
        table = UserTable([(diaries.users, {PIECES: pieces, WEIGHTS: weights})])
        return self._read_with(world, course, pool, table)

    def _reading(self, world: World, course: Course, pool: Path, users: list[Path]) -> Reading:
        opened = Pool.open(pool, self.form(world), world.model.device)
        return self._read_with(world, course, opened, UserTable.open(users))

    def _read_with(self, world: World, course: Course, pool: Pool, table: UserTable) -> Reading:
        adapters = Assembled(pool, table, self.k, world.model.device, course.base).eval()
        return Reading(world.model, world.builder, adapters, course.context)

    def _sharers(self, world: World, diaries: Diaries, seed: int) -> np.ndarray:
        """Places of the sharers in `diaries`."""
        data, last = world.dataset, diaries.events[diaries.offsets[1:] - 1]
        ends = [
            Request("", int(user), int(data.times[event]) + 1, data.items[data.offsets[user] : event + 1])
            for user, event in zip(diaries.users, last, strict=True)
        ]
        vectors, known = world.users.vectors(ends)
        able = np.flatnonzero(known)
        activity = diaries.counts[able]
        return able[choose_sharers(vectors[able], activity, self.sharers, self.sharer, seed)]

    def _make_pool(self, world: World, course: Course, diaries: Diaries, checkpoint: Path) -> None:
        path, budget, form = checkpoint / POOL, self.memory_mb << 20, self.form(world)
        if path.exists():
            return
        sharers = diaries.some(self._sharers(world, diaries, course.seed))
        label = f"{self.name}, seed {course.seed}"
        shards = train_users(f"{label}, sharers", world, course, sharers, budget, checkpoint / "sharers")
        table = UserTable.open(shards)
        gates = Course(
            GateForm(form, table), self.gate_learning_rate, self.gate_epochs, self.batch, course.seed,
            base=course.base, context=course.context,
        )  # fmt: skip
        shards = train_users(f"{label}, gates", world, gates, sharers, budget, checkpoint / "gates")
        trained = UserTable.open(shards).take(sharers.users)[0]
        write_rows(path, sharers.users, {ROWS: table.take(sharers.users)[0], GATES: trained})

    def _assemble_all(
        self, world: World, course: Course, diaries: Diaries, checkpoint: Path, name: str
    ) -> None:
        if (checkpoint / name).exists():
            return
        pool = Pool.open(checkpoint / POOL, self.form(world), world.model.device)
        pieces, weights = self._assembled(world, course, pool, diaries)
        write_rows(checkpoint / name, diaries.users, {PIECES: pieces, WEIGHTS: weights})

    def _assembled(
        self, world: World, course: Course, pool: Pool, diaries: Diaries, quiet: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Sharers (user integers) and weights [U, layers, k] of everybody in `diaries`."""
        recent = Diaries.of(world.dataset, diaries.events, self.assembly_events)
        k = min(self.k, len(pool.sharers))
        pieces = torch.zeros(len(recent.users), len(pool.pairs), k, dtype=torch.int64)
        weights = torch.zeros(pieces.shape)
        sharers = torch.from_numpy(pool.sharers)
        label = f"{self.name}, assembly"
        with Progress(
            total=len(recent.users), desc=label, unit="user", disable=quiet, mininterval=1.0
        ) as bar:
            for places in groups(world, course, recent, self.memory_mb << 20, self.assembly_events):
                lessons = Lessons(world, recent.some(places), course.context)
                codes = world.model.target_tokens[lessons.targets].tolist()
                read = [[*prompt, *code] for prompt, code in zip(lessons.prompts, codes, strict=True)]
                owner = np.repeat(np.arange(len(places)), np.diff(lessons.offsets))
                picked, weight = pool.assemble(world.model, read, owner, k, course.base)
                pieces[places], weights[places] = sharers[picked.cpu()], weight.cpu()
                bar.update(len(places))
        return pieces, weights

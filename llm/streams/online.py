"""The experiment of TAP-PER online (4.6): a stream absorbed, against doing nothing and training anew.

Streamed feedback moves a few rows of P_u (Online-Emb), or all that Stage 2 trains (Online-Full); one update
is `llm.methods.user_states.absorb`. The events are those that Stage 1 has not fitted. Departures: the paper
evaluates every step on one later test set; here each chunk of the stream is itself predicted before it is
absorbed (prequential), so all of the stream is a test. And the paper does not say whether P_q of the Static
variant reads records that were streamed: both are measured.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from llm.decoding.scoring import log_probs_of
from llm.methods.stage2 import Instances, World, train_by_gradient
from llm.methods.tap_per import TapPer, TapPerConfig
from llm.methods.user_states import OnlineConfig, absorb
from llm.prompts.reading import Reading
from llm.streams.chunks import chunks_of, last_of_each_user, starts_of
from recsys.data.splits import PERSONALIZE, TEST, VALIDATION
from recsys.seeds import sample

STATIC, BLIND, EMB, FULL, RETRAIN = VARIANTS = (
    "Static",
    "Static, P_q blind to the stream",
    "Online-Emb",
    "Online-Full",
    "Full-Retrain",
)


@dataclass(frozen=True)
class Measured:
    """How one variant predicts a chunk: expected hit-rates [R] of its instances, and whose they are [R]."""

    variant: str
    chunk: int
    rates: np.ndarray
    users: np.ndarray


class Experiment:
    """Every variant over every chunk.
    What is measured is kept in `checkpoint`, so that a killed run repeats nothing.
    """

    def __init__(self, world: World, config: OnlineConfig, method: TapPerConfig, checkpoint: Path):
        self.world, self.config, self.method, self.checkpoint = world, config, method, checkpoint
        self.seed = world.settings.seeds[0]
        self.events, self.part = chunks_of(
            world.dataset, (PERSONALIZE, VALIDATION, TEST), config.chunks, before=config.bootstrap
        )
        self.until = starts_of(world.dataset, self.events[self.part > 0])
        self.costs: list[dict[str, Any]] = []

    def run(self) -> list[Measured]:
        """Predict each chunk with every variant, then let it absorb the chunk;
        the last one is predicted only.
        """
        static = self._trained(0)
        readings = {
            STATIC: static,
            BLIND: self._copy(static),
            EMB: self._copy(static),
            FULL: self._copy(static),
        }
        blind = readings[BLIND].personalizer
        assert isinstance(blind, TapPer)
        blind.until = self.until
        measured = []
        for chunk in range(1, self.config.chunks + 1):
            if self.config.retrain:
                readings[RETRAIN] = static if chunk == 1 else self._trained(chunk - 1)
            measured += [self._measure(variant, readings[variant], chunk) for variant in readings]
            for variant in (EMB, FULL) if chunk < self.config.chunks else ():
                self._absorb(variant, readings[variant], chunk)
        return measured

    def _trained(self, chunk: int) -> Reading:
        """Stage 2 from scratch on the bootstrap and the chunks up to `chunk`;
        the last event of each user validates.
        """
        data = self.world.dataset
        so_far = self.events[self.part <= chunk]
        held = last_of_each_user(data, so_far)
        world = replace(self.world)  # a copy without the run's own instances
        world.train = self._instances(np.setdiff1d(so_far, held))
        world.validation = self._instances(
            sample(held, world.settings.validation_instances, self.config.seed, "online", "validation")
        )
        rates = (self._rate,) if chunk else self.method.learning_rates or world.settings.learning_rates

        def fresh(seed: int) -> tuple[Reading, nn.Module]:
            module = self.method.new(world, seed).to(world.model.device)
            return self.method.reading(world, module), module

        started, label = (
            time.monotonic(),
            f"{self.method.name}, {'bootstrap' if not chunk else f'retrained on chunks to {chunk}'}",
        )
        module, report = train_by_gradient(
            label, world, fresh, self.seed, self.checkpoint / f"trained-{chunk}", self.checkpoint / "pilots", rates,
            self.method.steps or world.settings.steps,
        )  # fmt: skip
        if not chunk:
            self._chosen = report["learning_rate"]
        self._cost(
            "bootstrap" if not chunk else RETRAIN,
            chunk,
            report["curves"]["validation"][-1][0],
            len(world.train),
            time.monotonic() - started,
        )
        assert isinstance(module, TapPer)
        return self.method.reading(world, module.eval().requires_grad_(False))

    @property
    def _rate(self) -> float:
        return self.config.learning_rate or self._chosen

    def _copy(self, reading: Reading) -> Reading:
        """Another TapPer with the same weights."""
        module = self.method.new(self.world, self.seed)
        assert reading.personalizer is not None
        module.load_state_dict(reading.personalizer.state_dict())
        return replace(reading, personalizer=module.to(self.world.model.device).eval().requires_grad_(False))

    def _absorb(self, variant: str, reading: Reading, chunk: int) -> None:
        data = self.world.dataset
        events = data.askable(self.events[self.part == chunk])
        if not len(events):
            return
        requests = data.requests(events, data.exclude_seen)
        folder = self.checkpoint / f"{_slug(variant)}-{chunk}"
        done = absorb(
            f"{variant}, chunk {chunk}", reading, requests, data.items[events], self.config, self._rate, folder, variant == FULL
        )  # fmt: skip
        self._cost(variant, chunk, done.steps, len(events), done.seconds)

    def _cost(self, variant: str, chunk: int, steps: int, events: int, seconds: float) -> None:
        """Note what a training cost. After a kill it is read back, as what is left then costs less."""
        path = self.checkpoint / f"cost-{_slug(variant)}-{chunk}.json"
        if not path.exists():
            cost = {
                "variant": variant,
                "chunk": chunk,
                "steps": steps,
                "events": events,
                "seconds": round(seconds, 3),
            }
            path.write_text(json.dumps(cost))
        self.costs.append(json.loads(path.read_text()))

    def _measure(self, variant: str, reading: Reading, chunk: int) -> Measured:
        data = self.world.dataset
        asked = data.askable(self.events[self.part == chunk])
        events = sample(asked, self.config.instances, self.config.seed, "online", f"chunk {chunk}")
        path = self.checkpoint / f"rates-{_slug(variant)}-{chunk}.json"
        if not path.exists():
            requests = data.block(events, data.exclude_seen)
            values = (
                hits(log_probs_of(reading, requests, data.items[events])[:, 0])
                if len(events)
                else np.zeros(0)
            )
            path.write_text(json.dumps(values.tolist()))
        return Measured(
            variant, chunk, np.array(json.loads(path.read_text()), dtype=float), data.users[events]
        )

    def _instances(self, events: np.ndarray) -> Instances:
        return Instances(self.world.dataset, events, self.world.users)


def hits(log_p: np.ndarray, n: int = 30) -> np.ndarray:
    """Expected hit-rate 1 − (1 − p)^n of each instance [R], from log p."""
    return -np.expm1(n * np.log1p(-np.exp(np.minimum(log_p, -1e-12))))


def _slug(variant: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in variant.lower())

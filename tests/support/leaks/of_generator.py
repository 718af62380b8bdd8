"""Leaks of both stages of the generator, and of what validation chooses after them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llm.decoding.recommender import SidRecommender
from llm.methods import stage2
from llm.methods.p2p.method import P2PConfig
from llm.methods.stage2 import Instances, NextItem, World
from llm.stage1 import adapt, windows
from llm.stage1.words import Words
from recsys.data.dataset import Dataset
from recsys.data.phrases import Phrases
from recsys.data.splits import FIT, PERSONALIZE, TEST, VALIDATION
from serving.stages import combine, rows
from tests.support.leaks.mutant import (
    EARLIER,
    GONE,
    LATER,
    TARGETS,
    Plant,
    as_role,
    cached,
    mutant,
    test_of,
    wrapped,
)

# -- adapt ---------------------------------------------------------------------------------------------------


def _windows_hold(role: int) -> Plant:
    def plant(m: pytest.MonkeyPatch) -> None:
        def of(honest: Any) -> Any:
            return lambda data, *given: honest(as_role(data, role, FIT), *given)

        wrapped(m, windows, "windows_of_epoch", of)

    return plant


for _role, _name, _change in (
    (PERSONALIZE, "Stage 2's", EARLIER),
    (VALIDATION, "validation's", LATER),
    (TEST, "test", TARGETS),
):
    mutant(
        f"Stage 1's windows hold {_name} targets",
        "llm.stage1.windows: windows_of_epoch",
        "adapt",
        "adapt/sid_rows.safetensors",
        change=_change,
    )(_windows_hold(_role))


@mutant(
    "Stage 1 stops by test events",
    "llm.stage1.adapt: validation_events",
    "adapt",
    "adapt/curves.json:Stage 1.validation",
)
def _(m: pytest.MonkeyPatch) -> None:
    m.setattr(adapt, "validation_events", lambda data, at_most, seed: data.instances(TEST))


@mutant(
    "Stage 1's words lead to test items", "llm.stage1.words: events", "adapt", "adapt/sid_rows.safetensors"
)
def _(m: pytest.MonkeyPatch) -> None:
    def of(honest: Any) -> Any:
        def planted(self: Words, dataset: Dataset, *given: Any) -> None:
            honest(self, dataset, *given)
            self.events = dataset.events(TEST)

        return planted

    wrapped(m, Words, "__init__", of)


@mutant(
    "Stage 1 reads queries of test events",
    "recsys.data.phrases: _asked",
    "adapt",
    "adapt/sid_rows.safetensors",
)
def _(m: pytest.MonkeyPatch) -> None:
    def of(honest: Any) -> Any:
        return lambda self, *roles: honest(self, *(role for role in roles if role != TEST))

    wrapped(m, Phrases, "_about", of)
    m.setattr(Phrases, "_too_late", lambda self: np.zeros(len(self.dataset.queries), bool))


@mutant(
    "Stage 1's figures are of queries of test events",
    "llm.stage1.adapt: _understanding",
    "adapt",
    "adapt/adapt.json:queries",
)
def _(m: pytest.MonkeyPatch) -> None:
    m.setattr(Phrases, "before_test", lambda self: self)


@mutant(
    "windows draw by the event's number",
    "llm.stage1.windows: window",
    "adapt",
    "adapt/sid_rows.safetensors",
    change=GONE,
)
def _(m: pytest.MonkeyPatch) -> None:
    def of(honest: Any) -> Any:
        def planted(self: Any, events: np.ndarray, epoch: int) -> Any:
            self.seed = (seed := self.seed) + int(events[0])
            try:
                return honest(self, events, epoch)
            finally:
                self.seed = seed

        return planted

    wrapped(m, windows.WindowBuilder, "window", of)


# -- personalize ---------------------------------------------------------------------------------------------


def _trains_on(role: int) -> Plant:
    def plant(m: pytest.MonkeyPatch) -> None:
        def planted(world: World) -> Instances:
            data = world.dataset
            events = np.sort(np.concatenate([data.instances(PERSONALIZE), data.instances(role)]))
            return Instances(data, events, world.users)

        cached(m, World, "train", planted)

    return plant


for _role, _name, _change in ((VALIDATION, "validation", LATER), (TEST, "test", TARGETS)):
    mutant(
        f"Stage 2 trains on {_name}",
        "llm.methods.stage2: train",
        "personalize",
        "personalize/e2p-0.safetensors",
        change=_change,
    )(_trains_on(_role))


class _OnTest(NextItem):
    def value(self, reading: Any, seed: int) -> float:
        return stage2.shared_log_likelihood(reading, *test_of(self.world.dataset))


def _fits_by_test(m: pytest.MonkeyPatch, pilots: bool) -> None:
    def of(honest: Any) -> Any:
        def planted(label: str, world: World, goal: Any, *given: Any) -> Any:
            return honest(label, world, _OnTest(world) if given[-1] == pilots else goal, *given)

        return planted

    wrapped(m, stage2, "_fit", of)


@mutant(
    "Stage 2's rate chosen on test",
    "llm.methods.stage2: pilots",
    "personalize",
    "personalize/personalize.json:methods.e2p-0.learning_rate",
)
def _(m: pytest.MonkeyPatch) -> None:
    _fits_by_test(m, True)


@mutant("Stage 2 stops by test", "llm.methods.stage2: _fit", "personalize", "personalize/e2p-0.safetensors")
def _(m: pytest.MonkeyPatch) -> None:
    _fits_by_test(m, False)


@mutant(
    "P_u learns test events",
    "llm.methods.stage2: NextItem",
    "personalize",
    "personalize/tap_per-0.safetensors",
)
def _(m: pytest.MonkeyPatch) -> None:
    def of(honest: Any) -> Any:
        def planted(self: NextItem, reading: Any, step: int, seed: int) -> Any:
            if reading.personalizer is None or not reading.personalizer.user_rows:
                return honest(self, reading, step, seed)
            requests, targets = test_of(self.world.dataset)
            loss, count = honest(self, reading, step, seed)  # without it validation would keep the start
            return loss + stage2.lm_loss(reading, requests[:8], targets[:8]), count

        return planted

    wrapped(m, NextItem, "loss", of)


@mutant(
    "P2P's scale is of test profiles",
    "llm.methods.p2p.method: prepare",
    "personalize",
    "personalize/p2p-0.safetensors",
)
def _(m: pytest.MonkeyPatch) -> None:
    def of(honest: Any) -> Any:
        def planted(self: P2PConfig, world: World, folder: Any) -> None:
            honest(self, world, folder)
            self.profiles(world).take_moments(test_of(world.dataset)[0])

        return planted

    wrapped(m, P2PConfig, "prepare", of)


# -- combine and evaluate ------------------------------------------------------------------------------------


@mutant(
    "products' weights chosen on test",
    "serving.stages.combine",
    "combine",
    "combine/combine.json:products.e2p-0.values",
)
def _(m: pytest.MonkeyPatch) -> None:
    m.setattr(combine, "validation_events", lambda data, at_most, seed: data.instances(TEST))


@mutant(
    "queries of instances draw by the event's number",
    "serving.answering.queries: asked_about",
    "combine",
    "combine/combine.json:query_products.words_product.values",
    change=GONE,
)
def _(m: pytest.MonkeyPatch) -> None:
    def of(honest: Any) -> Any:
        return lambda phrases, events, seed: honest(phrases, events, seed + int(events[-1]))

    wrapped(m, combine, "asked_about", of)


def _temperatures_by_test(m: pytest.MonkeyPatch, generators: bool) -> None:
    honest_of, honest = rows.Validation.of, rows.Validation.temperatures
    tests: dict[int, Any] = {}

    def of(methods: Any, chosen: Any) -> Any:
        validation = honest_of(methods, chosen)
        tests[id(validation)] = rows.Validation(*test_of(methods.dataset), chosen, validation.n_items)
        return validation

    def planted(self: Any, name: str, method: Any, grid: Any, n: int = 30) -> Any:
        # another's vector is dealt out among the instances that are asked about: it answers no others
        wrong = isinstance(method, SidRecommender) == generators and name != "E2P-Random"
        return honest(tests[id(self)] if wrong else self, name, method, grid, n)

    m.setattr(rows.Validation, "of", of)
    m.setattr(rows.Validation, "temperatures", planted)


@mutant(
    "temperatures chosen on test", "serving.stages.rows: Validation", None, "temperature of ", looks="chosen"
)
def _(m: pytest.MonkeyPatch) -> None:
    _temperatures_by_test(m, True)


@mutant(
    "a softmax row's T0 chosen on test", "serving.stages.rows: Validation", None, "T0 of ", looks="chosen"
)
def _(m: pytest.MonkeyPatch) -> None:
    _temperatures_by_test(m, False)

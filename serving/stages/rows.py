"""The rows of the table, built from a run: one function a family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from evaluation.baselines import FixedOrder
from evaluation.calibration import Calibration, fit_temperature
from evaluation.product import Product
from evaluation.softmax import LastScores, Scorer, SoftmaxOver, best_temperature
from evaluation.table.config import EvaluateConfig
from evaluation.table.instances import Question
from evaluation.table.rows import Row
from llm.decoding.recommender import SidRecommender
from llm.methods.base import MethodConfig
from llm.methods.stage2 import WITHOUT
from llm.prompts.reading import OfAnother
from llm.stage1.adapt import validation_events
from recsys.embeddings.user_vectors import partners_of_other_users
from recsys.recommender import ProbabilisticRecommender, Recommender, Request
from recsys.seeds import rng
from serving.answering.methods import Methods
from serving.answering.products import generator_of
from serving.answering.untrained import BASELINES, NO_CONTEXT, Baseline


def table_rows(methods: Methods, question: Question, chosen: Mapping[str, float] | None = None) -> list[Row]:
    """The table's rows. `chosen` are temperatures by name, where validation has chosen them before.

    Raises `ValueError` for a row that the configuration names and the run has not.
    """
    config, available = methods.config.evaluate, methods.available()
    validation = Validation.of(methods, chosen)
    rows = []
    for key, baseline in BASELINES.items():
        if key in available and key != NO_CONTEXT:
            rows += _ranking_rows(config, methods, baseline, validation)
    rows.append(_no_context_row(config, methods, validation))
    for method in methods.config.personalize.methods:
        if method.key == "e2p" and _wanted(config, "E2P-Random"):
            rows.append(_random_row(config, methods, question, validation))
        if _wanted(config, method.name):
            rows.append(_method_row(config, methods, method, validation))
    rows += _product_rows(config, methods)
    if missing := sorted(set(config.rows or ()) - {one.name for one in rows}):
        raise ValueError(
            f"evaluate.rows names {missing[0]!r}; this run has {', '.join(one.name for one in rows)}"
        )
    return rows


def _wanted(config: EvaluateConfig, name: str) -> bool:
    return config.rows is None or name in config.rows


MATCHED = (
    " (matched)"  # behind a row's name: its temperature of matched calibration, among those that were chosen
)


@dataclass(frozen=True)
class Validation:
    """The validation instances that choose temperatures, or the temperatures by name,
    `chosen` by them before.
    """

    requests: list[Request]
    targets: np.ndarray  # [R]
    chosen: Mapping[str, float] | None
    n_items: int = 0  # which sizes the blocks of scores
    found: dict[str, tuple[float, Calibration]] = field(default_factory=dict)  # by name

    @classmethod
    def of(cls, methods: Methods, chosen: Mapping[str, float] | None) -> Validation:
        data = methods.dataset
        events = validation_events(data, methods.config.personalize.validation_instances, seed=0)
        return cls(data.block(events, data.exclude_seen), data.items[events], chosen, data.n_items)

    def temperatures(
        self, name: str, method: Scorer | ProbabilisticRecommender, grid: Sequence[float], n: int = 30
    ) -> tuple[float, Calibration]:
        """The one of `grid` with the best expected hit-rate@n on validation, a scorer's T0 or for sampling; and the one at which the
        targets are likeliest (`evaluation.calibration`).
        """
        if self.chosen:
            return self.chosen[name], Calibration(self.chosen[name + MATCHED], float("nan"))
        if name not in self.found:
            grid, asked = sorted(grid), method
            if not isinstance(method, ProbabilisticRecommender):
                asked = SoftmaxOver(method, n_items=self.n_items)
            log_p = asked.log_prob_at(self.requests, self.targets, grid)  # type: ignore[union-attr]
            best = best_temperature(log_p, self.requests, grid, self.users, n)
            self.found[name] = best, fit_temperature(log_p, grid, self.users)
        return self.found[name]

    @property
    def users(self) -> np.ndarray:
        """Whose request each is [R]; each of nobody known is somebody's of their own."""
        return np.array([-1 - at if r.user is None else r.user for at, r in enumerate(self.requests)])


def _ranking_rows(
    config: EvaluateConfig, methods: Methods, baseline: Baseline, validation: Validation
) -> list[Row]:
    """A baseline as it ranks and, where it has a grid, the softmax over its scores."""
    rows: list[Row] = []
    if baseline.trained is None:
        return rows
    if _wanted(config, baseline.name):
        replicas = [methods.build(baseline.key)]
        rows.append(
            Row(baseline.name, replicas, reads=baseline.reads, trained=baseline.trained, is_baseline=True)
        )
    name = f"{baseline.name} (softmax)"
    if baseline.grid is not None and _wanted(config, name):
        scorer = methods.scorer(baseline.key)
        t0, found = validation.temperatures(name, scorer, baseline.grid(config.temperature_grid))
        # of whom it knows nothing popularity answers, as in the ranked row: with p ∝ count + 1, whatever T0 is
        popular = FixedOrder("Popularity", t0 * np.log1p(methods.dataset.item_totals.counts))
        answering = Product(name, [scorer], [1.0], (0,), popular)
        softmax, trained = (
            SoftmaxOver(answering, t0, name, methods.dataset.n_items),
            f"T0 = {t0:g} chosen on validation",
        )
        matched = found.temperature if validation.chosen else found.temperature / t0
        rows.append(
            Row(
                name,
                [softmax],
                1.0,
                baseline.reads,
                trained,
                matched=matched,
                nats=found.nats,
                is_baseline=True,
            )
        )
    return rows


def _no_context_row(config: EvaluateConfig, methods: Methods, validation: Validation) -> Row:
    baseline = BASELINES[NO_CONTEXT]
    seeds = methods.config.personalize.seeds[:1]
    replicas, temperature, found = _replicas(config, methods, NO_CONTEXT, seeds, validation)
    assert baseline.trained is not None
    return Row(
        baseline.name,
        replicas,
        temperature,
        baseline.reads,
        baseline.trained,
        matched=found.temperature,
        nats=found.nats,
    )


def _method_row(
    config: EvaluateConfig, methods: Methods, method: MethodConfig, validation: Validation
) -> Row:
    """A method of Stage 2, with a replica for each seed that it was trained on."""
    seeds = methods.config.personalize.seeds
    some = seeds if method.is_trained else seeds[:1]
    replicas, temperature, found = _replicas(config, methods, method.key, some, validation)
    report = methods.run.read_json("personalize", "personalize.json")["methods"]
    first, trained = report.get(f"{method.key}-{seeds[0]}"), "nothing in Stage 2"
    if first is not None:
        trained = f"{first['trainable_parameters']:,} parameters at lr {first['learning_rate']:g}"
        if first.get(WITHOUT) is not None and first["validation_log_likelihood"] <= first[WITHOUT]:
            trained += "; on validation not above the frozen model alone"
    return Row(
        method.name, replicas, temperature, method.reads, trained, matched=found.temperature, nats=found.nats
    )


def _replicas(
    config: EvaluateConfig, methods: Methods, key: str, seeds: Sequence[int], validation: Validation
) -> tuple[list[Recommender], float, Calibration]:
    """A generative method of each training seed, and the temperatures that
    validation chose for the first: for sampling, and of matched calibration.
    """
    built = [_measured(config, methods.scorer(key, seed), methods.dataset.n_items) for seed in seeds]
    grid, n = config.temperature_grid, config.n_candidates
    return list(built), *validation.temperatures(methods.name(key), built[0], grid, n)


def _random_row(config: EvaluateConfig, methods: Methods, question: Question, validation: Validation) -> Row:
    """E2P-Random: the trained E2P, each request conditioned as one of another user is;
    several permutations. Its temperatures are its own: at E2P's it would lose by being too sure, whatever it knows.
    """
    seeds, name = methods.config.personalize.seeds, "E2P-Random"

    def of_others(
        requests: Sequence[Request], users: np.ndarray, number: int
    ) -> SidRecommender | WholeCatalogue:
        partner = partners_of_other_users(users, rng(config.seed, "e2p-random", number))
        reading = methods.reading("e2p", seeds[number % len(seeds)])
        assert reading.personalizer is not None
        other = replace(reading, personalizer=OfAnother(reading.personalizer, requests, partner))
        return _measured(config, methods.recommender(name, other), methods.dataset.n_items)

    numbers = range(config.random_permutations)
    replicas: list[Recommender] = [of_others(question.requests, question.users, at) for at in numbers]
    asked = of_others(validation.requests, validation.users, 0)
    grid, n = config.temperature_grid, config.n_candidates
    temperature, found = validation.temperatures(name, asked, grid, n)
    reads = "recent items, another user's vector"
    return Row(name, replicas, temperature, reads, "as E2P", matched=found.temperature, nats=found.nats)


def _product_rows(config: EvaluateConfig, methods: Methods) -> list[Row]:
    """Products of generators and retrievers, and the retrievers' without a generator."""
    products, rows = methods.products, list[Row]()
    if products is None:
        return rows
    factors = ", ".join(products.settings.experts)
    for key, name in products.names().items():
        if key in products.for_queries() or not _wanted(config, name):
            continue
        replicas: list[Recommender] = [products.build(key, seed) for seed in products.seeds(key)]
        trained = f"weights of {factors}, and sharpness, on validation"
        # as a softmax row's T0, its sharpness was chosen on validation: t = 1 is its chosen temperature; without it
        # the weights are those at which the targets are likeliest
        weights = products.weights(key)
        matched, nats = 1 / weights.temperature, -weights.nats
        rows.append(Row(name, replicas, 1.0, "history before t", trained, matched=matched, nats=nats))
    return rows


class WholeCatalogue(SoftmaxOver):
    """A generator measured on all of its distribution at once (`evaluate.whole_catalogue`)."""

    def context_tokens(self, requests: Sequence[Request]) -> float:
        return generator_of(self.scorer).context_tokens(requests)


def _measured(
    config: EvaluateConfig, scorer: LastScores | SidRecommender, n_items: int
) -> SidRecommender | WholeCatalogue:
    """What is measured of a generative method: itself, or its distribution over the whole catalogue, of which its
    products ask the same `scorer`.
    """
    if config.whole_catalogue:
        return WholeCatalogue(scorer, 1.0, scorer.name, n_items)
    return generator_of(scorer)

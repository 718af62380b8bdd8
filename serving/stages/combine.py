"""Stage `combine`: the generator's distribution times the retrievers', normalised.

p(item) ∝ p_gen(item)^γ · exp(Σ_k β_k · s_k(user, item)). The product is normalised over the whole catalogue,
of which the generator scores every item by one tree pass (`llm.decoding.whole_catalogue`). γ and β are those
of the highest likelihood of validation targets, sharpened for 30 draws. The same product without a generator
is a row too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation.product import Weights, fit_weights
from evaluation.softmax import Scorer
from llm.decoding.recommender import SidRecommender
from llm.decoding.whole_catalogue import inner_nodes
from llm.stage1.adapt import validation_events
from recsys.embeddings.retrieval import retrieval_hits
from recsys.embeddings.user_vectors import HistoryVectors
from recsys.recommender import Request
from recsys.run import Run
from serving.answering.methods import Methods
from serving.answering.products import experts_of, seeds_of, text_vectors
from serving.config.combine import ALONE, CombineConfig
from serving.config.run import RunConfig

# nodes that a request may forward: 80 GFLOP with a decoder of 0.8M weights, some seconds of a CPU core
LARGEST = 50_000
TEXT_HALF_LIVES = (1, 2, 5, 20)  # items; validation picks


def combine(config: RunConfig, run: Run, quiet: bool = False) -> None:
    """Run the stage: `combine.json` with the weights of each product.
    Raises `ValueError` for an expert that the run lacks.
    """
    settings = config.combine
    assert settings is not None
    stage = run.stage("combine", settings, needs=["prepare", "embed", "tokenize", "adapt", "personalize"])
    if stage.is_done():
        return
    methods = Methods(run, config)
    _refuse_large(methods)
    data = methods.dataset
    events = validation_events(data, settings.instances, settings.seed)
    requests, targets = data.block(events, data.exclude_seen), data.items[events]
    with stage.writing() as folder:
        report: dict[str, Any] = {"experts": list(settings.experts), "text_half_life_items": None}
        if "text" in settings.experts:
            report["text_half_life_items"] = _text_half_life(methods, requests, targets)
        experts = experts_of(methods, settings, report["text_half_life_items"])
        kept_experts: list[Scorer] = [Kept(expert) for expert in experts]
        report["products"] = {}
        for name, generator in tqdm(
            _generators(methods, settings), desc="combine", disable=quiet, unit="product"
        ):
            found = fit_weights([*([generator] if generator else []), *kept_experts], requests, targets)
            report["products"][name] = asdict(found)
            _print(name, found, [*(["generator"] if generator else []), *settings.experts])
        (folder / "combine.json").write_text(json.dumps(report, indent=1))


def _refuse_large(methods: Methods) -> None:
    nodes = inner_nodes(methods.model.trie)
    if nodes > LARGEST:
        raise ValueError(
            f"combine scores the whole catalogue, which would forward {nodes:,} nodes of the trie a request "
            f"(at most {LARGEST:,}); give tokenize fewer or smaller levels before the last one, or leave the "
            "section combine out"
        )


class Kept:
    """A scorer whose answers to the same requests are kept,
    for generators that are combined with it in turn.
    """

    def __init__(self, scorer: Scorer):
        self.name, self._scorer = scorer.name, scorer
        self._kept: dict[tuple[str, ...], np.ndarray] = {}

    def scores(self, requests: Sequence[Request]) -> np.ndarray:
        key = tuple(request.request_id for request in requests)
        if key not in self._kept:
            self._kept[key] = np.asarray(self._scorer.scores(requests), np.float32)
        return self._kept[key]


def _generators(methods: Methods, settings: CombineConfig) -> list[tuple[str, SidRecommender | None]]:
    """(name of the weights, generator): each generator of each of its training seeds, and none."""
    found: list[tuple[str, SidRecommender | None]] = [(ALONE, None)]
    for key in settings.generators:
        for seed in seeds_of(methods, key):
            generator = methods.build(key, seed)
            if not isinstance(generator, SidRecommender):
                raise ValueError(f"combine.generators: {key} is no generative method")
            found.append((f"{key}-{seed}", generator))
    return found


def _text_half_life(methods: Methods, requests: Sequence[Request], targets: np.ndarray) -> float:
    text = text_vectors(methods)
    rates = [
        retrieval_hits(
            HistoryVectors(text, half_life, "").vectors(requests)[0], text, requests, targets, 30
        ).mean()
        for half_life in TEXT_HALF_LIVES
    ]
    return TEXT_HALF_LIVES[int(np.argmax(rates))]


def _print(name: str, found: Weights, factors: Sequence[str]) -> None:
    weights = ", ".join(f"{factor} {value:.2f}" for factor, value in zip(factors, found.values, strict=True))
    best = min(found.nats_alone)
    print(
        f"combine: {name}: {weights}; {found.nats:.3f} nats a validation target, {best:.3f} by the best "
        f"expert alone; sharpened by 1 / {found.temperature:g}"
    )

"""Products of experts as recommenders: p(item) ∝ p_gen(item)^γ · exp(Σ_k β_k · s_k(user, item)).

The weights γ and β are those that the stage `combine` has found. What is multiplied, generators and experts,
are other methods of the run; they are asked for through `Builds`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from evaluation.product import Product, Weights
from evaluation.softmax import Scorer, SoftmaxOver
from llm.decoding.recommender import SidRecommender
from recsys.embeddings.embed import load_item_vectors
from recsys.embeddings.retrieval import EmbeddingRetrieval
from recsys.embeddings.user_vectors import HistoryVectors
from recsys.recommender import Recommender
from recsys.run import Run
from serving.config.combine import ALONE, CombineConfig, product_key, product_name
from serving.config.run import RunConfig


class Builds(Protocol):
    """What a product asks of a run's methods (`serving.answering.methods.Methods`)."""

    run: Run
    config: RunConfig

    def available(self) -> list[str]: ...

    def name(self, key: str) -> str: ...

    def build(self, key: str, seed: int | None = None) -> Recommender: ...


class Products:
    """The products of a run whose stage `combine` is finished, as recommenders."""

    def __init__(self, methods: Builds, settings: CombineConfig):
        self.methods, self.settings = methods, settings
        self.report = methods.run.read_json("combine", "combine.json")
        self._experts: list[Scorer] | None = None

    def names(self) -> dict[str, str]:
        """Key -> row."""
        named = {product_key(key): product_name(self.methods.name(key)) for key in self.settings.generators}
        return {ALONE: "Experts alone"} | named

    def seeds(self, key: str) -> Sequence[int | None]:
        """The seeds that `build` can be given."""
        generator = next((name for name in self.settings.generators if product_key(name) == key), None)
        return [None] if generator is None else seeds_of(self.methods, generator)

    def build(self, key: str, seed: int | None = None) -> SoftmaxOver:
        """One product's recommender; `seed` picks the generator's replica (default: the first)."""
        if self._experts is None:
            self._experts = experts_of(self.methods, self.settings, self.report["text_half_life_items"])
        scorers, place = list(self._experts), ALONE
        if key != ALONE:
            generator = next(name for name in self.settings.generators if product_key(name) == key)
            seed = seeds_of(self.methods, generator)[0] if seed is None else seed
            built = self.methods.build(generator, seed)
            assert isinstance(built, SidRecommender)
            scorers, place = [built, *scorers], f"{generator}-{seed}"
        name = self.names()[key]
        weights = Weights(**self.report["products"][place])
        return SoftmaxOver(Product(name, scorers, weights.sharpened), 1.0, name)


def seeds_of(methods: Builds, key: str) -> Sequence[int]:
    """The training seeds of a generator's replicas."""
    seeds = methods.config.personalize.seeds
    return seeds if key != "no_context" and methods.config.personalize.method(key).is_trained else seeds[:1]


def experts_of(methods: Builds, settings: CombineConfig, text_half_life: float | None) -> list[Scorer]:
    """The experts of a run in the configured order. Raises `ValueError` naming one that it lacks."""
    found: list[Scorer] = []
    for key in settings.experts:
        if key == "text":
            found.append(text_retrieval(methods, text_half_life))
            continue
        if key not in methods.available():
            raise ValueError(
                f"combine.experts: this run has no {key}; it has {', '.join(methods.available())}"
            )
        scorer: Any = methods.build(key)
        if not hasattr(scorer, "scores"):
            raise ValueError(f"combine.experts: {key} gives no score to every item")
        found.append(scorer)
    return found


def text_retrieval(methods: Builds, half_life: float | None) -> EmbeddingRetrieval:
    """Items whose text is nearest to the faded mean of the history's texts.

    Raises `ValueError` without text vectors.
    """
    text = text_vectors(methods)
    users = HistoryVectors(text, half_life, "text")
    return EmbeddingRetrieval(users, text, np.zeros(len(text)), methods.config.embed.index)


def text_vectors(methods: Builds) -> np.ndarray:
    """Text vectors [N, e] around their mean, at unit length: what sets an item apart."""
    text = load_item_vectors(methods.run).get("text")
    if text is None:
        raise ValueError("combine.experts has text, but the run has no text vectors; set embed.text_encoder")
    apart = text - text.mean(0)
    return apart / np.linalg.norm(apart, axis=1, keepdims=True).clip(min=1e-12)

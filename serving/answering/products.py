"""Products of experts as recommenders: p(item) ∝ p_gen(item)^γ · exp(Σ_k β_k · s_k(user, item)).

The weights γ and β are those that the stage `combine` has found. What is multiplied, generators and experts,
are other methods of the run; they are asked for through `Builds`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from evaluation.product import Product, Weights
from evaluation.softmax import LastScores, Scorer, SoftmaxOver
from llm.decoding.recommender import SidRecommender
from recsys.data.dataset import Dataset
from recsys.embeddings.embed import load_item_vectors
from recsys.embeddings.retrieval import EmbeddingRetrieval
from recsys.embeddings.user_vectors import HistoryVectors
from recsys.recommender import Recommender, Request
from recsys.run import Run
from serving.config.combine import ALONE, ASKED, PRODUCT, WORDS, CombineConfig, product_key, product_name
from serving.config.run import RunConfig


class Builds(Protocol):
    """What a product asks of a run's methods (`serving.answering.methods.Methods`)."""

    run: Run
    config: RunConfig

    @property
    def dataset(self) -> Dataset: ...

    def available(self) -> list[str]: ...

    def name(self, key: str) -> str: ...

    def build(self, key: str, seed: int | None = None) -> Recommender: ...

    def scorer(self, key: str, seed: int | None = None) -> LastScores: ...


def generator_of(scorer: Scorer) -> SidRecommender:
    """The generator behind a scorer of `Builds.scorer`."""
    generator = scorer.scorer if isinstance(scorer, LastScores) else scorer
    assert isinstance(generator, SidRecommender)
    return generator


class LikelyNodes:
    """A generator as a scorer that forwards the `width` likeliest nodes of each depth
    (`llm.decoding.whole_catalogue.likely_log_probs`).
    """

    def __init__(self, generator: SidRecommender, width: int):
        self.name, self.generator, self.width = generator.name, generator, width
        self.n_items = generator.model.trie.n_items

    def looked_at(self, requests: Sequence[Request]) -> tuple[np.ndarray, np.ndarray]:
        """log p [R, N], and below which node an item was left [R, N]; −1: it is exact."""
        return self.generator.likely_scores(requests, self.width)

    def scores(self, requests: Sequence[Request]) -> np.ndarray:
        return self.looked_at(requests)[0]

    def context_tokens(self, requests: Sequence[Request]) -> float:
        return self.generator.context_tokens(requests)


class Products:
    """The products of a run whose stage `combine` is finished, as recommenders."""

    def __init__(self, methods: Builds, settings: CombineConfig):
        self.methods, self.settings = methods, settings
        self.report = methods.run.read_json("combine", "combine.json")
        self._experts: list[LastScores] | None = None

    def names(self) -> dict[str, str]:
        """Key -> row."""
        named = {product_key(key): product_name(self.methods.name(key)) for key in self.settings.generators}
        return {ALONE: "Experts alone"} | named | self.for_queries()

    def for_queries(self) -> dict[str, str]:
        """Key -> name of the products that read a query's words: no rows of the table, whose requests may have none."""
        if not self.report.get("query_products"):
            return {}
        asked = {WORDS: "Experts × words"}
        if self.settings.generators:
            asked[ASKED] = f"{product_name(self.methods.name(self.settings.generators[0]))} × words"
        return asked

    def seeds(self, key: str) -> Sequence[int | None]:
        """The seeds that `build` can be given."""
        generator = next((name for name in self.settings.generators if product_key(name) == key), None)
        return [None] if generator is None else seeds_of(self.methods, generator)

    def weights(self, key: str) -> Weights:
        """What validation chose for a product (of the generator's first seed)."""
        seed = self.seeds(key)[0]
        place = ALONE if seed is None else f"{key.removesuffix(PRODUCT)}-{seed}"
        weighed = self.report["query_products"] if key in self.for_queries() else self.report["products"]
        return Weights(**weighed[key if key in self.for_queries() else place])

    def build(self, key: str, seed: int | None = None) -> SoftmaxOver:
        """One product's recommender; `seed` picks the generator's replica (default: the first).

        Where no expert knows anything of the user (or the query), it is the generator alone, or else popularity.
        """
        if self._experts is None:
            self._experts = experts_of(self.methods, self.settings, self.report["text_half_life_items"])
        scorers, place, weighed = list[Scorer](self._experts), ALONE, self.report["products"]
        asked = [at for at, name in enumerate(self.settings.experts) if name != "popularity"]
        if key in (WORDS, ASKED):
            asked.append(len(scorers))
            scorers, place, weighed = (
                [*scorers, self.methods.scorer("text_search")],
                key,
                self.report["query_products"],
            )
        otherwise: Scorer | int = self.methods.scorer("popularity")
        if key not in (ALONE, WORDS):
            names = self.settings.generators
            generator = names[0] if key == ASKED else next(one for one in names if product_key(one) == key)
            seed = seeds_of(self.methods, generator)[0] if seed is None else seed
            scorer: Scorer = self.methods.scorer(generator, seed)
            if (approximation := self.report.get("approximation")) is not None:
                scorer = LikelyNodes(generator_of(scorer), approximation["nodes_a_depth"])
            scorers, asked, otherwise = [scorer, *scorers], [at + 1 for at in asked], 0
            place = key if key == ASKED else f"{generator}-{seed}"
        name = self.names()[key]
        weights = Weights(**weighed[place])
        product = Product(name, scorers, weights.sharpened, asked, otherwise)
        return SoftmaxOver(product, 1.0, name, self.methods.dataset.n_items)


def seeds_of(methods: Builds, key: str) -> Sequence[int]:
    """The training seeds of a generator's replicas."""
    seeds = methods.config.personalize.seeds
    return seeds if key != "no_context" and methods.config.personalize.method(key).is_trained else seeds[:1]


def experts_of(methods: Builds, settings: CombineConfig, text_half_life: float | None) -> list[LastScores]:
    """The experts of a run in the configured order, each asked once about the same requests.
    Raises `ValueError` naming one that it lacks.
    """
    found: list[LastScores] = []
    for key in settings.experts:
        if key == "text":
            found.append(LastScores(text_retrieval(methods, text_half_life)))
            continue
        if key not in methods.available():
            raise ValueError(
                f"combine.experts: this run has no {key}; it has {', '.join(methods.available())}"
            )
        scorer = methods.scorer(key)
        if not hasattr(scorer.scorer, "scores"):
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
    apart = text - text[: methods.dataset.catalogue.n_trained].mean(0)  # later items move nobody else
    return apart / np.linalg.norm(apart, axis=1, keepdims=True).clip(min=1e-12)

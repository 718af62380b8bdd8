"""Every method of a run as a recommender: one place that serving and evaluation build them from."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from evaluation.baselines import Popularity, Recency
from llm.adapt import load_adapted, prompt_builder, validation_events
from llm.model import SidModel
from llm.personalize import PREFIXES, load_prefix
from llm.prompts import PromptBuilder
from llm.quantize import to_int8
from llm.recommender import SidRecommender
from recsys.embed import load_retrieval, load_user_vectors
from recsys.prepare import Dataset
from recsys.recommender import Recommender
from recsys.retrieval import EmbeddingRetrieval
from recsys.run import Run
from recsys.splits import FIT, PERSONALIZE
from recsys.user_vectors import UserVectors
from serving.config import RunConfig

NAMES = {
    "popularity": "Popularity",
    "recency": "Recency",
    "embedding_retrieval": "Embedding Retrieval",
    "no_context": "No Context",
    "no_context_continued": "No Context, continued",
    "static_prefix": "Static Prefix",
    "e2p": "E2P",
    "prompt_context": "Prompt Context",
    "e2p_prompt": "E2P + Prompt",
}


INT8_REQUESTS = 64  # validation instances on which the effect of int8 weights is measured


@dataclass
class Methods:
    """Loads what a method needs the first time that it is asked for."""

    run: Run
    config: RunConfig
    int8: bool = False  # quantise the weights, measure on validation instances what that does, and print it
    int8_effect: str | None = field(default=None, init=False)

    @cached_property
    def dataset(self) -> Dataset:
        return Dataset.load(self.run)

    @cached_property
    def users(self) -> UserVectors:
        return load_user_vectors(self.run)

    @cached_property
    def model(self) -> SidModel:
        """The frozen Stage 1 model."""
        return self._ready(load_adapted(self.run, self.config.adapt))

    @cached_property
    def builder(self) -> PromptBuilder:
        return prompt_builder(self.config.adapt, self.model, self.dataset)

    @cached_property
    def retrieval(self) -> EmbeddingRetrieval:
        return load_retrieval(self.run, self.dataset, self.config.embed.index)

    def available(self) -> list[str]:
        """Methods that this run has trained or can answer without training, in the table's order."""
        trained = set(self.config.personalize.methods)
        always = {"popularity", "recency", "embedding_retrieval", "no_context", "prompt_context"}
        return [name for name in NAMES if name in always or name in trained]

    def build(self, method: str, seed: int | None = None, users: UserVectors | None = None) -> Recommender:
        """One method's recommender. `seed` picks a trained replica (default: the first), `users` other vectors.

        Raises `ValueError` naming the methods that there are.
        """
        if method not in self.available():
            raise ValueError(f"this run has no method {method!r}; it has {', '.join(self.available())}")
        name, budget = NAMES[method], self.config.evaluate.memory_mb << 20
        if method in ("popularity", "recency"):
            return self._baseline(method)
        if method == "embedding_retrieval":
            return self.retrieval
        seed = self.config.personalize.seeds[0] if seed is None else seed
        if method in PREFIXES:
            users = users or self.users
            table = self.run.read_json("adapt", "adapt.json")["table_hash"]
            prefix = load_prefix(self.run, self.config.personalize, method, seed, self.model, table, users)
            return SidRecommender(
                name, self.model, self.builder, prefix, users, method == "e2p_prompt", budget
            )
        model = self.model
        if method == "no_context_continued":
            model = self._ready(load_adapted(self.run, self.config.adapt, "personalize", f"{method}-{seed}/"))
        return SidRecommender(name, model, self.builder, profile=method == "prompt_context", budget=budget)

    def _ready(self, model: SidModel) -> SidModel:
        if self.int8:
            data = self.dataset
            events = validation_events(data, INT8_REQUESTS, seed=0)
            builder = prompt_builder(self.config.adapt, model, data)
            reader = SidRecommender(NAMES["no_context"], model, builder)
            self.int8_effect = str(to_int8(reader, data.requests(events, data.exclude_seen)))
            print(self.int8_effect, file=sys.stderr)
        return model

    def _baseline(self, method: str) -> Recommender:
        data = self.dataset
        training = np.isin(data.roles, (FIT, PERSONALIZE))
        if method == "popularity":
            return Popularity(np.bincount(data.items[training], minlength=data.n_items))
        return Recency(data.items[training], data.times[training], data.n_items)

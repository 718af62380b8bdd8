"""Every method of a run as a recommender: one place that serving and evaluation build them from."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from torch import Tensor

from evaluation.softmax import LastScores, Scorer
from llm.align.align import load_aligned
from llm.align.config import AlignRow
from llm.backbone.sid_model import SidModel
from llm.decoding.int8 import to_int8
from llm.decoding.newcomers import Newcomers, load_newcomers
from llm.decoding.recommender import SidRecommender
from llm.decoding.with_newcomers import WithNewcomers
from llm.methods.personalize import load_method
from llm.methods.stage2 import World
from llm.methods.tap_per import TapPer
from llm.prompts.reading import Reading
from llm.stage1.adapt import validation_events
from llm.stage1.model import load_adapted, prompt_builder
from recsys.data.dataset import Dataset
from recsys.data.phrases import Phrases
from recsys.embeddings.embed import load_retrieval, load_user_vectors
from recsys.embeddings.item_knn import ItemKnn
from recsys.embeddings.retrieval import EmbeddingRetrieval
from recsys.embeddings.sequence_parts import load_item_knn, load_sasrec
from recsys.embeddings.sequence_vectors import SasRecRetrieval
from recsys.embeddings.text_search import WordSearch
from recsys.embeddings.user_vectors import UserVectors
from recsys.recommender import Recommender
from recsys.run import Run
from semantic_ids.table import SemanticIdTable
from semantic_ids.tokenizer import load_table
from serving.answering.defaults import reads_queries
from serving.answering.products import Products
from serving.answering.untrained import BASELINES, NO_CONTEXT, is_of_nobody, no_such_method, untrained
from serving.config.combine import PRODUCT
from serving.config.run import RunConfig

INT8_REQUESTS = 64  # validation instances on which the effect of int8 weights is measured


@dataclass
class Methods:
    """Loads what a method needs the first time that it is asked for."""

    run: Run
    config: RunConfig
    int8: bool = False  # quantise the weights, measure on validation instances what that does, and print it
    int8_effect: str | None = field(default=None, init=False)
    # a method's rows of P_u that feedback has moved, for whoever builds it: alone, or as a factor of a product; None: as trained
    rows: Callable[[str], dict[int, Tensor]] | None = field(default=None, init=False)
    _scorers: dict[tuple[str, int | None], LastScores] = field(default_factory=dict, init=False)

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
    def world(self) -> World:
        """What personalization methods read."""
        builder = prompt_builder(self.config.adapt, self.model, self.dataset)
        settings = self.config.personalize
        return World(self.run, self.config.adapt, settings, self.dataset, self.users, self.model, builder)

    @cached_property
    def retrieval(self) -> EmbeddingRetrieval:
        return load_retrieval(self.run, self.dataset, self.config.embed.index)

    @cached_property
    def sasrec(self) -> SasRecRetrieval:
        return load_sasrec(self.run, self.dataset, self.config.embed.index)

    @cached_property
    def item_knn(self) -> ItemKnn:
        return load_item_knn(self.run, self.dataset, self.config.embed.item_knn)

    @cached_property
    def phrases(self) -> Phrases:
        """What items are called, and which of it training may read."""
        return Phrases(self.dataset)

    @cached_property
    def text_search(self) -> WordSearch:
        return WordSearch(self.phrases, self.dataset.item_totals.counts)

    @property
    def reads_words(self) -> bool:
        """Was the generator trained with queries, or with words of items at all?"""
        catalogue, adapt = self.dataset.catalogue, self.config.adapt
        phrases = any(some for column in catalogue.columns.values() for some in column) or len(
            self.dataset.queries
        )
        return bool(adapt.words_batch or (adapt.query_share and phrases))

    @cached_property
    def default(self) -> dict[str, Any] | None:
        """What validation chose for each kind of request (`serving.stages.default_method`); None: it has not."""
        record = self.run.record("evaluate")
        known = record is not None and "default.json" in record["artifacts"]
        return self.run.read_json("evaluate", "default.json") if known else None

    def reads_query(self, key: str) -> bool:
        """Does the method's answer depend on a query's words?"""
        for_queries = [] if self.products is None else list(self.products.for_queries())
        return reads_queries(key, for_queries, self.reads_words)

    def refuse_words(self, key: str) -> None:
        """Raises `ValueError` for a query put to a generator that was trained without words."""
        is_generator = (
            key in self.available() and key not in self.product_names and key not in self._untrained
        )
        if not self.reads_words and (is_generator or key == NO_CONTEXT):
            raise ValueError(
                f"this run's generator was trained without words (adapt.words_batch and query_share are 0, or no item has any), so "
                f"{key} cannot read a query; ask without one, or with method 'text_search'"
            )

    def available(self) -> list[str]:
        """Methods that this run has trained or can answer without training, in the table's order."""
        trained = (method.key for method in self.config.personalize.methods)
        return [*self._untrained, *trained, *self._aligned, *self.product_names]

    @cached_property
    def products(self) -> Products | None:
        """The products of experts of a run that has combined them."""
        if self.config.combine is None or self.run.record("combine") is None:
            return None
        return Products(self, self.config.combine)

    @property
    def product_names(self) -> dict[str, str]:
        """Key -> row of each product."""
        return {} if self.products is None else self.products.names()

    @cached_property
    def _of_nobody(self) -> bool:
        return is_of_nobody(self.run)

    @property
    def _untrained(self) -> dict[str, str]:
        embed = self.config.embed
        return untrained(embed.sasrec is not None, embed.item_knn is not None, self._of_nobody)

    @property
    def _aligned(self) -> dict[str, AlignRow]:
        """The rows of the stage `align`, in a run that has it."""
        return {} if self.run.record("align") is None else {row.key: row for row in self.config.align.rows}

    def name(self, key: str) -> str:
        """A method's row."""
        if key in self._aligned:
            return self._aligned[key].name
        if key in self._untrained:
            return self._untrained[key]
        if key.endswith(PRODUCT) and key in self.product_names:
            return self.product_names[key]
        return self.config.personalize.method(key).name

    def build(self, key: str, seed: int | None = None) -> Recommender:
        """One method's recommender. `seed` picks a trained replica (default: the first).

        Raises `ValueError` naming the methods that there are.
        """
        if key not in self.available():
            raise ValueError(no_such_method(key, self.available(), self._of_nobody))
        if key in BASELINES:
            return BASELINES[key].build(self)
        if self.products is not None and key in self.product_names:
            return self.products.build(key, seed)
        return self.recommender(self.name(key), self.reading(key, seed))

    def scorer(self, key: str, seed: int | None = None) -> LastScores:
        """A method's recommender as a scorer, built once and asked once about the same requests: for rows that share it."""
        if (key, seed) not in self._scorers:
            self._scorers[key, seed] = LastScores(cast(Scorer, self.build(key, seed)))
        return self._scorers[key, seed]

    def reading(self, key: str, seed: int | None = None) -> Reading:
        """How a generative method reads requests."""
        if key == NO_CONTEXT:
            return Reading(self.model, self.world.builder)
        if key in self._aligned:
            align = self.config.align
            return load_aligned(
                self.world, align, self._aligned[key], align.seeds[0] if seed is None else seed
            )
        seed = self.config.personalize.seeds[0] if seed is None else seed
        reading = load_method(self.world, self.config.personalize.method(key), seed)
        if reading.model is not self.model:
            self._ready(reading.model)
        first = seed == self.config.personalize.seeds[0]
        if self.rows is not None and first and isinstance(reading.personalizer, TapPer):
            reading.personalizer.later = self.rows(key)
        return reading

    def recommender(self, name: str, reading: Reading) -> SidRecommender:
        budget = self.config.evaluate.memory_mb << 20
        if self.newcomers is None:
            return SidRecommender(name, reading, budget)
        return WithNewcomers(name, reading, self.newcomers, budget)

    @cached_property
    def table(self) -> SemanticIdTable:
        """The semantic IDs of all items, those that came after the training too."""
        return load_table(self.run)

    @cached_property
    def newcomers(self) -> Newcomers | None:
        """Items that came after the training, in a version of the run that has some."""
        return load_newcomers(self.run, self.model.trie)

    def _ready(self, model: SidModel) -> SidModel:
        if self.int8:
            if self._of_nobody:
                raise ValueError(
                    f"{self.run.path} was exported without users, so there is nothing to measure the effect "
                    "of int8 weights "
                    "on; load it without int8, or export the run with its users"
                )
            data = self.dataset
            events = validation_events(data, INT8_REQUESTS, seed=0)
            builder = prompt_builder(self.config.adapt, model, data)
            reader = SidRecommender(BASELINES[NO_CONTEXT].name, Reading(model, builder))
            self.int8_effect = str(to_int8(reader, data.block(events, data.exclude_seen)))
            print(self.int8_effect, file=sys.stderr)
        return model

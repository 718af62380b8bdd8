"""What shows lists in a feedback loop, and how each learns from what was chosen: all in memory, the run stays as it is.

Popularity and item-kNN are counted again, LightGCN goes on training on all edges, the generator goes on training (as No Context,
continued does) on what was chosen beside as many of its old targets. Every arm reads the longer histories.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from evaluation.baselines import Popularity
from evaluation.metrics import pad_lists
from evaluation.softmax import SoftmaxOver
from llm.decoding.recommender import SidRecommender
from llm.methods.stage2 import lm_loss
from llm.prompts.reading import Reading
from llm.stage1.model import load_adapted, prompt_builder
from recsys.data.caps import Caps, within
from recsys.data.splits import FIT, PERSONALIZE
from recsys.embeddings.item_knn import ItemKnn, similarities
from recsys.embeddings.lightgcn import LightGCN, steps_of_epoch, train_lightgcn
from recsys.embeddings.retrieval import EmbeddingRetrieval, unit_rows
from recsys.embeddings.user_vectors import HistoryVectors
from recsys.recommender import Recommender, Request
from recsys.seeds import rng
from serving.answering.methods import Methods
from serving.studies.audit_run import asked_as_measured, random_lists

# of the generator, a round: steps, as many choices as old targets a step, rate, largest norm of a gradient
STEPS, BATCH, RATE, CLIP = 10, 32, 5e-4, 1.0
EPOCHS = 2  # of LightGCN, a round
WIDE = 20  # lists within caps are the first that fit of so many times as many


@dataclass
class Edges:
    """Training events, and those that were chosen since."""

    users: np.ndarray
    items: np.ndarray

    @classmethod
    def of(cls, methods: Methods) -> Edges:
        data = methods.dataset
        training = np.isin(data.roles, (FIT, PERSONALIZE))
        return cls(data.users[training], data.items[training])

    def add(self, requests: Sequence[Request], chosen: np.ndarray) -> None:
        rows, places = np.nonzero(chosen >= 0)
        users = np.array([request.user for request in requests])
        self.users = np.concatenate([self.users, users[rows]])
        self.items = np.concatenate([self.items, chosen[rows, places]])


def _listed(
    recommender: Recommender, requests: Sequence[Request], n: int, temperature: float, seed: int
) -> np.ndarray:
    return pad_lists([one.items for one in recommender.recommend(requests, n, temperature, seed)], n)


@dataclass
class RandomArm:
    """Any items, alike: what no learning does."""

    methods: Methods
    name: str = "Random"

    def start(self, seed: int) -> None:
        pass

    def lists(self, requests: Sequence[Request], n: int, seed: int) -> np.ndarray:
        return random_lists(requests, self.methods.dataset.n_items, n, seed)

    def learn(self, requests: Sequence[Request], chosen: np.ndarray, seed: int) -> None:
        pass


@dataclass
class CountedArm:
    """Popularity or item-kNN, counted again after every round."""

    methods: Methods
    key: str
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.methods.name(self.key)

    def start(self, seed: int) -> None:
        self.edges = Edges.of(self.methods)
        self.recommender = self._count()

    def lists(self, requests: Sequence[Request], n: int, seed: int) -> np.ndarray:
        return _listed(self.recommender, requests, n, 0.0, seed)

    def learn(self, requests: Sequence[Request], chosen: np.ndarray, seed: int) -> None:
        self.edges.add(requests, chosen)
        self.recommender = self._count()

    def _count(self) -> Recommender:
        n = self.methods.dataset.n_items
        counts = np.bincount(self.edges.items, minlength=n)
        config = self.methods.config.embed.item_knn
        if self.key == "popularity" or config is None:
            return Popularity(counts)
        chosen = self.methods.run.read_json("embed", "embed.json")["item_knn"]
        similar = similarities(
            self.edges.users, self.edges.items, n, chosen["shrink_users"], config.neighbours
        )
        return ItemKnn(similar, chosen["half_life_items"], config.last_items, counts)


@dataclass
class RetrievalArm:
    """Embedding retrieval whose LightGCN goes on training over all edges after every round.

    Before the first it is trained anew, for as many epochs as the run's own took (the run keeps no tables to go on from).
    """

    methods: Methods
    name: str = "Embedding Retrieval"

    @cached_property
    def _first(self) -> LightGCN:
        curves, edges = self.methods.run.read_json("embed", "curves.json"), Edges.of(self.methods)
        best = max((one["best_step"] for name, one in curves.items() if "LightGCN" in name), default=0)
        epochs = -(-best // steps_of_epoch(len(edges.users), self.methods.config.embed.lightgcn))
        return self._trained(edges, max(1, epochs), 0, None)

    def start(self, seed: int) -> None:
        self.edges, self.model = Edges.of(self.methods), self._first

    def lists(self, requests: Sequence[Request], n: int, seed: int) -> np.ndarray:
        data, report = self.methods.dataset, self.methods.run.read_json("embed", "embed.json")
        half_life = report.get("retrieval", report).get("half_life_items")
        items = self.model()[data.n_users :][: data.n_items].detach().numpy()
        users = HistoryVectors(self.model.message_table().numpy(), half_life, "loop")
        counts = np.bincount(self.edges.items, minlength=data.n_items)
        return _listed(EmbeddingRetrieval(users, unit_rows(items), counts), requests, n, 0.0, seed)

    def learn(self, requests: Sequence[Request], chosen: np.ndarray, seed: int) -> None:
        self.edges.add(requests, chosen)
        self.model = self._trained(self.edges, EPOCHS, seed, self.model)

    def _trained(self, edges: Edges, epochs: int, seed: int, start: LightGCN | None) -> LightGCN:
        data, config = self.methods.dataset, self.methods.config.embed.lightgcn
        config = config.model_copy(update={"epochs": epochs, "validate_every_epochs": epochs})
        last = itertools.count()  # the last state is the one that is kept
        with tempfile.TemporaryDirectory() as folder:
            return train_lightgcn(
                edges.users, edges.items, data.n_users, data.n_items, config, seed, Path(folder),
                lambda model: float(next(last)), start=start,
            )[0]  # fmt: skip


@dataclass
class FixedArm:
    """A method as it is, which reads longer histories and learns nothing."""

    methods: Methods
    key: str
    name: str

    def start(self, seed: int) -> None:
        self.recommender = asked_as_measured(self.methods, self.key)

    def lists(self, requests: Sequence[Request], n: int, seed: int) -> np.ndarray:
        return _listed(self.recommender, requests, n, 0.0, seed)

    def learn(self, requests: Sequence[Request], chosen: np.ndarray, seed: int) -> None:
        pass


@dataclass
class GeneratorArm:
    """A generator that goes on training on what was chosen, with the levers that one can pull."""

    methods: Methods
    key: str
    name: str
    temperature: float = 0.0
    strength: float = 1.0
    caps: Caps | None = None
    reading: Reading = field(init=False)

    def start(self, seed: int) -> None:
        run, adapt = self.methods.run, self.methods.config.adapt
        model = load_adapted(run, adapt, merge=False).eval()
        builder = prompt_builder(adapt, model, self.methods.dataset)
        self.reading = replace(self.methods.reading(self.key), model=model, builder=builder)
        if self.reading.personalizer is not None:
            self.reading.personalizer.requires_grad_(False)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)

    def lists(self, requests: Sequence[Request], n: int, seed: int) -> np.ndarray:
        self.reading.model.kept_session = None  # its weights have moved
        generator = SidRecommender(self.name, replace(self.reading, strength=self.strength))
        asked: Recommender = generator
        if self.methods.config.evaluate.whole_catalogue:
            asked = SoftmaxOver(generator, 1.0, self.name, self.methods.dataset.n_items)
        with torch.no_grad():
            if self.caps is None:
                return _listed(asked, requests, n, self.temperature, seed)
            ranked = asked.recommend(requests, WIDE * n, self.temperature, seed)
        return pad_lists([within(one, self.caps, n).items for one in ranked], n)

    def learn(self, requests: Sequence[Request], chosen: np.ndarray, seed: int) -> None:
        data, stream = self.methods.dataset, rng(seed, "loop", "generator")
        rows, places = np.nonzero(chosen >= 0)
        targets, old = chosen[rows, places], data.instances(PERSONALIZE)
        self.reading.model.train()
        for _ in range(STEPS):
            new = stream.choice(len(rows), min(BATCH, len(rows)), replace=False)
            again = stream.choice(old, min(BATCH, len(old)), replace=False)
            asked = [*(requests[rows[at]] for at in new), *data.block(again, data.exclude_seen)]
            loss = lm_loss(self.reading, asked, np.concatenate([targets[new], data.items[again]]))
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(
                [one for group in self.optimizer.param_groups for one in group["params"]], CLIP
            )
            self.optimizer.step()
        self.reading.model.eval()

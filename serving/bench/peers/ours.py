"""Prelude's own rows in the peers' table: SASRec, LightGCN, item-kNN and popularity, trained here and now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from evaluation.baselines import Popularity
from evaluation.metrics import pad_lists
from recsys.embeddings.item_knn import ItemKnn, ItemKnnConfig, choose_item_knn, similarities
from recsys.embeddings.lightgcn import LightGCN, LightGCNConfig, steps_of_epoch, train_lightgcn
from recsys.embeddings.retrieval import EmbeddingRetrieval, hits_of_scores, retrieval_hits
from recsys.embeddings.sasrec import Ranking, SasRec, SasRecConfig, train_sasrec
from recsys.embeddings.sequence_vectors import SasRecRetrieval, SequenceVectors
from recsys.embeddings.sequences import windows_of_epoch
from recsys.embeddings.user_vectors import HistoryVectors
from recsys.recommender import Recommender, Request
from serving.bench.peers.contract import K, Requests, Task

PACKAGES = ["torch", "numpy"]
HALF_LIVES = (None, 50, 20, 10, 5, 2, 1)  # items; what validation chooses among, as in stage `embed`


class SpentError(Exception):
    """The time given to a training is spent."""


class Watch:
    """The clock runs but where Prelude validates; what that finds is the curve's, and ends a training whose time is spent."""

    def __init__(self, task: Task, every: int, steps_of_epoch: int):
        self.task, self.every, self.steps, self.done = task, every, steps_of_epoch, 0
        self.model: torch.nn.Module | None = None
        self.best: dict[str, torch.Tensor] = {}
        task.clock.start()

    def measure(self, model: torch.nn.Module, measured: Callable[[], tuple[float, Any]]) -> Any:
        """`measured()` gives R@10 and what the training asked for; it is asked after every `every` steps.

        Raises `SpentError` once the time is spent.
        """
        self.task.clock.stop()
        self.done += self.every
        recall, value = measured()
        if self.task.validate(self.done / self.steps, recall):
            self.best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self.model = model
        if self.task.stop == "time":
            raise SpentError
        self.task.clock.start()
        return value

    def trained(self, train: Callable[[], torch.nn.Module]) -> torch.nn.Module:
        """The model that `train` returns, or, where its time was spent on the way, its best state so far."""
        try:
            return train()
        except SpentError:
            assert self.model is not None
            self.model.load_state_dict(self.best)
            return self.model.eval().requires_grad_(False)


class WatchedRanking(Ranking):
    """Validation ranks of SASRec's training, seen on their way."""

    watch: Watch

    def ranks(self, model: SasRec) -> np.ndarray:
        def measured() -> tuple[float, np.ndarray]:
            ranks = super(WatchedRanking, self).ranks(model)
            return float((ranks <= K).mean()), ranks

        return self.watch.measure(model, measured)


def sasrec(task: Task) -> Recommender:
    split, config = task.split, SasRecConfig(**task.settings["sasrec"], device="cpu")
    held_out = WatchedRanking(
        prelude_requests(split.validation, True), split.validation_targets, config.max_items
    )
    windows = windows_of_epoch(split.users, split.items, split.places, config.max_items, 0, 0)
    held_out.watch = Watch(task, config.validate_every, -(-len(windows.lengths) // config.batch))

    def train() -> SasRec:
        return train_sasrec(
            split.users, split.items, split.places, split.n_items, config, task.settings["seed"],
            task.out / "checkpoint", held_out, split.vectors() if config.text else None,
        )[0]  # fmt: skip

    model = held_out.watch.trained(train)
    task.clock.stop()
    assert isinstance(model, SasRec)
    users = SequenceVectors(model, model.item_table(), "", unit_length=False)
    return SasRecRetrieval(users, _counts(task))


def lightgcn(task: Task) -> Recommender:
    split, config = task.split, LightGCNConfig(**task.settings["lightgcn"], device="cpu")
    requests, targets = prelude_requests(split.validation, True), split.validation_targets
    steps = steps_of_epoch(len(split.users), config)
    watch = Watch(task, config.validate_every_epochs * steps, steps)

    def hit_rate(messages: np.ndarray, items: np.ndarray, half_life: float | None) -> float:
        vectors, _ = HistoryVectors(messages, half_life, "").vectors(requests)
        return float(retrieval_hits(vectors, items, requests, targets, K).mean())

    def tables(model: LightGCN) -> tuple[np.ndarray, np.ndarray]:
        items = torch.nn.functional.normalize(model()[split.n_users :], dim=-1)
        return model.message_table().numpy(), items.detach().numpy()

    def validate(model: LightGCN) -> float:
        def measured() -> tuple[float, float]:
            recall = hit_rate(*tables(model), None)
            return recall, recall

        return watch.measure(model, measured)

    def train() -> LightGCN:
        return train_lightgcn(
            split.users, split.items, split.n_users, split.n_items, config, task.settings["seed"],
            task.out / "checkpoint", validate,
        )[0]  # fmt: skip

    model = watch.trained(train)
    assert isinstance(model, LightGCN)
    messages, items = tables(model)
    task.clock.start()
    half_life = max(HALF_LIVES, key=lambda one: hit_rate(messages, items, one))
    task.clock.stop()
    task.said["chosen"] = {"half_life_items": half_life}
    return EmbeddingRetrieval(HistoryVectors(messages, half_life, ""), items, _counts(task))


def item_knn(task: Task) -> Recommender:
    split, config = task.split, ItemKnnConfig()
    requests, targets = prelude_requests(split.validation, True), split.validation_targets

    def hit_rate(method: ItemKnn) -> float:
        parts = range(0, len(requests), 1024)
        some = [(requests[at : at + 1024], targets[at : at + 1024]) for at in parts]
        return float(np.concatenate([hits_of_scores(method.scores(r), r, t, K) for r, t in some]).mean())

    with task.clock.running():  # counting, and choosing two numbers on validation
        chosen = choose_item_knn(config, split.users, split.items, _counts(task), hit_rate)
        similar = similarities(
            split.users, split.items, split.n_items, chosen["shrink_users"], config.neighbours
        )
    best = max(row["hit_rate"] for row in chosen.pop("validation_hit_rates"))
    task.said["chosen"] = chosen
    task.validate(1, best)
    return ItemKnn(similar, chosen["half_life_items"], config.last_items, _counts(task))


def popularity(task: Task) -> Recommender:
    with task.clock.running():
        return Popularity(_counts(task))


def prelude_requests(requests: Requests, set_aside: bool) -> list[Request]:
    """The same requests as Prelude asks them; what is set aside is excluded."""
    histories = [requests.history(row) for row in range(len(requests))]
    return [
        Request(
            f"r{row}",
            int(requests.users[row]),
            0,
            history,
            exclude=np.unique(history) if set_aside else history[:0],
        )
        for row, history in enumerate(histories)
    ]


def answering(recommender: Recommender, seed: int = 0) -> Callable[[Requests, bool], np.ndarray]:
    """A Prelude recommender as a peer's `recommend`."""

    def recommend(requests: Requests, set_aside: bool) -> np.ndarray:
        answers = recommender.recommend(prelude_requests(requests, set_aside), K, 0.0, seed)
        return pad_lists([answer.items for answer in answers], K)

    return recommend


def _counts(task: Task) -> np.ndarray:
    return np.bincount(task.split.items, minlength=task.split.n_items)


def main() -> None:
    task = Task.from_command_line()
    torch.set_num_threads(task.settings["threads"])
    build = {"sasrec": sasrec, "lightgcn": lightgcn, "item_knn": item_knn, "popularity": popularity}
    recommend = answering(build[task.settings["row"]](task))
    if not task.curve:
        task.validate(1, recommend=recommend)
    task.finish(recommend, task.stop or "end", PACKAGES)


if __name__ == "__main__":
    main()

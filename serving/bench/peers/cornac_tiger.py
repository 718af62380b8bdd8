"""cornac's TIGER by its GRID recipe as a peer, on the text vectors that Prelude reads; lists are its beam's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from cornac.data import FeatureModality, SequentialDataset
from cornac.models import TIGER
from cornac.models.tiger import GRID_CONFIG, recom_tiger

from serving.bench.peers.contract import K, Requests, Task, recall_of, say

REPORT_EVERY = 2560  # samples between two lines on the way
VALIDATED = 200  # validation requests, the first: a beam takes as long as a hundred users of another peer


class Peer:
    def __init__(self, task: Task):
        own, split = task.settings, task.split
        self.task, self.n_items = task, split.n_items
        # one session a user, in order; items without a training event are not known to it
        users, items, places = (values.tolist() for values in (split.users, split.items, split.places))
        events = list(zip(users, users, items, places, strict=True))  # user, session, item, time
        self.train = SequentialDataset.build(events, fmt="USIT", seed=own["seed"])
        known = np.array(list(self.train.iid_map), np.int64)  # its number -> ours
        self.kept: tuple[Requests | None, list[np.ndarray]] = None, []
        self.tokens, self.number = known, np.full(split.n_items, -1)
        self.number[known] = np.arange(len(known))
        self.train.add_modalities(item_feature=FeatureModality(features=split.vectors()[known]))
        # of an epoch: every event but a user's first
        self.samples = len(split.users) - len(np.unique(split.users))
        self.model = TIGER(
            **{**GRID_CONFIG, "n_beams": own["n_beams"], "model_selection": "last", "n_epochs": own["epochs"],
               "device": "cpu", "seed": own["seed"]}
        )  # fmt: skip

    def fit(self) -> None:
        """Train by the library's own loop; batches end when the time is spent, and validation is between epochs."""
        session_batches, done, task = recom_tiger.session_seq_iter, 0, self.task

        def batches(*args: Any, **kwargs: Any) -> Iterator[Any]:
            nonlocal done
            if task.stop:
                return  # what is left of its epochs is empty
            task.clock.start()
            for batch in session_batches(*args, **kwargs):
                yield batch  # the step is taken while this waits
                task.clock.stop()
                done += len(batch[0])
                if done // REPORT_EVERY > (done - len(batch[0])) // REPORT_EVERY:
                    say(f"{done / self.samples:.3f} epochs, {task.clock.wall:.0f} s")
                if task.clock.cpu >= task.settings["seconds"]:
                    break
                task.clock.start()
            task.clock.stop()
            self.kept = None, []
            asked = task.split.validation.part(0, VALIDATED)
            recall = recall_of(self.recommend(asked, True), task.split.validation_targets[:VALIDATED])
            task.validate(done / self.samples, recall)
            self.model.model.train()

        recom_tiger.session_seq_iter = batches
        self.model.fit(self.train)

    def recommend(self, requests: Requests, set_aside: bool) -> np.ndarray:
        """The beam's items alone: those outside it have no score, and cornac ranks them by number."""
        lists = np.full((len(requests), K), -1, np.int64)
        for row, items in enumerate(self._beams(requests)):
            items = items[~np.isin(items, requests.history(row))] if set_aside else items
            lists[row, : len(items[:K])] = items[:K]
        return lists

    def _beams(self, requests: Requests) -> list[np.ndarray]:
        """Items of each request's beam, best first; those of the last requests are kept, for lists of both kinds."""
        if self.kept[0] is not requests:
            self.kept = requests, [self._beam(requests.history(row)) for row in range(len(requests))]
        return self.kept[1]

    @torch.no_grad()
    def _beam(self, history: np.ndarray) -> np.ndarray:
        numbers = self.number[history]
        scores = self.model.score(0, numbers[numbers >= 0].tolist())
        found = np.flatnonzero(scores > -1e9)
        return self.tokens[found[np.argsort(-scores[found], kind="stable")]]


def main() -> None:
    task = Task.from_command_line()
    torch.set_num_threads(task.settings["threads"])
    peer = Peer(task)
    peer.fit()
    task.finish(peer.recommend, task.stop or "end", ["cornac", "torch", "numpy"])


if __name__ == "__main__":
    main()

"""cornac's TIGER by its GRID recipe as a peer, on the text vectors that Prelude reads; lists are its beam's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from cornac.data import FeatureModality, SequentialDataset
from cornac.models import TIGER
from cornac.models.tiger import GRID_CONFIG, recom_tiger

from serving.bench.peers.contract import K, Requests, Task, say

REPORT_EVERY = 2560  # samples between two lines on the way


class Peer:
    def __init__(self, task: Task):
        own, split = task.settings, task.split
        self.task, self.n_items = task, split.n_items
        # one session a user, in order; items without a training event are not known to it
        events = zip(
            split.users.tolist(),
            split.users.tolist(),
            split.items.tolist(),
            split.places.tolist(),
            strict=True,
        )
        self.train = SequentialDataset.build(list(events), fmt="USIT", seed=own["seed"])
        known = np.array(list(self.train.iid_map), np.int64)  # its number -> ours
        self.tokens, self.number = known, np.full(split.n_items, -1)
        self.number[known] = np.arange(len(known))
        self.train.add_modalities(item_feature=FeatureModality(features=split.vectors()[known]))
        self.samples = len(split.users) - len(
            np.unique(split.users)
        )  # an epoch's: every event but a user's first
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
            for batch in session_batches(*args, **kwargs):
                with task.clock.running():
                    yield batch  # the step is taken while this waits
                done += len(batch[0])
                if done // REPORT_EVERY > (done - len(batch[0])) // REPORT_EVERY:
                    say(f"{done / self.samples:.3f} epochs, {task.clock.wall:.0f} s")
                if task.clock.cpu >= task.settings["seconds"]:
                    break
            task.validate(done / self.samples, recommend=self.recommend)
            self.model.model.train()

        recom_tiger.session_seq_iter = batches
        self.model.fit(self.train)

    @torch.no_grad()
    def recommend(self, requests: Requests, set_aside: bool) -> np.ndarray:
        """The beam's items alone: those outside it have no score, and cornac ranks them by number."""
        lists = np.full((len(requests), K), -1, np.int64)
        for row in range(len(requests)):
            history = requests.history(row)
            numbers = self.number[history]
            scores = self.model.score(0, numbers[numbers >= 0].tolist())
            found = np.flatnonzero(scores > -1e9)
            items = self.tokens[found[np.argsort(-scores[found], kind="stable")]]
            items = items[~np.isin(items, history)] if set_aside else items
            lists[row, : len(items[:K])] = items[:K]
        return lists


def main() -> None:
    task = Task.from_command_line()
    torch.set_num_threads(task.settings["threads"])
    peer = Peer(task)
    peer.fit()
    task.finish(peer.recommend, task.stop or "end", ["cornac", "torch", "numpy"])


if __name__ == "__main__":
    main()

"""RecTools' SASRec and eSASRec (LiGR layers) as peers, with the sampled softmax of its authors' benchmark."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.ligr import LiGRLayers

from serving.bench.peers.contract import K, Requests, Task, whole


class SpentError(Exception):
    """A training that goes on has spent its seconds already."""


class Watch(Callback):
    """Validates between epochs, the clock standing, and keeps the best weights."""

    def __init__(self, task: Task, peer: Peer, every: int):
        self.task, self.peer, self.every, self.best = task, peer, every, dict[str, torch.Tensor]()
        self.done = 0  # epochs before a kill

    def __deepcopy__(self, memo: dict) -> Watch:
        return self  # RecTools copies its trainer, and with it this

    def on_train_epoch_start(self, trainer: Trainer, module: Any) -> None:
        self.task.clock.start()
        if trainer.current_epoch or not self.task.kept.exists():
            return
        # not before: RecTools draws its weights when training starts
        kept = torch.load(self.task.kept, weights_only=True)
        self.done, self.best = kept["epochs"], kept["best"]
        module.torch_model.load_state_dict(kept["model"])
        trainer.optimizers[0].load_state_dict(kept["optimizer"])
        self.task.go_on(kept["progress"])
        torch.manual_seed(self.task.settings["seed"] + self.done)
        if self.task.stop:
            raise SpentError

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        epochs = self.done + trainer.current_epoch + 1
        self.task.clock.stop()
        if epochs % self.every == 0 or self.task.stop:
            self.peer.model.is_fitted = True  # so that it answers
            if self.task.validate(epochs, recommend=self.peer.recommend):
                self.best = {k: v.detach().clone() for k, v in module.torch_model.state_dict().items()}
            module.train()
            state = {"epochs": epochs, "best": self.best, "model": module.torch_model.state_dict(),
                     "optimizer": trainer.optimizers[0].state_dict(), "progress": self.task.progress()}  # fmt: skip
            whole(self.task.kept, lambda path: torch.save(state, path))
        trainer.should_stop = bool(self.task.stop) or epochs >= self.task.settings["epochs"]


class Peer:
    def __init__(self, task: Task):
        own = task.settings
        self.watch = Watch(task, self, own["validate_every_epochs"])
        layers = {"transformer_layers_type": LiGRLayers, "use_key_padding_mask": True,
                  "transformer_layers_kwargs": {"ff_factors_multiplier": own["ff_factors_multiplier"]}}  # fmt: skip
        self.model = SASRecModel(
            n_factors=own["n_factors"], n_blocks=own["n_blocks"], n_heads=own["n_heads"],
            dropout_rate=own["dropout_rate"], session_max_len=own["session_max_len"],
            loss="sampled_softmax", n_negatives=own["n_negatives"], lr=own["lr"], batch_size=own["batch_size"],
            recommend_torch_device="cpu", recommend_n_threads=own["threads"],
            get_trainer_func=lambda: Trainer(
                max_epochs=own["epochs"], accelerator="cpu", devices=1, logger=False, callbacks=[self.watch],
                enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
            ),
            **(layers if own["ligr"] else {}),
        )  # fmt: skip

    def recommend(self, requests: Requests, set_aside: bool) -> np.ndarray:
        """A history is given as a data set of its own; users are the requests' numbers."""
        histories = _dataset(requests.rows, requests.items, np.arange(len(requests.items)))
        users = np.unique(requests.rows)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # users whose history holds no known item get no list
            found = self.model.recommend(
                users=users, dataset=histories, k=K, filter_viewed=set_aside, on_unsupported_targets="ignore"
            )  # fmt: skip
        lists = np.full((len(requests), K), -1, np.int64)
        lists[found[Columns.User].to_numpy(), found[Columns.Rank].to_numpy() - 1] = found[Columns.Item]
        return lists


def _dataset(users: np.ndarray, items: np.ndarray, order: np.ndarray) -> Dataset:
    frame = pd.DataFrame({Columns.User: users, Columns.Item: items, Columns.Weight: 1.0})
    frame[Columns.Datetime] = pd.Timestamp("2000-01-01") + pd.to_timedelta(order, unit="s")
    return Dataset.construct(frame)


def main() -> None:
    task = Task.from_command_line()
    torch.manual_seed(task.settings["seed"])
    torch.set_num_threads(task.settings["threads"])
    peer, split = Peer(task), task.split
    task.clock.start()  # its way from events to sequences is part of its training
    try:
        peer.model.fit(_dataset(split.users, split.items, split.places))
    except SpentError:
        task.clock.stop()
        peer.model.is_fitted = True  # so that it answers
    peer.model.torch_model.load_state_dict(peer.watch.best)
    task.finish(peer.recommend, task.stop or "end", ["rectools", "pytorch-lightning", "torch", "numpy"])


if __name__ == "__main__":
    main()

"""RecBole's SASRec and LightGCN as peers: its data sets, its loaders, its trainer's epochs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.data.utils import create_dataset, create_samplers, get_dataloader
from recbole.trainer import Trainer
from recbole.utils import get_model, init_seed

from serving.bench.peers.contract import K, Requests, Split, Task, whole

CHUNK = 512  # requests scored at once: 512 × 12,000 float32 are 25 MB
NAME = "given"


class Peer:
    """A RecBole model over a split whose every training event is RecBole's training set."""

    def __init__(self, task: Task):
        own, split = task.settings, task.split
        self.split, work = split, task.out / "recbole"
        write_atomic_files(split, work / NAME)
        self.config = Config(model=own["model"], dataset=NAME, config_dict=_config(own, work))
        init_seed(own["seed"], True)
        torch.set_num_threads(own["threads"])
        dataset = create_dataset(self.config)
        built = dataset.build()
        sampler, _, _ = create_samplers(self.config, dataset, built)
        self.batches = get_dataloader(self.config, "train")(self.config, built[0], sampler, shuffle=True)
        self.model = get_model(own["model"])(self.config, built[0])
        self.trainer = Trainer(self.config, self.model)
        self.tokens = _numbers(dataset.field2id_token["item_id"])  # RecBole's number -> ours; −1: padding
        users = _numbers(dataset.field2id_token["user_id"])
        # ours -> RecBole's; 0: never trained on
        self.user, self.number = np.zeros(split.n_users, np.int64), np.zeros(split.n_items, np.int64)
        self.user[users[1:]], self.number[self.tokens[1:]] = (
            np.arange(1, len(users)),
            np.arange(1, len(self.tokens)),
        )

    @torch.no_grad()
    def recommend(self, requests: Requests, set_aside: bool) -> np.ndarray:
        self.model.eval()
        lists = [np.zeros((0, K), np.int64)]
        for some in requests.parts(CHUNK):
            scores = self.model.full_sort_predict(self._asked(some)).view(len(some), -1).clone()
            scores[:, 0] = -torch.inf
            if set_aside:
                scores[some.rows, self.number[some.items]] = -torch.inf
            values, best = scores.topk(K)
            lists.append(np.where(values.isfinite().numpy(), self.tokens[best.numpy()], -1))
        return np.concatenate(lists)

    def _asked(self, requests: Requests) -> Interaction:
        if self.config["model"] == "LightGCN":
            return Interaction({"user_id": torch.from_numpy(self.user[requests.users])})
        length = self.config["MAX_ITEM_LIST_LENGTH"]
        known = self.number[requests.items] > 0  # RecBole has no number for what it was not trained on
        kept = np.bincount(requests.rows[known], minlength=len(requests))
        offsets = np.concatenate([[0], np.cumsum(kept)])
        items, lengths = Requests(requests.users, requests.items[known], offsets).padded(length)
        numbers = np.where(items >= 0, self.number[items], 0)
        sequence = {
            "item_id_list": torch.from_numpy(numbers),
            "item_length": torch.from_numpy(lengths.clip(1)),
        }
        return Interaction(sequence)


def _config(own: dict[str, Any], work: Path) -> dict[str, Any]:
    sequential = {"MAX_ITEM_LIST_LENGTH": own.get("max_items"), "train_neg_sample_args": None}
    return {
        "data_path": str(work), "checkpoint_dir": str(work / "saved"), "use_gpu": False, "show_progress": False,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "seed": own["seed"],
        # all is for training: what is held out is not in the file
        "eval_args": {"split": {"RS": [1, 0, 0]}, "order": "TO", "group_by": "user", "mode": "full"},
        **(sequential if own["model"] == "SASRec" else {}), **own["recbole"],
    }  # fmt: skip


def _numbers(tokens: Any) -> np.ndarray:
    return np.array([-1, *map(int, tokens[1:])])


def write_atomic_files(split: Split, folder: Path) -> None:
    """`given.inter`: user_id:token, item_id:token, timestamp:float (the place in the user's history)."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{NAME}.inter").open("w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        file.writelines(
            f"{u}\t{i}\t{t}\n" for u, i, t in zip(split.users, split.items, split.places, strict=True)
        )


def _epochs(task: Task, peer: Peer, done: int) -> Iterator[int]:
    for epoch in range(done, task.settings["epochs"]):
        with task.clock.running():
            peer.trainer._train_epoch(peer.batches, epoch)
        yield epoch + 1


def main() -> None:
    logging.disable(logging.WARNING)
    task, done = Task.from_command_line(), 0
    with task.clock.running():  # its way from events to training rows is part of its training
        peer = Peer(task)
    best: dict[str, torch.Tensor] = {}
    if task.kept.exists():
        kept = torch.load(task.kept, weights_only=True)
        done, best = kept["epochs"], kept["best"]
        peer.model.load_state_dict(kept["model"])
        peer.trainer.optimizer.load_state_dict(kept["optimizer"])
        task.go_on(kept["progress"])
        torch.manual_seed(task.settings["seed"] + done)
    for epochs in _epochs(task, peer, done) if not task.stop else ():
        if epochs % task.settings["validate_every_epochs"] and not task.stop:
            continue
        if task.validate(epochs, recommend=peer.recommend):
            best = {name: value.detach().clone() for name, value in peer.model.state_dict().items()}
        state = {"epochs": epochs, "best": best, "model": peer.model.state_dict(), "progress": task.progress(),
                 "optimizer": peer.trainer.optimizer.state_dict()}  # fmt: skip
        whole(task.kept, partial(torch.save, state))
        if task.stop:
            break
    peer.model.load_state_dict(best)
    if hasattr(peer.model, "restore_user_e"):
        peer.model.restore_user_e = peer.model.restore_item_e = None  # vectors of other weights
    task.finish(peer.recommend, task.stop or "end", ["recbole", "torch", "numpy", "pandas"])


if __name__ == "__main__":
    main()

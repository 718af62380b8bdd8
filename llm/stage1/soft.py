"""Soft tokens as a trained mode: rows of Stage 1 that stand behind φ₀ of their user's vector.

    [φ₀(c_t)] [BOS] the last r items before t  →  the item at t

A decoder that has never seen a token in the prefix's place cannot listen to one, whatever Stage 2 trains to speak
into it. So some of Stage 1's rows carry one, with φ₀ trained along; r is drawn from 0 up, where the vector is all
there is to go by, and small numbers come more often. The windows beside them carry none: No Context stays a mode
that the model is trained for. φ₀ is where Stage 2's φ starts, where the vectors are of the same space.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from llm.backbone.sid_model import SidModel
from llm.prompts.builder import PromptBuilder
from llm.prompts.prefixes import E2P, UserPrefix
from llm.prompts.reading import Reading
from recsys.data.dataset import Dataset
from recsys.data.phrases import Phrases
from recsys.embeddings.user_vectors import UserVectors
from recsys.recommender import Request
from recsys.requests import some_of
from recsys.run import Run
from recsys.seeds import rng
from recsys.training import distributed
from recsys.training.rows import rows_of_epoch

WEIGHTS, SETTINGS = "phi.safetensors", "phi.json"


@dataclass(frozen=True)
class StartingPhi:
    """φ₀ as Stage 1 left it, and the space of the vectors that it reads."""

    space: str
    bottleneck: int
    state: dict[str, torch.Tensor]

    def fits(self, users: UserVectors, bottleneck: int) -> bool:
        """May a φ of `bottleneck` over vectors of `users` start from it?"""
        return (self.space, self.bottleneck) == (users.space, bottleneck)


def new_phi(model: SidModel, users: UserVectors, bottleneck: int, seed: int) -> UserPrefix:
    """φ₀, untrained: its tokens start about as long as a text token's embedding."""
    norm = float(model.inner.get_input_embeddings().weight.detach().float().norm(dim=1).mean())
    return UserPrefix(E2P(users.dim, bottleneck, model.hidden_size, norm, seed), users).to(model.device)


def save_phi(prefix: UserPrefix, folder: Path) -> None:
    """Write `phi.safetensors` and `phi.json`."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in prefix.phi.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    bottleneck = len(state["w1.weight"])
    (folder / SETTINGS).write_text(
        json.dumps({"space": prefix.users.space, "bottleneck": bottleneck}, indent=1)
    )


def load_phi(run: Run) -> StartingPhi | None:
    """What `save_phi` left in a run's stage `adapt`; None where Stage 1 trained no soft tokens."""
    if not (run.path / "adapt" / SETTINGS).exists():
        return None
    said = run.read_json("adapt", SETTINGS)
    return StartingPhi(said["space"], said["bottleneck"], load_file(run.artifact("adapt", WEIGHTS)))


class SoftRows:
    """`loss(step)`: −mean log p(item | soft token, r recent items) over a step's rows, drawn from (seed, step)."""

    def __init__(
        self,
        dataset: Dataset,
        builder: PromptBuilder,
        phrases: Phrases,
        role: int,
        seed: int,
        batch: int,
        longest: int,
        query_share: float,
    ):
        self.dataset, self.builder, self.phrases, self.seed = dataset, builder, phrases, seed
        self.batch, self.longest, self.query_share = batch, longest, query_share
        self.events = dataset.instances(role)
        # an event without a history has no vector either
        starts = dataset.offsets[dataset.users[self.events]]
        self.events = self.events[dataset.history_end[self.events] > starts]
        if not len(self.events):
            raise ValueError(
                "no training event has a history: there is nothing for soft tokens to learn from"
            )
        self.weights = dataset.weighed(self.events)
        self.requests = dataset.requests(self.events, False)

    def loss(self, model: SidModel, prefix: UserPrefix, step: int) -> torch.Tensor:
        """Of this process's share of the rows; differentiable in the model and in φ₀."""
        batches = -(-len(self.events) // self.batch)
        epoch, part = divmod(step, batches)
        rows = rows_of_epoch(len(self.events), self.weights, self.seed, "soft rows", epoch)
        rows = rows[part * self.batch : (part + 1) * self.batch]
        generator = rng(self.seed, "soft rows shown", step)
        # log-uniform over 0 … longest
        shown = np.floor((self.longest + 2.0) ** generator.random(len(rows))).astype(np.int64) - 1
        asked = generator.random(len(rows)) < self.query_share
        targets = self.dataset.items[self.events[rows]]
        # of the whole batch, so that a process with a share of it asks what one process would
        queries = [
            self.phrases.query(int(item), generator) if ask else None
            for item, ask in zip(targets, asked, strict=True)
        ]
        mine = distributed.share(len(rows))
        whole, targets = some_of(self.requests, rows[mine]), targets[mine]
        read = [
            _showing(request, int(count), query)
            for request, count, query in zip(whole, shown[mine], queries[mine], strict=True)
        ]
        reading = Reading(model, self.builder, prefix)
        prompts, condition = reading.conditioned(reading.prompts(read), whole)
        return -model.item_log_probs(prompts, targets, condition).mean()


def _showing(request: Request, count: int, query: str | None) -> Request:
    """The request as if its last `count` items were all, with a query."""
    cut = max(0, len(request.history) - count)
    return replace(
        request, history=request.history[cut:], history_times=request.history_times[cut:], query=query
    )

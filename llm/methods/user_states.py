"""Later feedback moves users' states: a few steps for their rows alone (Online-Emb), or for all.

`absorb` is one update: gradient steps on new events, at most a stated number of them (TAP-PER, 4.6). It asks
for a personalizer that keeps a trained state for each user, `KeepsUserStates`; that is TAP-PER with its P_u.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from llm.backbone.conditions import Condition
from llm.methods.stage2 import batch_rows, lm_loss
from llm.prompts.reading import Personalizer, Reading
from recsys.config import StageConfig
from recsys.recommender import Request
from recsys.requests import some_of
from recsys.training import loop


class KeepsUserStates(Personalizer, ABC):
    """A personalizer with a trained state for each user:
    row u of its parameter P_u, and what feedback has made of it.

    Whose row has moved since is in `later`: user integer -> row. The trained table stays as it is.
    """

    later: dict[int, Tensor]

    @abstractmethod
    def start_states(self, users: np.ndarray) -> Tensor:
        """Rows [n, width] from which the states of `users` [n] are trained on,
        also of users who have none yet.
        """

    @abstractmethod
    def conditioned_on(self, requests: Sequence[Request], states: Tensor | None) -> Condition:
        """The condition of `requests` with `states` [R, width] in place of the users' own.
        Differentiable in both.
        """


class OnlineConfig(StageConfig):
    """What absorbing feedback may cost (`passes`, `max_steps`, `batch`),
    in serving and in the experiment alike.
    """

    seed: int = 0
    method: str = "tap_per"  # key of the run's method whose P_u follows the feedback
    passes: int = Field(4, ge=1)  # over the events of an update
    max_steps: int = Field(200, ge=1)  # of an update, however many events it has
    batch: int = Field(32, ge=1)  # events a step
    learning_rate: float | None = Field(None, gt=0)  # of AdamW; None: what Stage 2 chose for the method
    chunks: int = Field(5, ge=1)  # of the stream
    bootstrap: float = Field(0.5, gt=0, lt=1)  # share of each user's events before the stream
    instances: int = Field(2000, ge=0)  # measured a chunk, a seeded sample; 0: all
    retrain: bool = True  # Full-Retrain too, which costs a whole Stage 2 a chunk


class UserStates(Personalizer):
    """A personalizer with states of its own for some users, which are trained;
    the rest of it only if `full`.
    """

    def __init__(self, trained: KeepsUserStates, users: np.ndarray, full: bool):
        super().__init__()
        self.users, self.soft_tokens = users, trained.soft_tokens
        self.rows = nn.Parameter(trained.start_states(users))
        for name, parameter in trained.named_parameters():
            parameter.requires_grad_(full and name not in trained.user_rows)
        self.shared = trained if full else None
        self._trained = (trained,)  # in a tuple: not a part of this module

    def condition(self, requests: Sequence[Request]) -> Condition:
        trained = self._trained[0]
        trained.step = self.step
        places = np.searchsorted(self.users, np.array([request.user for request in requests], np.int64))
        rows = torch.from_numpy(places).to(self.rows.device)
        return trained.conditioned_on(requests, nn.functional.embedding(rows, self.rows))


@dataclass(frozen=True)
class Absorbed:
    """What one update did: `rows` [n, L·h] are the new P_u of `users` [n] (ascending)."""

    users: np.ndarray
    rows: Tensor
    steps: int
    seconds: float


def steps_of(events: int, config: OnlineConfig) -> int:
    """Gradient steps of an update on so many events: `passes` over them, and `max_steps` at most."""
    return min(config.max_steps, config.passes * -(-events // config.batch))


def absorb(
    label: str,
    reading: Reading,
    requests: Sequence[Request],
    targets: np.ndarray,
    config: OnlineConfig,
    rate: float,
    checkpoint: Path,
    full: bool = False,
) -> Absorbed:
    """Train on feedback: each request's answer was `targets` [R]. `reading` must be of a TapPer with a P_u.

    Online-Emb: rows of P_u of the requests' users alone, which are then kept in `later`; nothing else
    changes. With `full` P_q and the bridge are trained with them (Online-Full), in place.
    """
    trained = reading.personalizer
    assert isinstance(trained, KeepsUserStates), "only TAP-PER has states of users to train"
    users = np.unique([request.user for request in requests])
    states = UserStates(trained, users, full).to(reading.model.device)
    online = replace(reading, personalizer=states)
    steps = steps_of(len(requests), config)

    def step(index: int) -> Tensor:
        rows = batch_rows(len(requests), config.batch, index, config.seed)
        states.step = index
        return lm_loss(online, some_of(requests, rows), targets[rows])

    started = time.monotonic()
    trained.train(full)
    state = loop.trainable_state(states)
    parameters = [parameter for parameter in states.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)  # the paper's SGD budget, by AdamW
    loop.fit(label, steps, state, optimizer, step, checkpoint, clip_norm=1.0, quiet=True)
    trained.eval().requires_grad_(False)
    rows = states.rows.detach().clone()
    trained.later |= dict(zip(users.tolist(), rows, strict=True))
    return Absorbed(users, rows, steps, time.monotonic() - started)

"""Later feedback moves users' states: a few steps for their rows alone (Online-Emb), or for all.

`absorb` is one update: gradient steps on new events, at most a stated number of them (TAP-PER, 4.6). It asks
for a personalizer that keeps a trained state for each user, `KeepsUserStates`; that is TAP-PER with its P_u.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llm.backbone.conditions import Condition
from llm.methods.config import OnlineConfig
from llm.methods.stage2 import batch_rows, lm_loss
from llm.prompts.reading import Personalizer, Reading
from recsys.artifacts.user_rows import USERS
from recsys.recommender import Request
from recsys.requests import some_of
from recsys.training import loop


class KeepsUserStates(Personalizer, ABC):
    """A personalizer with a trained state for each user:
    a row of its parameter `p_u`, and what feedback has made of it.

    Row u is user u's, or, where a buffer `users` [n] (ascending) says whose they are, only these have one. Whose row has moved
    since is in `later`: user integer -> row. The trained table stays as it is.
    """

    p_u: nn.Parameter | None
    met: np.ndarray  # bool [U]: whose row has been trained, where everybody has one
    later: dict[int, Tensor]

    def keep_rows(self, width: int, n_users: int, users: np.ndarray | None) -> None:
        """Make P_u, all zeros: a row for everybody, or for `users` (ascending) alone."""
        if users is not None:
            self.register_buffer(USERS, torch.from_numpy(users.astype(np.int64)))
        self.p_u = nn.Parameter(torch.zeros(n_users if users is None else len(users), width))

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As a module does; where rows are of some users alone, those that `state_dict` has."""
        if USERS in self._buffers:
            assert self.p_u is not None
            self.register_buffer(USERS, torch.zeros_like(state_dict[USERS], device=self.p_u.device))
            self.p_u = nn.Parameter(self.p_u.new_zeros(state_dict["p_u"].shape))
        return super().load_state_dict(state_dict, strict, assign)

    def places(self, users: np.ndarray) -> np.ndarray:
        """The row of P_u of each of `users` [R]; −1 where there is none."""
        assert self.p_u is not None
        owners = self._buffers.get(USERS)
        if owners is None:
            return np.where((users >= 0) & (users < len(self.p_u)), users, -1)
        whose = owners.cpu().numpy()
        at = np.searchsorted(whose, users)
        there = np.append(whose, -1)[at] == users
        return np.where(there & (users >= 0), at, -1)

    def user_states(self, requests: Sequence[Request]) -> Tensor:
        """P_u [R, L·h] as it is now; zero for users without a row."""
        assert self.p_u is not None
        users = _users_of(requests)
        rows = torch.from_numpy(self.places(users)).to(self.p_u.device)
        if len(self.p_u):
            states = nn.functional.embedding(rows.clamp(min=0), self.p_u) * (rows >= 0)[:, None]
        else:
            states = self.p_u.new_zeros(len(rows), self.p_u.shape[1])
        moved = [at for at, user in enumerate(users.tolist()) if user in self.later]
        if not moved:
            return states
        newer = torch.stack([self.later[int(users[at])] for at in moved]).to(states)
        return states.index_copy(0, torch.tensor(moved, device=states.device), newer)

    def have_rows(self, requests: Sequence[Request]) -> np.ndarray:
        """Bool [R]: has the request's user a trained row?"""
        users = _users_of(requests)
        trained = self.places(users) >= 0
        if USERS not in self._buffers:
            trained[trained] = self.met[users[trained]]
        return trained | np.array([user in self.later for user in users.tolist()], bool)

    def start_states(self, users: np.ndarray) -> Tensor:
        """Rows [n, L·h] from which the users' P_u is trained on: as it is, and for who has none a start.

        A new user starts at zero beside another soft token (`starts_at_zero`), else at the mean row: no
        soft token may be without a direction.
        """
        assert self.p_u is not None
        asked = [Request(f"u{user}", int(user), 0) for user in users]
        states = self.user_states(asked).detach().clone()
        if not self.starts_at_zero and len(self.p_u):
            new = torch.from_numpy(~self.have_rows(asked)).to(states.device)
            states[new] = self.p_u.detach().mean(0)
        return states

    @property
    @abstractmethod
    def starts_at_zero(self) -> bool:
        """Does a user without a row have soft tokens all the same?"""

    @abstractmethod
    def conditioned_on(self, requests: Sequence[Request], states: Tensor | None) -> Condition:
        """The condition of `requests` with `states` [R, width] in place of the users' own.
        Differentiable in both.
        """


def _users_of(requests: Sequence[Request]) -> np.ndarray:
    """[R]; −1: nobody that is known."""
    return np.array([-1 if request.user is None else request.user for request in requests], np.int64)


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

"""One small set of parameters a user: its forms (LoRA, IA3, soft tokens), and tables of them on disk.

A user's parameters are one flat row of P numbers, so that a table is [users, P], a batch reads its rows and
nothing else, and an optimiser that works number by number trains many users at once as if each were alone
(`llm.methods.per_user.training`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from llm.backbone.conditions import NOTHING, Condition, Gain, LowRank
from llm.prompts.reading import Personalizer
from recsys.artifacts.user_rows import load_user_rows, save_user_rows
from recsys.recommender import Request
from recsys.seeds import torch_generator

ROWS = "adapter"  # the tensor [users, P] of a table


class Form(Protocol):
    """What P numbers a user mean."""

    size: int  # P
    soft_tokens: int
    blank: float  # what a row of a user who has none is filled with: it changes nothing

    def start(self, seed: int) -> Tensor:
        """The row [P] from which every user's training starts, as if each were run alone with this seed."""
        ...

    def condition(self, rows: Tensor, known: np.ndarray, users: np.ndarray) -> Condition:
        """`rows` [R, P] of the requests' users [R] (−1: nobody), `known` [R]: whose row is their own."""
        ...


class LoraForm:
    """A LoRA of rank r on each of `layers` (name -> in, out): A [r, in], then B [out, r], layer after layer.

    Starts as PEFT does: A uniform within ±1/√in, B = 0; what is added is (alpha / r) B A x.
    """

    soft_tokens, blank = 0, 0.0

    def __init__(self, layers: Mapping[str, tuple[int, int]], rank: int, alpha: float):
        self.layers, self.rank, self.scale = dict(layers), rank, alpha / rank
        self._sizes = [rank * n for pair in self.layers.values() for n in pair]
        self.size = sum(self._sizes)

    def start(self, seed: int) -> Tensor:
        generator = torch_generator(seed, "lora")
        parts = []
        for n_in, n_out in self.layers.values():
            a = (2 * torch.rand(self.rank, n_in, generator=generator) - 1) * n_in**-0.5
            parts += [a.reshape(-1), torch.zeros(n_out * self.rank)]
        return torch.cat(parts)

    def pairs(self, rows: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """A [R, r, in] and scaled B [R, out, r] of each layer, from rows [R, P]."""
        parts = iter(rows.split(self._sizes, 1))
        return {
            name: (
                next(parts).view(-1, self.rank, n_in),
                next(parts).view(-1, n_out, self.rank) * self.scale,
            )
            for name, (n_in, n_out) in self.layers.items()
        }

    def condition(self, rows: Tensor, known: np.ndarray, users: np.ndarray) -> Condition:
        return Condition(updates={name: (LowRank(a, b),) for name, (a, b) in self.pairs(rows).items()})


class Ia3Form:
    """IA3: a gain on the output of each of `layers`, starting at 1."""

    soft_tokens, blank = 0, 1.0

    def __init__(self, layers: Mapping[str, tuple[int, int]]):
        self.layers = dict(layers)
        self._sizes = [n_out for _, n_out in self.layers.values()]
        self.size = sum(self._sizes)

    def start(self, seed: int) -> Tensor:
        return torch.ones(self.size)

    def condition(self, rows: Tensor, known: np.ndarray, users: np.ndarray) -> Condition:
        gains = zip(self.layers, rows.split(self._sizes, 1), strict=True)
        return Condition(updates={name: (Gain(gain),) for name, gain in gains})


class PromptForm:
    """Prompt tuning: m soft tokens a user, starting at about the norm of a token embedding."""

    blank = 0.0

    def __init__(self, length: int, hidden: int, norm: float):
        self.soft_tokens, self.hidden, self.norm = length, hidden, norm
        self.size = length * hidden

    def start(self, seed: int) -> Tensor:
        drawn = torch.randn(self.size, generator=torch_generator(seed, "prompt tuning"))
        return drawn * self.norm * self.hidden**-0.5

    def condition(self, rows: Tensor, known: np.ndarray, users: np.ndarray) -> Condition:
        return Condition(rows.view(-1, self.soft_tokens, self.hidden), known)


class UserTable:
    """Tensors with a row for each of some users, in one or more parts;
    a part on disk is read where it is asked for.
    """

    def __init__(self, parts: Sequence[tuple[np.ndarray, Mapping[str, Tensor]]]):
        """Each part: users [n] and tensors [n, …] by name."""
        self._tensors = [tensors for _, tensors in parts]
        users = np.concatenate([np.zeros(0, np.int64), *(users for users, _ in parts)])
        part = np.repeat(np.arange(len(parts)), [len(users) for users, _ in parts])
        row = np.concatenate([np.zeros(0, np.int64), *(np.arange(len(users)) for users, _ in parts)])
        order = np.argsort(users, kind="stable")
        self.users, self._part, self._row = users[order], part[order], row[order]

    @classmethod
    def open(cls, paths: Sequence[Path]) -> UserTable:
        """The table that `write_rows` left in one or more files."""
        parts = []
        for path in paths:
            # tensors that are backed by the file: pages are read when they are used
            stored = load_user_rows(path)
            if stored.users is None:
                raise ValueError(f"{path} does not name the users of its rows")
            parts.append((stored.users.numpy(), stored.rows))
        return cls(parts)

    def places(self, users: np.ndarray) -> np.ndarray:
        """Where each user stands in `self.users` [R]; −1 for one who has no row."""
        if not len(self.users):
            return np.full(len(users), -1)
        at = np.searchsorted(self.users, users).clip(max=len(self.users) - 1)
        return np.where(self.users[at] == users, at, -1)

    def take(
        self, users: np.ndarray, name: str = ROWS, blank: float | int = 0.0
    ) -> tuple[Tensor, np.ndarray]:
        """Rows [R, …] of users [R], filled with `blank` where a user has none, and who has one [R]."""
        places = self.places(users)
        known = places >= 0
        like = self._tensors[0][name]
        rows = like.new_full((len(users), *like.shape[1:]), blank)
        for part in np.unique(self._part[places[known]]):
            mine = np.flatnonzero(known & (self._part[places] == part))
            row = torch.from_numpy(self._row[places[mine]])
            rows[torch.from_numpy(mine)] = self._tensors[part][name].index_select(0, row)
        return rows, known


def write_rows(path: Path, users: np.ndarray, rows: Mapping[str, Tensor]) -> None:
    """Write tensors [n, …], row i of each that of users[i] (ascending), whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    on_cpu = {name: tensor.detach().cpu() for name, tensor in rows.items()}
    save_user_rows(temporary, on_cpu, torch.from_numpy(users.astype(np.int64)))
    os.replace(temporary, path)


def users_of(requests: Sequence[Request]) -> np.ndarray:
    """The user integer of each request [R]; −1 for one whom the run has never seen."""
    return np.array([-1 if request.user is None else request.user for request in requests], dtype=np.int64)


class UserAdapters(Personalizer):
    """Each request is read with its user's own parameters; one whose user has none, with `base` alone."""

    def __init__(self, form: Form, table: UserTable, device: torch.device, base: Condition = NOTHING):
        """`base`: what every request is told besides, such as a LoRA that all users share."""
        super().__init__()
        self.form, self.table, self.base, self._device = form, table, base, device
        self.soft_tokens, self.per_user_parameters, self.row_bytes = (
            form.soft_tokens,
            form.size,
            4 * form.size,
        )

    @property
    def shared_parameters(self) -> int:
        return numbers_in(self.base)

    def condition(self, requests: Sequence[Request]) -> Condition:
        users = users_of(requests)
        rows, known = self.table.take(users, ROWS, self.form.blank)
        if not known.any():
            return self.base
        return self.base.beside(self.form.condition(rows.to(self._device), known, users))


def numbers_in(shared: Condition) -> int:
    """How many numbers the updates of a condition hold."""
    updates = [one for all_ in shared.updates.values() for one in all_]
    return sum(value.numel() for one in updates for value in vars(one).values() if isinstance(value, Tensor))


def gather(rows: Tensor, owner: np.ndarray) -> Tensor:
    """rows [G, P] -> [R, P] of each request's owner;
    its gradient is summed in one order whatever the repeats.
    """
    return nn.functional.embedding(torch.from_numpy(owner).to(rows.device), rows)

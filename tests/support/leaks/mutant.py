"""Planted leaks: one for each place that reads events. Each is a wrong line that somebody might write.

A mutant names the change of the world (`tests.support.leaks.worlds`) that must not matter, the
stage that is made again under it, and what of that run must then be seen to differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pytest

from recsys.data.dataset import Dataset
from recsys.data.splits import TEST
from recsys.recommender import Request

Plant = Callable[[pytest.MonkeyPatch], None]
TARGETS, GONE = "other test targets", "deleted test events"
LATER, EARLIER = "other validation targets", "other Stage 2 targets"
WINDOW, OTHERS = "other window targets", "other events of held-out users"


@dataclass(frozen=True)
class Mutant:
    name: str
    place: str  # module and what in it
    plant: Plant
    stage: (
        str | None
    )  # from which (to which) a run is made again; None: none is, what it answers is looked at
    seen: str  # the start of a name that must be among the differences
    change: str = TARGETS
    looks: str = "learned"  # a key of `tests.support.leaks.looks.LOOKS`


MUTANTS: list[Mutant] = []


def mutant(name: str, place: str, stage: str | None, seen: str, **more: str) -> Callable[[Plant], Plant]:
    def add(plant: Plant) -> Plant:
        MUTANTS.append(Mutant(name, place, plant, stage, seen, **more))
        return plant

    return add


def test_of(data: Dataset) -> tuple[list[Request], np.ndarray]:
    events = data.instances(TEST)
    return data.requests(events, data.exclude_seen), data.items[events]


def as_role(data: Dataset, role: int, counts_as: int) -> Dataset:
    """The data with events of `role` counted as `counts_as`."""
    return replace(data, roles=np.where(data.roles == role, counts_as, data.roles).astype(np.int8))


def cached(m: pytest.MonkeyPatch, owner: type, name: str, function: Callable[[Any], Any]) -> None:
    made = cached_property(function)
    made.__set_name__(owner, name)
    m.setattr(owner, name, made)


def wrapped(m: pytest.MonkeyPatch, owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    """`owner.name` replaced by `wrap(what it was)`."""
    m.setattr(owner, name, wrap(getattr(owner, name)))

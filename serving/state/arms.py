"""Arms of an experiment compared: rewards a list, by users, with an interval for one look and one for any number of looks."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from evaluation.value.sequential import Comparison, compare
from serving.state.shown import with_events
from serving.state.store import State


@dataclass(frozen=True)
class Arm:
    """What the users of an arm earned a list, on average over users."""

    name: str
    users: int
    lists: int
    reward: float


@dataclass(frozen=True)
class ArmReport:
    """The arms of an experiment, and each pair of them: the second minus the first."""

    arms: list[Arm]
    pairs: dict[tuple[str, str], Comparison]


def compare_arms(
    state: State, experiment: str, rewarded: Collection[str], since: float = 0.0, until: float = 1e18
) -> ArmReport:
    """Raises `ValueError` where no list was shown in an arm of that experiment."""
    earned: dict[str, dict[str, list[int]]] = {}
    for one, events in with_events(state, since, until):
        arm = dict(part.split("=", 1) for part in (one.arm or "").split(",") if part).get(experiment)
        if arm is None or one.user_id is None:
            continue
        clicked = sum(bool(events.get(item.item_id, set()) & set(rewarded)) for item in one.items)
        earned.setdefault(arm, {}).setdefault(one.user_id, []).append(clicked)
    if not earned:
        raise ValueError(f"no list was shown in an experiment of the name {experiment!r}")
    means = {
        arm: np.array([np.mean(some) for some in users.values()]) for arm, users in sorted(earned.items())
    }
    arms = [
        Arm(arm, len(values), sum(map(len, earned[arm].values())), float(values.mean()))
        for arm, values in means.items()
    ]
    return ArmReport(arms, {(a, b): compare(means[a], means[b]) for a, b in combinations(means, 2)})

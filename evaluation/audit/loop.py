"""The feedback loop: lists are shown, people choose from them, what they chose is learned from, and so on for some rounds.

All choices of a person in one round have one moment, so that none is in another's history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from evaluation.audit import measures
from evaluation.audit.audit import Population, figures_of_lists
from evaluation.audit.choice import Choice
from evaluation.statistics import mean_interval
from recsys.recommender import Request
from recsys.seeds import rng

# name -> (in words, is it of each group of people too?)
LOOP_MEASURES = {
    "gini": ("Gini of exposure", False),
    "coverage": ("catalogue coverage", False),
    "overlap": ("overlap of two people's lists", False),
    "tail": ("exposure of the tail", False),
    "lift": ("popularity lift", True),
    "miscalibration": ("miscalibration to the first taste", True),
    "distance": ("intra-list distance", True),
    "welfare": ("how good what is chosen is", True),
}
Round = dict[str, Any]


class Arm(Protocol):
    """What shows lists, and learns from what was chosen."""

    name: str

    def start(self, seed: int) -> None:
        """As it was before anybody chose."""
        ...

    def lists(self, requests: Sequence[Request], n: int, seed: int) -> np.ndarray:
        """[R, n], −1 where a list is shorter."""
        ...

    def learn(self, requests: Sequence[Request], chosen: np.ndarray, seed: int) -> None:
        """What was chosen [R, k] (−1: nothing) by those who asked."""
        ...


@dataclass(frozen=True)
class Setting:
    """What all arms of a loop share."""

    people: Population
    choice: Choice
    tail: np.ndarray  # [N] bool: items of the tail, or without an event
    rounds: int = 10
    n: int = 10
    exclude_seen: bool = True  # what a person has had, or chosen, is not shown again


def simulate(arm: Arm, start: Sequence[Request], setting: Setting, seed: int) -> list[Round]:
    """The figures of every round of one seed: what was shown, and to the person's utility how good what they chose was."""
    requests, found = list(start), []
    arm.start(seed)
    for number in range(setting.rounds):
        lists = arm.lists(requests, setting.n, seed * 1000 + number)
        utility = setting.choice.utilities.of_all(requests)
        chosen = setting.choice.choose(lists, utility, rng(seed, "loop", number))
        found.append(_figures(lists, chosen, utility, requests, setting))
        if number + 1 < setting.rounds:
            arm.learn(requests, chosen, seed * 1000 + number)
            requests = [
                _after(one, mine[mine >= 0], setting.exclude_seen)
                for one, mine in zip(requests, chosen, strict=True)
            ]
    return found


def _after(request: Request, chosen: np.ndarray, exclude_seen: bool) -> Request:
    """What the same person asks a moment later."""
    times = np.full(len(chosen), request.time, dtype=np.int64)
    return replace(
        request,
        time=request.time + 1,
        history=np.concatenate([request.history, chosen]),
        history_times=np.concatenate([request.history_times, times]),
        exclude=np.union1d(request.exclude, chosen) if exclude_seen else request.exclude,
    )


def _figures(
    lists: np.ndarray, chosen: np.ndarray, utility: np.ndarray, requests: Sequence[Request], setting: Setting
) -> Round:
    people, counts = setting.people, measures.exposures(lists, len(setting.people.counts))
    of_lists = figures_of_lists(lists, people)
    of_lists["welfare"] = welfare(chosen, utility, requests)
    pairs = len(lists) * (len(lists) - 1)
    whole = {
        "gini": float(measures.gini(counts)),
        "coverage": float(measures.coverage(counts)),
        "overlap": float((counts * (counts - 1.0)).sum() / max(pairs, 1) / lists.shape[1]),
        "tail": float(counts[setting.tail].sum() / max(counts.sum(), 1)),
    }
    return whole | _means(of_lists, people) | {"groups": _of_groups(of_lists, people)}


def _means(of_lists: Mapping[str, np.ndarray], people: Population, mine: Any = slice(None)) -> Round:
    found = {
        name: float(np.nanmean(of_lists[name][mine]))
        for name in ("miscalibration", "distance", "welfare")
        if name in of_lists and not np.isnan(of_lists[name][mine]).all()
    }
    return found | {"lift": measures.lift(of_lists["popularity"][mine], people.profile_popularity[mine])}


def _of_groups(of_lists: Mapping[str, np.ndarray], people: Population) -> dict[str, dict[str, Round]]:
    return {
        grouping: {str(name): _means(of_lists, people, labels == name) for name in dict.fromkeys(labels)}
        for grouping, labels in people.user_groups.items()
    }


def welfare(chosen: np.ndarray, utility: np.ndarray, requests: Sequence[Request]) -> np.ndarray:
    """Mean over what each chose of the share of all that they might get which is worth less to them [R]; NaN where nothing was."""
    found = np.full(len(chosen), np.nan)
    for row, (mine, worth, request) in enumerate(zip(chosen, utility, requests, strict=True)):
        left = np.delete(worth, request.exclude)
        if (mine >= 0).any() and len(left):
            found[row] = (left[None] < worth[mine[mine >= 0]][:, None]).mean()
    return found


# -- over seeds ------------------------------------------------------------------------------------------------------


def over_seeds(seeds: Sequence[Sequence[Round]]) -> dict[str, Any]:
    """Of simulations of some seeds: every measure in every round, and its change from the first to the last, with 95 % intervals
    (Student's t over seeds); of groups of people the first round, the last and the change, and how far that is from everybody's
    (`beside`, Bonferroni over the groups).
    """
    rounds = range(len(seeds[0]))
    names = [name for name in LOOP_MEASURES if all(name in one[0] for one in seeds)]
    found: dict[str, Any] = {
        "rounds": {name: [_over([one[at][name] for one in seeds]) for at in rounds] for name in names},
        "change": {name: _over([one[-1][name] - one[0][name] for one in seeds]) for name in names},
        "groups": {},
    }
    for grouping, some in seeds[0][0]["groups"].items():
        found["groups"][grouping] = {
            group: {
                name: _of_group(seeds, grouping, group, name, 0.05 / len(some))
                for name in figures
                if all(name in one[at]["groups"][grouping][group] for one in seeds for at in (0, -1))
            }
            for group, figures in some.items()
        }
    return found


def _of_group(
    seeds: Sequence[Sequence[Round]], grouping: str, group: str, name: str, alpha: float
) -> dict[str, Any]:
    first, last = (np.array([one[at]["groups"][grouping][group][name] for one in seeds]) for at in (0, -1))
    everybody = np.array([one[-1][name] - one[0][name] for one in seeds])
    return {
        "first": _over(first),
        "last": _over(last),
        "change": _over(last - first),
        "beside": _over(last - first - everybody, alpha),
    }


def differences(some: Sequence[Sequence[Round]], others: Sequence[Sequence[Round]]) -> dict[str, Any]:
    """The last round of one arm minus that of another, seed by seed, with 95 % intervals."""
    names = [name for name in LOOP_MEASURES if name in some[0][-1] and name in others[0][-1]]
    return {
        name: _over([a[-1][name] - b[-1][name] for a, b in zip(some, others, strict=True)]) for name in names
    }


def _over(values: Sequence[float] | np.ndarray, alpha: float = 0.05) -> dict[str, Any]:
    interval = mean_interval(np.array(values), alpha)
    return {"value": float(np.mean(values)), "ci95": None if interval is None else list(interval)}

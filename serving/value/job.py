"""What a policy would have earned on the lists that a service has shown: its probabilities for what was drawn, and the estimates."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from evaluation.value.estimators import Estimates, Logged, estimate
from evaluation.value.rewards import RewardMeans, folds_of
from recsys.data.caps import Caps
from recsys.recommender import Request
from serving.answering.propensities import Distribution, given_before
from serving.answering.requests import caps_of
from serving.service.answers import request_of
from serving.service.forms import RecommendForm
from serving.service.served import Served
from serving.service.settings import ServiceConfig
from serving.state.lists import all_lists
from serving.state.shown import ShownList, with_events
from serving.state.store import State

LEAST_EFFECTIVE = (
    30.0  # lists of its own that a policy must have as good as seen, for an interval to mean something
)
TOGETHER = 16  # lists whose probabilities are computed at once


class NoSupport(ValueError):
    """The lists say nothing about the policy."""


@dataclass(frozen=True)
class Policy:
    """What a list would have been asked with; None: as it was."""

    method: str | None = None
    temperature: float | None = None
    strength: float | None = None

    def form_of(self, asked: dict) -> RecommendForm:
        """The form that a list would have been asked by."""
        old = {name: value for name, value in asked.items() if name in RecommendForm.model_fields}
        given = {name: value for name, value in vars(self).items() if value is not None}
        return RecommendForm.model_validate(old | {"method": asked["method_key"]} | given)


@dataclass
class Reading:
    """The lists that are judged, and what each item of them earned."""

    lists: list[ShownList] = field(default_factory=list)
    drawn: list[np.ndarray] = field(
        default_factory=list
    )  # items of each in the order in which they were drawn
    passed: list[np.ndarray] = field(default_factory=list)  # items of the pages before
    rewards: list[np.ndarray] = field(default_factory=list)
    not_drawn: int = 0


def value(
    run: Path,
    state: State,
    policy: Policy,
    settings: ServiceConfig,
    rewarded: Collection[str] = ("click", "play", "like"),
    drawn_only: bool = False,
    since: float = 0.0,
    until: float = 1e18,
) -> Estimates:
    """Estimates of what `policy` would have earned a list; an item earns 1 if an event of a `rewarded` type names it and its list.

    Raises `NoSupport`, in words, where there are no lists, where some were not drawn (unless `drawn_only`),
    where the policy draws nothing, and where its lists are hardly among those shown.
    """
    served = Served(run, state, settings, until=0)
    reading = _read(served, state, set(rewarded), since, until)
    if reading.not_drawn and not drawn_only:
        raise NoSupport(
            f"{reading.not_drawn:,} of {reading.not_drawn + len(reading.lists):,} lists were not drawn (temperature 0, or a method "
            "that only ranks): for those no other list had a chance; --drawn-only leaves them out, and the value is then of the rest"
        )
    if not reading.lists:
        raise NoSupport("no list was drawn in this time: there is nothing to tell a value from")
    found = estimate(_logged(served, reading, policy))
    if found.effective < LEAST_EFFECTIVE:
        raise NoSupport(
            f"{found.lists:,} lists were drawn, but to this policy they are worth only {found.effective:.1f} of its own "
            f"(at least {LEAST_EFFECTIVE:.0f} are needed): what it would show was hardly ever shown"
        )
    return found


def _read(served: Served, state: State, rewarded: set[str], since: float, until: float) -> Reading:
    reading, catalogue = Reading(), served.data.catalogue
    changed = {name: made for name, _, made in all_lists(state)}
    for one, events in with_events(state, since, until):
        if not one.items:
            continue
        if any(item.probability is None for item in one.items):
            reading.not_drawn += 1
            continue
        for name in (one.asked.get("allow"), one.asked.get("exclude")):
            if isinstance(name, str) and changed.get(name, np.inf) > one.made:
                raise NoSupport(
                    f"the list {name!r} has changed since some lists were drawn from it; judge those after it, by --since"
                )
        numbers = [catalogue.number(id_) for id_ in one.asked["drawn"]]
        if None in numbers:
            raise NoSupport(
                "items that were shown are unknown to this run; judge the lists on the run that drew them"
            )
        at = len(numbers) - len(one.items)
        reading.lists.append(one)
        reading.passed.append(np.array(numbers[:at], np.int64))
        reading.drawn.append(np.array(numbers[at:], np.int64))
        earned = [float(bool(events.get(id_, set()) & rewarded)) for id_ in one.asked["drawn"][at:]]
        reading.rewards.append(np.array(earned))
    return reading


def _logged(served: Served, reading: Reading, policy: Policy) -> Logged:
    n, places = len(reading.lists), max(map(len, reading.drawn))
    n_items = len(served.data.catalogue)
    # nobody's lists are as independent as those of different people
    users = np.array([one.user_id if one.user_id is not None else f"\0{one.id}" for one in reading.lists])
    folds = folds_of(users)
    means = [
        RewardMeans(
            _where(reading.drawn, folds != fold), _where(reading.rewards, folds != fold), n_items, places
        )
        for fold in (0, 1)
    ]
    rewards, q, v = (np.zeros((n, places)) for _ in range(3))
    old, new = np.ones((n, places)), np.ones((n, places))
    in_sequence = False
    for place, p in _distributions(served, reading, policy):
        one, drawn, passed = reading.lists[place], reading.drawn[place], reading.passed[place]
        chance_of = {item.item_id: item.probability for item in one.items}
        k = len(drawn)
        rewards[place, :k] = reading.rewards[place]
        old[place, :k] = [chance_of[id_] for id_ in one.asked["drawn"][-k:]]
        if one.asked.get("sequence"):
            new[place, :k], in_sequence = p, True
            continue
        caps = caps_of(served.data, one.asked.get("caps"))
        new[place, :k] = given_before(p, drawn, caps, passed)
        q[place, :k], v[place, :k] = _predicted(p, drawn, passed, caps, means[folds[place]])
    return Logged(rewards, old, new, users, None if in_sequence else q, None if in_sequence else v)


def _predicted(
    p: np.ndarray, drawn: np.ndarray, passed: np.ndarray, caps: Caps | None, means: RewardMeans
) -> tuple[np.ndarray, np.ndarray]:
    """q and v [k] of a list: what its items were thought to earn, and what the policy's next items are thought to earn."""
    left = p.copy()
    left[passed] = 0.0
    counts, q, v = None if caps is None else caps.start(), np.zeros(len(drawn)), np.zeros(len(drawn))
    for place, item in enumerate(drawn.tolist()):
        at = means.at(place)
        q[place], v[place] = at[item], float(left @ at) / left.sum()
        left[item] = 0.0
        if counts is not None:
            left[counts.add(item)] = 0.0
    return q, v


def _distributions(served: Served, reading: Reading, policy: Policy) -> Iterator[tuple[int, np.ndarray]]:
    """Of each list, with histories as they were: p [N] of the policy's first draw; in sequence, P [k] of the list's own items."""
    waiting: dict[tuple, list[tuple[int, Request]]] = {}
    for place in sorted(
        range(len(reading.lists)), key=lambda place: reading.lists[place].asked["events_seen"]
    ):
        one = reading.lists[place]
        seen = one.asked["events_seen"]
        if seen != served.seq:
            # rows of P_u are read when they are asked for, and have learned of what lists earned: those that wait are of before
            learns = served.methods.config.online.method  # and so does its product
            for key in [key for key in waiting if key[0].startswith(learns)]:
                yield from _of_some(served, reading, key, waiting.pop(key))
        served.catch_up(seen)
        form = policy.form_of(one.asked)
        if form.temperature <= 0:
            raise NoSupport(
                "at temperature 0 a policy shows one list, which has no probability; name a --temperature above 0"
            )
        request = request_of(served, form, "value").request
        caps = tuple(sorted((form.caps or {}).items()))
        key = form.method, form.strength, form.temperature, form.sequence, caps if form.sequence else ()
        waiting.setdefault(key, []).append((place, request))
        if len(waiting[key]) == TOGETHER:
            yield from _of_some(served, reading, key, waiting.pop(key))
    for key, some in waiting.items():
        yield from _of_some(served, reading, key, some)


def _of_some(
    served: Served, reading: Reading, key: tuple, some: list[tuple[int, Request]]
) -> Iterator[tuple[int, np.ndarray]]:
    method, strength, temperature, sequence, caps = key
    recommender = served.recommender.method(method, strength)
    if not isinstance(recommender, Distribution) or not recommender.draws:
        raise NoSupport(
            f"{recommender.name} only ranks: it draws no list, and no list has a probability under it"
        )
    requests = [request for _, request in some]
    if sequence:
        if not hasattr(recommender, "list_log_prob"):
            raise NoSupport(f"{recommender.name} makes no list in sequence, and such lists were shown")
        whole = [np.concatenate([reading.passed[place], reading.drawn[place]]) for place, _ in some]
        found = recommender.list_log_prob(requests, whole, temperature, caps_of(served.data, dict(caps)))
        for (place, _), values in zip(some, found, strict=True):
            yield place, np.exp(values[len(reading.passed[place]) :])
        return
    for (place, _), row in zip(some, recommender.log_probs(requests, temperature), strict=True):
        yield place, np.exp(row)


def _where(some: Sequence[np.ndarray], which: np.ndarray) -> list[np.ndarray]:
    return [one for one, wanted in zip(some, which, strict=True) if wanted]

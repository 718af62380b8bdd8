"""Requests that wait together, answered together: each by its own history, exclusions and draws, whoever asks beside it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from recsys.recommender import Ranked, Request
from recsys.recommender import Recommender as AnyRecommender
from serving.answering.limits import check_options
from serving.answering.ordering import ordered
from serving.answering.propensities import masses, probabilities
from serving.answering.requests import Asked, answer, asked_of, caps_of, paths_of
from serving.service.forms import RecommendForm
from serving.service.served import Served
from serving.state.shown import ShownItem, ShownList

SAME_NATS = 1e-4  # scores of a request differ by less between two passes, at temperature 1
BEAM = 30  # lists of up to so many items that are not drawn come of one search (`llm.decoding.draws.BEAM`)


@dataclass(frozen=True)
class Ask:
    """A request that waits: the form, and what was shown on the pages before (`next`)."""

    form: RecommendForm
    arm: str | None = None
    before: ShownList | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(16))


@dataclass(frozen=True)
class Answered:
    """A finished list, as it is kept, and how it is told."""

    shown: ShownList
    titles: list[str]
    ignored: dict[str, int]
    is_cold: bool
    illegal: int  # items that were not available to the request: must be 0
    why: str = ""  # why this method, where none was named
    change: int = 0  # up to which change of the state it was made


@dataclass
class _Ready:
    """A request in the run's integers."""

    ask: Ask
    asked: Asked
    key: tuple  # requests of one key are answered in one pass
    n: int  # items that the pass has to find for it
    noise: str  # what its draws are named by
    passed: list[int]  # items of the pages before, in the order in which they were drawn
    why: str  # why this method, where none was named

    @property
    def request(self) -> Request:
        return self.asked.request


def answer_all(served: Served, asks: Sequence[Ask]) -> list[Answered | Exception]:
    """An answer or an error each. No error of one reaches another."""
    answers: list[Answered | Exception | None] = [None] * len(asks)
    groups: dict[tuple, list[tuple[int, _Ready]]] = {}
    for place, ask in enumerate(asks):
        try:
            ready = _ready(served, ask)
            groups.setdefault(ready.key, []).append((place, ready))
        except Exception as error:
            answers[place] = error
    for group in groups.values():
        for (place, _), found in zip(group, _each(served, [ready for _, ready in group]), strict=True):
            answers[place] = found
    return [one for one in answers if one is not None]


def request_of(served: Served, form: RecommendForm, noise: str) -> Asked:
    """A form in the run's integers; `noise` is what its draws are named by. Raises `ValueError`."""
    check_options(form.n, form.temperature, form.strength, form.seed or 0)
    return asked_of(
        served.data, served.histories, form.user_id, form.query, form.time, form.history,
        served.items_of(form.exclude, "exclude"),
        None if form.allow is None else served.items_of(form.allow, "allow"),
        form.exclude_seen, noise,
    )  # fmt: skip


def _ready(served: Served, ask: Ask, noise: str | None = None) -> _Ready:
    form, before = ask.form, ask.before
    passed = [] if before is None else [served.data.catalogue.number(id_) for id_ in before.asked["drawn"]]
    if noise is None:
        noise = "recommend" if form.seed is not None else ask.id
        noise = noise if before is None else before.asked["noise"]
    asked = request_of(served, form, noise)
    given = form.method or (None if before is None else before.asked["method_key"])
    method, why = (given, "") if given else served.recommender.default_method(asked.request, form.sequence)
    if asked.request.query:
        served.methods.refuse_words(method)
    known = [item for item in passed if item is not None]
    n, caps = form.n + len(known), tuple(sorted((form.caps or {}).items()))
    alike: int = n  # of how many items the pass is planned: lists of other lengths may be heads of one search
    if not form.sequence and not caps:
        alike = 0 if form.temperature > 0 else max(n, BEAM)
    how = (form.temperature, form.seed or 0, form.sequence)
    return _Ready(ask, asked, (method, form.strength, *how, caps, alike), n, noise, known, why)


def _each(served: Served, group: list[_Ready]) -> list[Answered | Exception]:
    """One pass; where it fails, each alone, so that the fault stays with whom it is of."""
    try:
        return [*_together(served, group)]
    except Exception as error:
        if len(group) == 1:
            return [error]
        return [found for ready in group for found in _each(served, [ready])]


def _together(served: Served, group: list[_Ready]) -> list[Answered]:
    method, strength, temperature, seed, sequence, limits, _ = group[0].key
    recommender, caps = served.recommender.method(method, strength), caps_of(served.data, dict(limits))
    requests = [ready.request for ready in group]
    drawn = temperature > 0 and not sequence and recommender.draws
    mass = masses(recommender, requests, temperature) if drawn else np.ones(len(requests))
    found = answer(recommender, requests, max(ready.n for ready in group), temperature, seed, sequence, caps)
    paths = paths_of(recommender, requests, [ready.ask.form.user_id for ready in group])
    return [
        _answered(served, recommender, ready, ranked, path, float(one))
        for ready, ranked, path, one in zip(group, found, paths, mass, strict=True)
    ]


def _answered(
    served: Served, recommender: AnyRecommender, ready: _Ready, ranked: Ranked, path: str, mass: float
) -> Answered:
    form, drawn = ready.ask.form, Ranked(ranked.items[: ready.n], ranked.scores[: ready.n], ranked.proven)
    caps, n_items = caps_of(served.data, form.caps), len(served.data.catalogue)
    chance = partial(
        probabilities, recommender, ready.request,
        n_items=n_items, temperature=form.temperature, sequence=form.sequence, caps=caps, mass=mass,
    )  # fmt: skip
    skip, behind, draws = ready.passed, drawn, form.temperature > 0 and recommender.draws
    if not skip:
        chances = chance(drawn)
    elif (draws or form.sequence) and _is_longer(served, ready, drawn):
        chances = chance(drawn)  # the same list goes on
        behind = _part(drawn, np.arange(len(drawn.items)) >= len(skip))
        chances = None if chances is None else chances[len(skip) :]
    elif form.sequence or (caps is not None and draws):
        raise Moved("what the list was made from has changed since its first page; ask for a new list")
    elif draws and ready.noise != ready.ask.id:  # other probabilities by now, so other draws
        again = _ready(served, ready.ask, ready.ask.id)
        one = answer(recommender, [again.request], again.n, form.temperature, again.key[3])[0]
        return _answered(served, recommender, again, one, path, mass)
    else:
        behind = _part(drawn, ~np.isin(drawn.items, skip))
        behind = _part(behind, np.arange(len(behind.items)) < form.n)
        chances = chance(behind, passed=np.array(skip))
    return _told(served, recommender, ready, behind, chances, path)


def _is_longer(served: Served, ready: _Ready, drawn: Ranked) -> bool:
    """Is it the list of the pages before, and more? Its items come first, as probable as they were: by other probabilities the same
    numbers may draw the same items first, and what comes behind those is then a draw from neither.
    """
    skip, catalogue = ready.passed, served.data.catalogue
    if drawn.items[: len(skip)].tolist() != skip:
        return False
    was = {item.item_id: item.score for item in ready.ask.before.items} if ready.ask.before else {}
    same = SAME_NATS / min(ready.ask.form.temperature or 1.0, 1.0)
    now = zip(skip, drawn.scores[: len(skip)].tolist(), strict=True)
    return all(abs(was.get(str(catalogue.item_ids[item]), score) - score) < same for item, score in now)


class Moved(ValueError):
    """A list cannot be gone on with."""


def _part(ranked: Ranked, which: np.ndarray) -> Ranked:
    return Ranked(ranked.items[which], ranked.scores[which], ranked.proven)


def _told(
    served: Served,
    recommender: AnyRecommender,
    ready: _Ready,
    drawn: Ranked,
    chances: np.ndarray | None,
    path: str,
) -> Answered:
    form, catalogue = ready.ask.form, served.data.catalogue
    chance_of = {} if chances is None else dict(zip(drawn.items.tolist(), chances.tolist(), strict=True))
    ranked = ordered(drawn, form.order, lambda: served.recommender.item_vectors)
    items = ranked.items.tolist()
    path = served.recommender.path_to(ready.key[0], ready.asked, drawn, path)
    before = [] if ready.ask.before is None else ready.ask.before.asked["drawn"]
    asked = form.model_dump(mode="json", exclude_defaults=True) | {
        "drawn": [*before, *(str(catalogue.item_ids[item]) for item in drawn.items.tolist())],
        "noise": ready.noise,
        "moment": ready.request.time,
        "events_seen": served.seq,
        "method_key": ready.key[0],
        "run": served.path.name,
    }
    user_id = None if form.user_id is None else str(form.user_id)
    rows = [
        ShownItem(str(catalogue.item_ids[item]), float(score), chance_of.get(item))
        for item, score in zip(items, ranked.scores.tolist(), strict=True)
    ]
    shown = ShownList(ready.ask.id, user_id, time.time(), ready.ask.arm, recommender.name, path, asked, rows)
    legal = ~np.isin(ranked.items, ready.request.exclude)
    if ready.asked.allowed is not None:
        legal &= ready.asked.allowed.holds(ranked.items)
    return Answered(
        shown,
        [catalogue.titles[item] for item in items],
        {name: counted.count for name, counted in ready.asked.ignored.items()},
        "cold start" in path,
        int((~legal).sum()),
        ready.why,
        served.change,
    )

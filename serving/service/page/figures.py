"""What stands on the page: lists of all methods for one request, the path to an item with its probabilities, arms of experiments."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.product import Product
from evaluation.softmax import SoftmaxOver
from recsys.recommender import Request
from serving.answering.propensities import MOST_SUMMED, Distribution
from serving.answering.untrained import NO_CONTEXT
from serving.service.answers import Answered, Ask, answer_all, request_of
from serving.service.forms import CodeForm, RecommendForm
from serving.service.routes.items import codes_in_words, nodes_of
from serving.service.routes.people import history_of
from serving.service.served import Served
from serving.state.arms import ArmReport, compare_arms
from serving.state.store import State

NEAR = 8  # items that a user's vector is near to
FIRST = (NO_CONTEXT, "e2p")  # methods that stand side by side first: what does E2P change?


@dataclass(frozen=True)
class Column:
    """One method's list, or why there is none."""

    key: str
    name: str
    path: str
    items: list[dict[str, Any]]


@dataclass(frozen=True)
class Side:
    """Everything about one request on the page of a user."""

    known: bool
    is_clock: bool  # times of the history are Unix seconds, not an order
    history: list[dict[str, Any]]
    columns: list[Column]
    near: list[dict[str, Any]]  # items whose vectors are nearest to the user's, by cosine


def methods_in_order(served: Served) -> list[str]:
    """Methods of the run, No Context and E2P first."""
    there = served.methods.available()
    return [*(key for key in FIRST if key in there), *(key for key in there if key not in FIRST)]


def side_by_side(served: Served, form: RecommendForm) -> Side:
    """The lists of all methods for a request. Raises `ValueError` for a request that no method can be asked."""
    asked = request_of(served, form, "page")
    keys = methods_in_order(served)
    answers = answer_all(served, [Ask(form.model_copy(update={"method": key})) for key in keys])
    columns = []
    before: dict[str, int] = {}
    for key, answer in zip(keys, answers, strict=True):
        name = served.methods.name(key)
        if isinstance(answer, Answered):
            items = [_row(answer, place, before) for place in range(len(answer.titles))]
            columns.append(Column(key, name, answer.shown.path, items))
            if key == NO_CONTEXT:
                before = {item.item_id: place for place, item in enumerate(answer.shown.items)}
        elif isinstance(answer, ValueError):
            columns.append(Column(key, name, str(answer), []))
        else:
            raise answer
    known, history = history_of(served, str(form.user_id)) if form.user_id is not None else (False, [])
    return Side(known, served.is_clock, history, columns, near(served, asked.request))


def near(served: Served, request: Request) -> list[dict[str, Any]]:
    """The items that the user's vector of the moment is nearest to; none without a vector, or where items have none in its space."""
    vectors, known = served.methods.users.vectors([request])
    items = served.conditioning_items
    if not known[0] or items.shape[1] != vectors.shape[1]:
        return []
    user = vectors[0] / max(float(np.linalg.norm(vectors[0])), 1e-12)
    cosines = items @ user
    catalogue = served.data.catalogue
    return [
        {"item_id": str(catalogue.item_ids[at]), "title": catalogue.titles[at], "cosine": float(cosines[at])}
        for at in np.argsort(-cosines, kind="stable")[:NEAR].tolist()
    ]


def _row(answer: Answered, place: int, before: dict[str, int]) -> dict[str, Any]:
    """An item, and how it moved against No Context: places up (positive), or "new"."""
    item = answer.shown.items[place]
    moved: Any = None
    if before:
        moved = before[item.item_id] - place if item.item_id in before else "new"
    return {"item_id": item.item_id, "title": answer.titles[place], "score": item.score,
            "probability": item.probability, "moved": moved}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One code on the way to an item: its probability at its parent, and of all below it."""

    code: CodeForm
    here: float
    below: float


@dataclass(frozen=True)
class Why:
    """Why an item: the way to it, its rank, experts of a product, and what a request's conditions removed."""

    item_id: str
    title: str
    method: str
    rank: int | None  # None: it is not available
    probability: float | None
    steps: list[Step]
    experts: list[dict[str, Any]] = field(default_factory=list)
    removed: list[dict[str, Any]] = field(default_factory=list)


def why(served: Served, form: RecommendForm, item_id: str) -> Why | None:
    """None for an item that the run does not know. Raises `ValueError` for a request that cannot be asked."""
    catalogue = served.data.catalogue
    item = catalogue.number(item_id)
    if item is None:
        return None
    asked = request_of(served, form, "page")
    key = form.method or methods_in_order(served)[0]
    recommender = served.recommender.method(key, form.strength)
    codes = codes_in_words(served, item)
    if not isinstance(recommender, Distribution) or len(catalogue) > MOST_SUMMED:
        return Why(
            item_id,
            catalogue.titles[item],
            recommender.name,
            None,
            None,
            [Step(code, np.nan, np.nan) for code in codes],
        )
    p = np.exp(recommender.log_probs([asked.request], form.temperature or 1.0)[0])
    available = bool(p[item] > 0)
    return Why(
        item_id,
        catalogue.titles[item],
        recommender.name,
        int((p > p[item]).sum()) + 1 if available else None,
        float(p[item]),
        _steps(served, item, codes, p),
        experts_of(recommender, asked.request, item, p > 0),
        _removed(served, recommender, form, asked.request),
    )


def _steps(served: Served, item: int, codes: list[CodeForm], p: np.ndarray) -> list[Step]:
    below = [items_below(served, depth, node) for depth, node in nodes_of(served, item)]
    masses = [1.0, *(float(p[items].sum()) for items in below)]
    return [
        Step(code, mass / before if before > 0 else 0.0, mass)
        for code, before, mass in zip(codes, masses[:-1], masses[1:], strict=True)
    ]


def items_below(served: Served, depth: int, node: int) -> list[int]:
    """The items below a node."""
    trie = served.methods.model.trie
    first, last = int(trie.leaf_start[depth][node]), int(trie.leaf_start[depth][node + 1])
    return trie.leaf_item[first:last].tolist()


def experts_of(recommender: Any, request: Request, item: int, available: np.ndarray) -> list[dict[str, Any]]:
    """What each expert of a product adds to the logarithm of the item's odds against the mean of what is available."""
    if not isinstance(recommender, SoftmaxOver) or not isinstance(recommender.scorer, Product):
        return []
    nats: dict[str, float] = {}
    for weight, scorer in zip(recommender.scorer.weights, recommender.scorer.scorers, strict=True):
        scores = np.asarray(scorer.scores([request])[0], float)
        nats[scorer.name] = float(weight * (scores[item] - scores[available].mean()))
    whole = sum(map(abs, nats.values())) or 1.0
    return [{"name": name, "nats": value, "share": abs(value) / whole} for name, value in nats.items()]


def _removed(served: Served, recommender: Any, form: RecommendForm, request: Request) -> list[dict[str, Any]]:
    """How many items the request's conditions removed, and how probable those would have been."""
    free = form.model_copy(update={"exclude": (), "allow": None, "exclude_seen": False})
    p = np.exp(recommender.log_probs([request_of(served, free, "page").request], form.temperature or 1.0)[0])
    every = np.arange(len(p))
    groups = {"excluded, or had before": np.isin(every, request.exclude)}
    if request.allow is not None:
        groups["not on the allow-list"] = ~np.isin(every, request.allow)
    return [
        {"what": what, "items": int(gone.sum()), "probability": float(p[gone].sum())}
        for what, gone in groups.items()
        if gone.any()
    ]


def arms(state: State, experiment: str, rewarded: Collection[str]) -> ArmReport | None:
    """What the arms of an experiment have earned so far; None where no list was shown in one."""
    try:
        return compare_arms(state, experiment, rewarded)
    except ValueError:
        return None

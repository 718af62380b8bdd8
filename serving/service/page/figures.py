"""What stands on the page: lists of all methods for one request, the path to an item with its probabilities, nodes of the tree."""

from __future__ import annotations

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
from serving.service.routes.items import codes_in_words, nodes_of, telling
from serving.service.routes.people import history_of
from serving.service.served import Served

FIRST = (NO_CONTEXT, "e2p")  # methods that stand side by side first: what does E2P change?
MOST_CHILDREN = 256  # of a node that are shown


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


def methods_in_order(served: Served) -> list[str]:
    """Methods of the run, No Context and E2P first."""
    there = served.methods.available()
    return [*(key for key in FIRST if key in there), *(key for key in there if key not in FIRST)]


def side_by_side(served: Served, form: RecommendForm) -> Side:
    """The lists of all methods for a request. Raises `ValueError` for a request that no method can be asked."""
    request_of(served, form, "page")
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
    return Side(known, served.is_clock, history, columns)


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
    masses = [1.0, *(mass_below(served, depth, node, p) for depth, node in path_of(served, item))]
    return [
        Step(code, mass / before if before > 0 else 0.0, mass)
        for code, before, mass in zip(codes, masses[:-1], masses[1:], strict=True)
    ]


def path_of(served: Served, item: int) -> list[tuple[int, int]]:
    """Depth and node of each code of an item."""
    return nodes_of(served, item)


def mass_below(served: Served, depth: int, node: int, p: np.ndarray) -> float:
    """The probability of all items below a node; p [N]."""
    return float(p[items_below(served, depth, node)].sum())


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


@dataclass(frozen=True)
class Child:
    """A node of the tree, or an item at its end."""

    node: int
    code: int
    items: int
    words: list[str]
    probability: float | None
    item_id: str | None = None
    title: str | None = None


@dataclass(frozen=True)
class Tree:
    """A node, the way to it, and its children, the most probable first."""

    depth: int
    node: int
    trail: list[tuple[int, int, int]]  # depth, node, code
    children: list[Child]
    items: int
    levels: list[dict[str, Any]]
    collisions: int
    unseen: int  # items that no event of the run's data has


def tree(served: Served, depth: int, node: int, form: RecommendForm) -> Tree | None:
    """A node with its children for a request; None where there is no such node."""
    trie, catalogue = served.methods.model.trie, served.data.catalogue
    if not 0 <= depth < trie.n_levels or not 0 <= node < trie.n_nodes[depth]:
        return None
    p = None
    key = form.method or next((key for key in reversed(FIRST) if key in served.methods.available()), None)
    if key is not None and len(catalogue) <= MOST_SUMMED:
        recommender = served.recommender.method(key, form.strength)
        if isinstance(recommender, Distribution):
            request = request_of(served, form, "page").request
            p = np.exp(recommender.log_probs([request], form.temperature or 1.0)[0])
    first, last = int(trie.child_start[depth][node]), int(trie.child_start[depth][node + 1])
    children = [_child(served, depth + 1, one, p) for one in range(first, min(last, first + MOST_CHILDREN))]
    children.sort(key=lambda child: -(child.probability or 0.0))
    trail, at = [], node
    for above in range(depth, 0, -1):
        trail.append((above, at, int(trie.code[above - 1][at])))
        at = int(trie.parent[above - 1][at])
    levels = [
        {"level": level + 1, "nodes": int(trie.n_nodes[level + 1]), "codes": int(size),
         "used": len(np.unique(trie.code[level][:].cpu().numpy()))}
        for level, size in enumerate(trie.sizes)
    ]  # fmt: skip
    seen = np.zeros(len(catalogue), bool)
    seen[served.data.items] = True
    inner = len(items_below(served, depth, node))
    collisions = len(catalogue) - int(trie.n_nodes[-1])
    return Tree(depth, node, trail[::-1], children, inner, levels, collisions, int((~seen).sum()))


def _child(served: Served, depth: int, node: int, p: np.ndarray | None) -> Child:
    trie, catalogue = served.methods.model.trie, served.data.catalogue
    items = items_below(served, depth, node)
    probability = None if p is None else float(p[items].sum())
    one = items[0] if len(items) == 1 else None
    return Child(
        node,
        int(trie.code[depth - 1][node]),
        len(items),
        telling(served, tuple(items)),
        probability,
        None if one is None else str(catalogue.item_ids[one]),
        None if one is None else catalogue.titles[one],
    )

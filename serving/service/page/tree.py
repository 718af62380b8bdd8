"""The tree of codes on the page: a node with its children, a picture of it that can be walked, and items that are new or have moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.answering.propensities import MOST_SUMMED, Distribution
from serving.service.answers import request_of
from serving.service.forms import RecommendForm
from serving.service.page.figures import FIRST, items_below
from serving.service.routes.items import telling
from serving.service.served import Served

MOST_CHILDREN = 256  # of a node that are shown
MOST_NEW = 20  # items without events that are named
WIDE, HIGH = 1000.0, 64.0  # of the picture, in its own units; a row
NARROWEST = 3.0  # a cell that is drawn; what is narrower is in the list alone
LETTER = 7.5  # a letter of a cell's label


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
class Cell:
    """A node in the picture: its place, width by items, and how dark it is by its probability."""

    row: int
    x: float
    y: float
    width: float
    label: str  # as much as has room
    title: str
    darkness: float  # 0 to 1: the square root of its probability in that of the likeliest of its row
    child: Child


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
    new: list[tuple[str, str]]  # some of them: id, title
    picture: list[Cell]
    method: str | None  # whose probabilities these are, and its name; None: there are none
    name: str | None


def tree(served: Served, depth: int, node: int, form: RecommendForm) -> Tree | None:
    """A node with its children for a request; None where there is no such node."""
    trie, catalogue = served.methods.model.trie, served.data.catalogue
    if not 0 <= depth < trie.n_levels or not 0 <= node < trie.n_nodes[depth]:
        return None
    p = by = None
    there = served.methods.available()
    key = form.method or next((key for key in reversed(FIRST) if key in there), None)
    if key is not None and len(catalogue) <= MOST_SUMMED:
        recommender = served.recommender.method(key, form.strength)
        if isinstance(recommender, Distribution):
            request = request_of(served, form, "page").request
            p, by = np.exp(recommender.log_probs([request], form.temperature or 1.0)[0]), key
    children = _children(served, depth, node, p)
    picture = _row_of(children, 0, 0.0, WIDE)
    for cell in [*picture]:
        if cell.child.item_id is None and depth + 1 < trie.n_levels:
            picture += _row_of(_children(served, depth + 1, cell.child.node, p), 1, cell.x, cell.width)
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
    unseen = np.flatnonzero(~seen)
    new = [(str(catalogue.item_ids[one]), catalogue.titles[one]) for one in unseen[-MOST_NEW:][::-1].tolist()]
    name = None if by is None else served.methods.name(by)
    return Tree(
        depth, node, trail[::-1], children, inner, levels, collisions, len(unseen), new, picture, by, name
    )


def _children(served: Served, depth: int, node: int, p: np.ndarray | None) -> list[Child]:
    """The children of a node at `depth`, the most probable first."""
    trie = served.methods.model.trie
    first, last = int(trie.child_start[depth][node]), int(trie.child_start[depth][node + 1])
    found = [_child(served, depth + 1, one, p) for one in range(first, min(last, first + MOST_CHILDREN))]
    return sorted(found, key=lambda child: -(child.probability or 0.0))


def _row_of(children: list[Child], row: int, x: float, width: float) -> list[Cell]:
    """Cells side by side over `width` from `x`, as wide as they have items."""
    whole, cells = sum(child.items for child in children), list[Cell]()
    most = max((child.probability or 0.0 for child in children), default=0.0)
    for child in children:
        own = width * child.items / whole
        if own >= NARROWEST:
            name = (
                child.title or f"{child.code}: {', '.join(word.split(': ', 1)[-1] for word in child.words)}"
            )
            chance = "" if child.probability is None else f", probability {child.probability:.4f}"
            room = int((own - 8) / LETTER)
            label = name if len(name) <= room else f"{name[: room - 1]}…" if room > 3 else ""
            dark = float(np.sqrt((child.probability or 0.0) / most)) if most > 0 else 0.0
            cells.append(
                Cell(row, x, row * HIGH, own, label, f"{name}, {child.items} items{chance}", dark, child)
            )
        x += own
    return cells


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

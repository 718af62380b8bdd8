"""`/v1/items`: an item, its codes in words, what is alike; and items by the words of their title."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Path, Query

from serving.answering.known import checked_id
from serving.service.forms import CatalogueItemForm, CodeForm, NeighbourForm
from serving.service.problems import Problem
from serving.service.routes.common import TheService, problems, scope
from serving.service.served import Served

NEIGHBOURS = 8
WORDS = 3  # values that tell a node apart
router = APIRouter(prefix="/v1/items", dependencies=scope("recommend"), tags=["items"])


@router.get("/{item_id}", responses=problems(404))
async def get_item(item_id: Annotated[str, Path(max_length=200)], service: TheService) -> CatalogueItemForm:
    """An item: its columns, the path of its codes in words, and what is alike."""
    found = checked_id(item_id, "item_id")
    form = await service.wait(service.batches.do(lambda served: item_form(served, found or "")))
    if form is None:
        raise Problem(404, "the run has no item of that id", "item_id")
    return form


@router.get("", responses=problems())
async def find_items(
    service: TheService,
    q: Annotated[str, Query(min_length=1, max_length=200)],
    most: Annotated[int, Query(ge=1, le=100)] = 20,
) -> list[dict[str, str]]:
    """Items whose title has the words, those that begin with them first."""
    return await service.wait(service.batches.do(lambda served: by_title(served, q, most)))


def by_title(served: Served, words: str, most: int) -> list[dict[str, str]]:
    """Items with `words` in their title."""
    wanted, catalogue = words.casefold(), served.data.catalogue
    found = [
        (not title.casefold().startswith(wanted), item)
        for item, title in enumerate(catalogue.titles)
        if wanted in title.casefold()
    ]
    return [
        {"item_id": str(catalogue.item_ids[item]), "title": catalogue.titles[item]}
        for _, item in sorted(found)[:most]
    ]


def item_form(served: Served, item_id: str) -> CatalogueItemForm | None:
    """An item; None where the run has none of that id."""
    catalogue = served.data.catalogue
    item = catalogue.number(item_id)
    if item is None:
        return None
    vectors = served.recommender.item_vectors
    lengths = np.linalg.norm(vectors, axis=1).clip(min=1e-12)
    alike = vectors @ vectors[item] / (lengths * lengths[item])
    alike[item] = -np.inf
    near = np.argsort(-alike, kind="stable")[: min(NEIGHBOURS, len(alike) - 1)]
    return CatalogueItemForm(
        item_id=str(catalogue.item_ids[item]),
        title=catalogue.titles[item],
        columns={name: list(column[item]) for name, column in catalogue.columns.items()},
        codes=codes_in_words(served, item),
        neighbours=[
            NeighbourForm(
                item_id=str(catalogue.item_ids[one]),
                title=catalogue.titles[one],
                similarity=float(alike[one]),
            )
            for one in near.tolist()
        ],
    )


def codes_in_words(served: Served, item: int) -> list[CodeForm]:
    """The path of an item's codes from the root: how many items share each node, and in what they differ from the rest."""
    trie, forms = served.methods.model.trie, []
    for depth, node in nodes_of(served, item):
        first, last = int(trie.leaf_start[depth][node]), int(trie.leaf_start[depth][node + 1])
        items = trie.leaf_item[first:last].tolist()
        code = int(trie.code[depth - 1][node])
        forms.append(CodeForm(level=depth, code=code, items=len(items), words=telling(served, tuple(items))))
    return forms


def nodes_of(served: Served, item: int) -> list[tuple[int, int]]:
    """Depth and node of each code of an item; of one that came after the training, of those codes that the trie knows."""
    trie, codes = served.methods.model.trie, served.methods.table.codes[item].tolist()
    found = []
    for depth in range(1, trie.n_levels + 1):
        try:
            found.append((depth, trie.find(codes[:depth])))
        except KeyError:  # no trained item has it
            break
    return found


def telling(served: Served, items: tuple[int, ...]) -> list[str]:
    """The values of the catalogue's columns that are most over-represented among `items` (by lift, of those that half of them have)."""
    of_all = served.values
    counts = Counter(value for item in items for value in served.values_of(item))
    n, every = len(items), len(served.data.catalogue)
    common = [
        (count / n / (of_all[value] / every), value) for value, count in counts.items() if 2 * count >= n
    ]
    return [value for _, value in sorted(common, key=lambda one: (-one[0], one[1]))[:WORDS]]

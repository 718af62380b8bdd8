"""Five real users side by side: what they had, what came next, and what retrieval, No Context, E2P and a product would list for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from evaluation.table.instances import Question
from recsys.seeds import rng
from serving.answering.methods import Methods
from serving.answering.requests import answer
from serving.answering.untrained import NO_CONTEXT
from serving.config.combine import ALONE, PRODUCT

PEOPLE, LISTED, SHOWN_OF_HISTORY = 5, 8, 8
RETRIEVERS = ("sasrec", "embedding_retrieval", "item_knn", "popularity")


def people_lists(methods: Methods, question: Question, default: Mapping[str, Any] | None) -> dict[str, Any]:
    """Test instances of users from the least to the most active, seeded: one a fifth of the users.

    `users`, and a row for each of them in `user_id`, `events` (before the instance), `history` (the last titles, newest first), `target`
    (its title) and `lists` (a list of titles for each of `rows`, padded with ""); `rows`: row's name -> the method's key.
    """
    lengths = np.array([len(one.history) for one in question.requests])
    known = np.flatnonzero([one.user is not None for one in question.requests])
    mixed = rng(0, "people").permutation(known)
    mixed = mixed[np.unique(question.users[mixed], return_index=True)[1]]  # one instance a user
    in_order = mixed[np.argsort(lengths[mixed], kind="stable")]
    parts = [part for part in np.array_split(in_order, PEOPLE) if len(part)]
    chosen = [int(part[len(part) // 2]) for part in parts]
    requests = [question.requests[at] for at in chosen]
    catalogue = methods.dataset.catalogue
    keys = _columns(methods, default)

    def titles(items: np.ndarray) -> list[str]:
        return [catalogue.titles[item] or str(catalogue.item_ids[item]) for item in items]

    columns = [
        [titles(found.items) for found in answer(methods.build(key), requests, LISTED)] for key in keys
    ]
    return {
        "users": [int(question.users[at]) for at in chosen],
        "user_id": [str(methods.dataset.user_ids[question.users[at]]) for at in chosen],
        "events": [int(lengths[at]) for at in chosen],
        "history": [_padded(titles(one.history[::-1][:SHOWN_OF_HISTORY])) for one in requests],
        "target": titles(question.targets[chosen]),
        "lists": [[_padded(column[place]) for column in columns] for place in range(len(chosen))],
        "rows": {methods.name(key): key for key in keys},
    }


def _columns(methods: Methods, default: Mapping[str, Any] | None) -> list[str]:
    """Retrieval as validation prefers it, No Context, E2P, and the first product with a generator (or the experts')."""
    available = methods.available()
    ranked = (
        []
        if default is None
        else [one["key"] for one in default["kinds"].get("known", {"ranked": []})["ranked"]]
    )
    retrieval = next((key for key in (*ranked, *RETRIEVERS) if key in RETRIEVERS and key in available), None)
    words = [] if methods.products is None else methods.products.for_queries()
    products = [key for key in methods.product_names if key not in words and key.endswith(PRODUCT)]
    product = next((key for key in products if key != ALONE), next(iter(products), None))
    return [key for key in (retrieval, NO_CONTEXT, "e2p", product) if key is not None and key in available]


def _padded(titles: list[str]) -> list[str]:
    return (titles + [""] * LISTED)[:LISTED]

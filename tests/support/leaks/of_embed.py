"""Leaks of graphs, sequences, neighbours, and of the semantic IDs that are made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from recsys.data.dataset import Dataset
from recsys.data.splits import FIT, PERSONALIZE, TEST, VALIDATION
from recsys.embeddings import embed, heterogeneous, sequence_parts
from recsys.embeddings.embed import _Work
from recsys.embeddings.sasrec import Ranking
from recsys.embeddings.user_vectors import NeighbourVectors
from semantic_ids import tokenize_items
from tests.support.leaks.mutant import (
    EARLIER,
    LATER,
    mutant,
    test_of,
    wrapped,
)


def _edges_of_test(m: pytest.MonkeyPatch) -> None:
    def planted(data: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        learned = np.isin(data.roles, (FIT, PERSONALIZE, TEST))
        return data.users[learned], data.items[learned], data.weighed(learned)

    m.setattr(sequence_parts, "_training_edges", planted)


@mutant(
    "item-kNN learns test edges",
    "recsys.embeddings.sequence_parts",
    None,
    "scores of item_knn",
    looks="baselines",
)
def _(m: pytest.MonkeyPatch) -> None:
    _edges_of_test(m)


@mutant(
    "item-kNN's numbers come of test edges",
    "recsys.embeddings.sequence_parts",
    "embed",
    "embed/embed.json:item_knn",
)
def _(m: pytest.MonkeyPatch) -> None:
    _edges_of_test(m)


@mutant(
    "item-kNN's two numbers chosen on test",
    "recsys.embeddings.embed: run",
    "embed",
    "embed/embed.json:item_knn.half_life_items",
)
def _(m: pytest.MonkeyPatch) -> None:
    def of(honest: Any) -> Any:
        return lambda config, data, requests, targets, k: honest(config, data, *test_of(data), k)

    wrapped(m, sequence_parts, "item_knn_part", of)


def _asks_test(m: pytest.MonkeyPatch, name: str, when: Callable[..., bool]) -> None:
    """A method of `embed`'s work reads test instances where it asks for validation's."""

    def of(honest: Any) -> Any:
        def planted(self: _Work, *given: Any) -> Any:
            if when(self, *given):
                self._instances = lambda role: _Work._instances(self, TEST)  # type: ignore[method-assign]
            try:
                return honest(self, *given)
            finally:
                self.__dict__.pop("_instances", None)

        return planted

    wrapped(m, _Work, name, of)


@mutant(
    "retrieval's half-life chosen on test",
    "recsys.embeddings.embed: _refit",
    "embed",
    "embed/embed.json:retrieval.half_life_items",
)
def _(m: pytest.MonkeyPatch) -> None:
    _asks_test(m, "_choose_half_life", lambda work, *given: given[2] is work.config.half_lives)


@mutant(
    "the users' half-life chosen on test",
    "recsys.embeddings.embed: _user_vectors",
    "embed",
    "embed/embed.json:half_life_items",
)
def _(m: pytest.MonkeyPatch) -> None:
    _asks_test(m, "_choose_half_life", lambda work, *given: given[2] is work.config.user_half_lives)


@mutant(
    "LightGCN's best step chosen on test",
    "recsys.embeddings.embed: _best_lightgcn",
    "embed",
    "embed/user_messages.safetensors",
)
def _(m: pytest.MonkeyPatch) -> None:
    _asks_test(m, "_best_lightgcn", lambda work, name: True)


@mutant(
    "retrieval's LightGCN learns test edges",
    "recsys.embeddings.embed: ROLES",
    "embed",
    "embed/retrieval.safetensors",
)
def _(m: pytest.MonkeyPatch) -> None:
    m.setitem(embed.ROLES, embed.REFIT, (FIT, PERSONALIZE, TEST))


@mutant(
    "the conditioning graph learns Stage 2's targets",
    "recsys.embeddings.embed: ROLES",
    "embed",
    "embed/user_messages.safetensors",
    change=EARLIER,
)
def _(m: pytest.MonkeyPatch) -> None:
    m.setitem(embed.ROLES, embed.GENERATOR, (FIT, PERSONALIZE))


@mutant(
    "the conditioning graph learns validation",
    "recsys.embeddings.embed: ROLES",
    "embed",
    "embed/user_messages.safetensors",
    change=LATER,
)
def _(m: pytest.MonkeyPatch) -> None:
    m.setitem(embed.ROLES, embed.GENERATOR, (FIT, VALIDATION))


@mutant(
    "the conditioning graph learns tags of every moment",
    "recsys.embeddings.heterogeneous: _first_not_fit",
    "embed",
    "embed/user_messages.safetensors",
)
def _(m: pytest.MonkeyPatch) -> None:
    m.setattr(heterogeneous, "_first_not_fit", lambda data: np.full(data.n_users, heterogeneous.NEVER))


@mutant(
    "a tag counts at the moment at which it is given",
    "recsys.embeddings.user_vectors: NeighbourVectors",
    None,
    "scores of e2p",
    looks="answers",
)
def _(m: pytest.MonkeyPatch) -> None:
    def of(honest: Any) -> Any:
        return lambda self, asked: honest(self, [replace(one, time=one.time + 1) for one in asked])

    wrapped(m, NeighbourVectors, "_of", of)


@mutant(
    "SASRec trained on test",
    "recsys.embeddings.sequence_parts: ROLES",
    "embed",
    "embed/sasrec_retrieval.safetensors",
)
def _(m: pytest.MonkeyPatch) -> None:
    m.setitem(sequence_parts.ROLES, sequence_parts.RETRIEVAL, (FIT, PERSONALIZE, TEST))


@mutant(
    "the users' SASRec learns Stage 2's targets",
    "recsys.embeddings.sequence_parts: ROLES",
    "embed",
    "embed/sasrec_users.safetensors",
    change=EARLIER,
)
def _(m: pytest.MonkeyPatch) -> None:
    m.setitem(sequence_parts.ROLES, sequence_parts.USERS, (FIT, PERSONALIZE))


@mutant(
    "SASRec's early stopping on test",
    "recsys.embeddings.sequence_parts: _held_out",
    "embed",
    "embed/curves.json:SASRec for retrieval.validation",
)
def _(m: pytest.MonkeyPatch) -> None:
    m.setattr(
        sequence_parts, "_held_out", lambda config, data, seed: Ranking(*test_of(data), config.max_items)
    )


@mutant(
    "semantic IDs of the refit's vectors",
    "semantic_ids.tokenize_items",
    "tokenize",
    "tokenize/semantic_ids.safetensors",
    change=EARLIER,
)
def _(m: pytest.MonkeyPatch) -> None:
    def of(honest: Any) -> Any:
        return lambda path: (
            honest(path) | {"collaborative": honest(path.with_name("retrieval.safetensors"))["items"]}
        )

    wrapped(m, tokenize_items, "load_file", of)

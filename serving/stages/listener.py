"""The listener that judges a music table: a predictor fitted on lists that no prefix has learned from.

It compares users and items in the space of the conditioning vectors, so rows that read those vectors speak
its language; affinity is there because its space is another. Popularity is counted over FIT events alone:
what the predictor is fitted on would else hold its own label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.engagement.features import ItemSpace, Shown, unit_rows
from evaluation.engagement.predictor import EngagementPredictor, fit_predictors
from evaluation.engagement.quality import predictor_quality
from evaluation.music.judge import PlaylistJudge
from llm.stage1.records import BackboneEncoder
from recsys.data.phrases import Phrases
from recsys.data.splits import FIT
from recsys.data.text_vectors import TextEncoder
from recsys.embeddings.embed import load_conditioning_items, load_item_vectors
from recsys.engagement.shown_lists import PREDICTOR, PREDICTOR_VALIDATION, TEST_LISTS, ShownLists
from recsys.recommender import Request
from serving.answering.methods import Methods

LONGEST_TEXT = 64  # tokens of an item's text, and of a query, that a vector reads


@dataclass(frozen=True, eq=False)
class Listener:
    """The predictor, what it is worth (`quality`, ready for JSON), the test requests,
    and the judge of answers to them.
    """

    predictor: EngagementPredictor
    quality: dict[str, Any]
    requests: list[Request]
    users: np.ndarray  # [R] whose request each is; distinct negative numbers for unknown users
    judge: PlaylistJudge


def fit_listener(methods: Methods, encoder: str, seed: int) -> Listener:
    """Fit on PREDICTOR lists, choose and calibrate on PREDICTOR_VALIDATION lists, measure on TEST lists.

    Affinity is in the retrieval baseline's space: its own LightGCN, which neither prefix nor predictor reads.
    """
    data, lists = methods.dataset, ShownLists.load(methods.run)
    encode = _text_encoder(methods, encoder)
    texts = sorted(set(lists.queries))
    of_text = dict(zip(texts, encode(texts, "queries"), strict=True))
    vectors = load_item_vectors(methods.run)
    own_text = encoder == methods.config.embed.text_encoder and "text" in vectors
    collaborative = load_conditioning_items(methods.run)
    if collaborative.shape[1] != methods.users.dim:
        raise ValueError(
            f"the predictor compares users and items in one space, but user vectors have {methods.users.dim} "
            f"dimensions and item vectors {collaborative.shape[1]}; bring both embeddings, or neither"
        )
    space = ItemSpace(
        collaborative=collaborative,
        text=vectors["text"] if own_text else encode(data.catalogue.texts(), "item texts"),
        popularity=np.bincount(data.items[data.roles == FIT], minlength=data.n_items),
    )

    def shown(part: int) -> tuple[Shown, list[Request]]:
        requests = lists.requests(lists.of(part), data)
        users, known = methods.users.vectors(requests)
        queries = np.stack([of_text[request.query or ""] for request in requests])
        return Shown.of(lists, part, users, known, queries), requests

    train, _ = shown(PREDICTOR)
    fitted = fit_predictors(train, shown(PREDICTOR_VALIDATION)[0], space, seed)
    test, requests = shown(TEST_LISTS)
    held_out = lists.held_out[lists.of(TEST_LISTS)]
    groups = {"queries that training may read": ~held_out, "held-out queries": held_out}
    quality = predictor_quality(fitted, train, test, space, seed, groups)
    return Listener(
        fitted.chosen,
        quality,
        requests,
        units(test.users),
        _judge(methods, fitted.chosen, space, test, requests, held_out),
    )


def units(users: np.ndarray) -> np.ndarray:
    """Users [R] with a number of its own for each request of nobody known (−1)."""
    return np.where(users < 0, -1 - np.arange(len(users)), users)


def _judge(
    methods: Methods,
    predictor: EngagementPredictor,
    space: ItemSpace,
    test: Shown,
    requests: list[Request],
    held_out: np.ndarray,
) -> PlaylistJudge:
    phrases = Phrases(methods.dataset)
    matches = {query: phrases.matching(query) for query in {request.query or "" for request in requests}}
    none = np.zeros(methods.dataset.n_items, bool)
    carriers = [
        np.flatnonzero(none if (match := matches[request.query or ""]) is None else match)
        for request in requests
    ]
    users, known = np.zeros((len(requests), 0), np.float32), np.zeros(len(requests), bool)
    items = None
    if "retrieval" in methods.run.read_json(
        "embed", "embed.json"
    ):  # else retrieval reads the prefix's own vectors
        users, known = methods.retrieval.users.vectors(requests)
        items = methods.retrieval.items
    return PlaylistJudge(predictor, space, test, users, known, items, carriers, held_out)


def affinity_correlation(judge: PlaylistJudge) -> float | None:
    """Rank correlation, over shown test items, of user–item cosines in the affinity space
    and in the conditioning space.
    """
    from scipy.stats import spearmanr

    if judge.affinity_items is None:
        return None
    test, of = judge.test, judge.test.list_of_item()
    there = (judge.affinity_known & test.known)[of]
    of, items = of[there], test.items[there]
    ours = (unit_rows(test.user_vectors)[of] * unit_rows(judge.space.collaborative)[items]).sum(1)
    other = (unit_rows(judge.affinity_users)[of] * unit_rows(judge.affinity_items)[items]).sum(1)
    return float(spearmanr(ours, other).statistic)


def _text_encoder(methods: Methods, encoder: str):
    """texts, label -> unit vectors [n, e]: a sentence encoder,
    or the mean of the backbone's own token embeddings.
    """
    if encoder == "backbone":
        backbone = BackboneEncoder(methods.model, LONGEST_TEXT)
        return lambda texts, label: backbone(texts)
    sentences = TextEncoder(encoder, LONGEST_TEXT, methods.model.device)
    return lambda texts, label: sentences.encode(texts, label=label)

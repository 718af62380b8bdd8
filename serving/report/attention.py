"""Attention over a user's history as a picture (TAP-PER, Figure 3): with trained time biases, and without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evaluation.report.curves import attention_strips
from llm.decoding.recommender import SidRecommender
from llm.methods.tap_per import TapPer, TapPerConfig
from recsys.recommender import Request
from serving.answering.recommender import Recommender
from serving.answering.requests import request_of


@dataclass(frozen=True)
class Attention:
    """`weights`: α [n] by scorer; `items` [n] of the history, oldest first;
    `days` [n] before the question.
    """

    weights: dict[str, np.ndarray]
    items: np.ndarray
    days: np.ndarray

    def picture(self, title: str) -> bytes:
        return attention_strips(self.weights, self.days, title)

    def top(self, service: Recommender, k: int) -> list[dict[str, Any]]:
        """The k records that the first scorer looks at most: title, days ago, and α of every scorer."""
        catalogue = service.methods.dataset.catalogue
        first = next(iter(self.weights.values()))
        return [
            {
                "item_id": str(catalogue.item_ids[self.items[at]]),
                "title": catalogue.titles[self.items[at]],
                "days_ago": float(self.days[at]),
            }
            | {name: float(alpha[at]) for name, alpha in self.weights.items()}
            for at in np.argsort(-first, kind="stable")[:k]
        ]


def attention_of(
    service: Recommender,
    user_id: str,
    method: str = "tap_per",
    query: str | None = None,
    time: int | str | None = None,
) -> Attention:
    """α of a trained P_q for what `recommend` would be asked: as trained, and with λ = 0 in the same scorer.

    Where the run has trained a variant of TAP-PER without both biases, it is shown too.
    Raises `ValueError` for a method without a P_q, an unknown user, or a user without a record.
    """
    config = service.methods.config.personalize.method(method)
    if not isinstance(config, TapPerConfig) or not config.records:
        raise ValueError(f"method {method!r} has no P_q, so there is no attention over a history to look at")
    recommender = service.method(method)
    request = request_of(service.methods.dataset, service.live.histories, user_id, query, time)
    if request.user is None:
        raise ValueError(f"user {user_id!r} is unknown to the run")
    if not len(request.history):
        raise ValueError(f"user {user_id!r} has no record before that moment: there is nothing to attend to")
    weights = {f"{config.name}, as trained": _alpha(recommender, request, True)}
    if config.time_decay or config.order_decay:
        weights[f"{config.name}, λ set to 0"] = _alpha(recommender, request, False)
    for other in service.methods.config.personalize.methods:
        if isinstance(other, TapPerConfig) and other.key != method and _is_twin_without_decay(other, config):
            weights[f"{other.name}, trained without λ"] = _alpha(service.method(other.key), request, True)
    module = _module(recommender)
    with torch.no_grad():
        histories = module.read([request])[2]
    return Attention(weights, histories.items.cpu().numpy(), histories.days.cpu().numpy())


def _is_twin_without_decay(other: TapPerConfig, config: TapPerConfig) -> bool:
    decays = other.time_decay or other.order_decay
    return other.records and not decays and other.prefilter == config.prefilter


def _alpha(recommender: Any, request: Request, biased: bool) -> np.ndarray:
    module = _module(recommender)
    assert module.p_q is not None
    with torch.no_grad():
        return module.p_q.attention(*module.read([request]), biased=biased).cpu().numpy()


def _module(recommender: Any) -> TapPer:
    assert isinstance(recommender, SidRecommender)
    assert isinstance(recommender.reading.personalizer, TapPer)
    return recommender.reading.personalizer

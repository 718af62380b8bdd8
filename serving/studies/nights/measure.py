"""What a run says of a night's events: the exact probability and rank of each, from the history strictly before it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from serving.answering.propensities import Distribution
from serving.answering.recommender import Recommender
from serving.answering.requests import asked_of

DRAWS, TOP = 30, 10
AT_ONCE = 64  # requests


def measure(
    service: Recommender, asked: pd.DataFrame, during: pd.DataFrame, method: str, sees_events: bool
) -> pd.DataFrame:
    """A row for each event that is asked about: user_id, is_new, hit (expected hit-rate@30 of its item), recall (is it among the ten
    best?), recall30, is_cold (nobody knew the user's history).

    `during` are the events of the night, which are history for what comes after them (in memory alone; nothing is trained on them),
    unless the run is one that `sees_events` no more. An item that the run cannot serve has probability 0.
    """
    data, histories = service.methods.dataset, service.live.histories
    if sees_events:
        during = during[during["user_id"].isin(asked["user_id"])]
        items = during["item_id"].map(data.catalogue.number)
        known = during[items.notna()]
        numbers = [histories.number(user_id) for user_id in known["user_id"]]
        there = items[items.notna()].to_numpy(np.int64)
        histories.add(known["user_id"].tolist(), numbers, there, known["timestamp"].to_numpy(np.int64))
    requests = [
        asked_of(data, histories, user_id, time=moment, request_id=f"night {at}").request
        for at, (user_id, moment) in enumerate(
            zip(asked["user_id"], asked["timestamp"].tolist(), strict=True)
        )
    ]
    targets = [data.catalogue.number(item_id) for item_id in asked["item_id"]]
    recommender = service.method(method)
    assert isinstance(recommender, Distribution)
    hit, rank = np.zeros(len(asked)), np.full(len(asked), len(data.catalogue))
    for start in range(0, len(requests), AT_ONCE):
        rows = np.asarray(recommender.log_probs(requests[start : start + AT_ONCE], 1.0))
        for at, row in enumerate(rows, start):
            target = targets[at]
            if target is not None and np.isfinite(row[target]):
                hit[at] = 1 - (1 - min(np.exp(row[target]), 1.0)) ** DRAWS
                rank[at] = (row > row[target]).sum()
    return pd.DataFrame(
        {
            "user_id": asked["user_id"].to_numpy(),
            "is_new": asked["is_new"].to_numpy(),
            "is_cold": [not len(request.history) for request in requests],
            "hit": hit,
            "recall": (rank < TOP).astype(float),
            "recall30": (rank < DRAWS).astype(float),
        }
    )

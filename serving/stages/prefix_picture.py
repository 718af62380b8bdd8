"""The data of the report's picture of E2P: places of users' vectors and of their prefixes, by taste."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from evaluation.projection import tsne_places
from recsys.recommender import Request
from recsys.seeds import rng
from serving.answering.methods import Methods

TSNE_USERS = 600


def prefix_picture(methods: Methods) -> dict | None:
    """Places [U, 2] of users' vectors as of the end of the data and of their E2P prefixes, with each user's most peculiar taste.

    What is kept of a person is two points, and no vector; they are found here, so that a report is drawn in a moment.
    """
    if "e2p" not in methods.available():
        return None
    data = methods.dataset
    chosen = np.sort(rng(0, "t-SNE").permutation(data.n_users)[:TSNE_USERS])
    requests = [
        Request(f"u{user}", int(user), data.end, *data.before(int(user), data.end)) for user in chosen
    ]
    vectors, known = methods.users.vectors(requests)
    requests = [request for request, has in zip(requests, known, strict=True) if has]
    personalizer = methods.reading("e2p").personalizer
    assert personalizer is not None
    with torch.no_grad():
        prefix = personalizer.condition(requests).prefix
    assert prefix is not None
    prefixes = prefix[:, 0].float().cpu().numpy()
    return {
        "users": chosen[known].tolist(),  # whose rows these are: `prelude user … delete` must find them
        "embeddings": tsne_places(vectors[known].astype(float)).astype(float).round(3).tolist(),
        "prefixes": tsne_places(prefixes.astype(float)).astype(float).round(3).tolist(),
        "are_places": True,
        "labels": _tastes(methods, requests),
    }


def _tastes(methods: Methods, requests: list[Request]) -> list[str]:
    """The value of the first text column that a user has most above its share in the catalogue."""
    columns = methods.dataset.catalogue.columns
    if not columns:
        return ["all users"] * len(requests)
    values = next(iter(columns.values()))
    everywhere = Counter(value for some in values for value in some)
    total = sum(everywhere.values())
    labels = []
    for request in requests:
        mine = Counter(value for item in request.history for value in values[item])
        n = sum(mine.values())
        lift = {
            value: (count / n - everywhere[value] / total) / (everywhere[value] / total) ** 0.5
            for value, count in mine.items()
        }
        labels.append(max(sorted(lift), key=lambda value: lift[value]) if lift else "none")
    return labels

"""Embedding Reranking, a row of the music table: candidates of No Context by their cosine to the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from llm.decoding.recommender import SidRecommender
from recsys.embeddings.embed import load_conditioning_items
from recsys.recommender import Request
from serving.answering.methods import Methods


class Reranking:
    """The n of m candidates that No Context draws without replacement which are nearest to the user
    by cosine (a baseline of E2P).

    It reads what E2P reads: the conditioning vectors. A user without one gets the first n as they were drawn.
    """

    def __init__(self, generator: SidRecommender, methods: Methods, m: int):
        self.generator, self.m = generator, m
        self.users, self.items = methods.users, load_conditioning_items(methods.run)

    def recommend(self, requests: Sequence[Request], n: int, temperature: float, seed: int) -> list[Any]:
        vectors, known = self.users.vectors(requests)
        ranked = []
        for vector, is_known, answer in zip(
            vectors, known, self.generator.recommend(requests, max(n, self.m), temperature, seed), strict=True
        ):
            scores = self.items[answer.items] @ vector
            best = np.argsort(-scores, kind="stable")[:n] if is_known else np.arange(min(n, len(scores)))
            ranked.append(replace(answer, items=answer.items[best], scores=scores[best]))
        return ranked

"""Is a query understood? The share of answers that carry its words, with the query and without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from llm.decoding.recommender import SidRecommender
from llm.prompts.reading import Reading
from recsys.data.phrases import Phrases
from recsys.recommender import Request
from recsys.seeds import rng

LEAST_MATCHES = 10  # items that must carry a query's words, or a list of ten could not be about it


@dataclass(frozen=True)
class Understanding:
    """Mean precision@k over queries: the share of the first k items that carry every word of the query."""

    queries: int
    with_query: float
    without_query: float
    chance: float  # of an item drawn uniformly

    def as_dict(self) -> dict[str, float]:
        return dict(self.__dict__)


def known_and_held_out(phrases: Phrases, at_most: int, seed: int) -> dict[str, list[str]]:
    """Queries to ask: `seen`, texts that training may read, and `held_out`, texts that it may not;
    each at most `at_most`.

    Texts are single phrases, and pairs of values of the catalogue's columns, that at least `LEAST_MATCHES`
    items carry.
    """
    data = phrases.dataset
    values = sorted(
        {value.lower() for column in data.catalogue.columns.values() for some in column for value in some}
    )
    texts = {" ".join(pair) for pair in combinations(values, 2)} if len(values) <= 100 else set()
    texts |= {*values, *(str(query).lower() for query in data.queries["query"])}
    sides: dict[str, list[str]] = {"seen": [], "held_out": []}
    ordered = sorted(texts)
    for at in rng(seed, "queries to ask").permutation(len(ordered)):
        text = ordered[at]
        side = sides["held_out" if phrases.is_held_out(text) else "seen"]
        if len(side) < at_most:
            match = phrases.matching(text)
            if match is not None and match.sum() >= LEAST_MATCHES:
                side.append(text)
        if all(len(some) == at_most for some in sides.values()):
            break
    return sides


def query_precision(
    reading: Reading, phrases: Phrases, requests: Sequence[Request], queries: Sequence[str], k: int = 10
) -> Understanding | None:
    """Ask query i of the user of request i (round and round) and look at the best k. None without a query."""
    if not queries or not requests:
        return None
    asked = [
        replace(
            requests[at % len(requests)], request_id=f"query {at}", query=query, exclude=np.zeros(0, np.int64)
        )
        for at, query in enumerate(queries)
    ]
    plain = [replace(request, query=None) for request in asked]
    matches = [match for query in queries if (match := phrases.matching(query)) is not None]
    assert len(matches) == len(queries), "queries to ask are texts that some item carries"
    answers = [SidRecommender("", reading).recommend(some, k) for some in (asked, plain)]
    with_query, without = (mean_precision([ranked.items for ranked in some], matches) for some in answers)
    return Understanding(
        len(queries), with_query, without, float(np.mean([match.mean() for match in matches]))
    )


def mean_precision(lists: Sequence[np.ndarray], matches: Sequence[np.ndarray]) -> float:
    """Mean over lists of the share of their items [≤ k] that `matches` [N] (bool) says carry the query."""
    return float(np.mean([match[items].mean() for items, match in zip(lists, matches, strict=True)]))

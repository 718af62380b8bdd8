"""The contract of every Recommender: `check_contract` runs over baselines here, and over other methods elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from evaluation.baselines import Popularity, Recency
from evaluation.softmax import SoftmaxOver
from llm.decoding.recommender import SidRecommender
from llm.prompts.reading import Reading
from recsys.data.catalogue import Catalogue
from recsys.embeddings.item_knn import ItemKnn, similarities
from recsys.recommender import Ranked, Recommender, Request
from tests.support.contract import check_contract, check_lists_contract, contract_requests
from tests.support.models import FORMS, tiny_model
from tests.support.requests import make_requests

N_ITEMS = 14


class HistoryScorer:
    """Scores that depend on the user's history and query: what a real scorer's do."""

    name = "History scorer"

    def scores(self, requests: Sequence[Request]) -> np.ndarray:
        near = -np.abs(np.subtract.outer(np.arange(N_ITEMS), np.arange(N_ITEMS))) / 2
        rows = [near[request.history].sum(axis=0) + len(request.query or "") * np.sin(np.arange(N_ITEMS))
                for request in requests]  # fmt: skip
        return np.stack(rows)


COUNTS = np.array([5, 0, 3, 3, 9, 1, 0, 2, 8, 4, 1, 1, 6, 2])


CASES: dict[str, Callable[[], Recommender]] = {
    "popularity": lambda: Popularity(COUNTS),
    "recency": lambda: Recency(np.array([3, 1, 3, 12, 1]), np.array([5, 9, 30, 30, 2]), N_ITEMS),
    "softmax over popularity": lambda: SoftmaxOver(Popularity(COUNTS)),
    "softmax over history, sharp": lambda: SoftmaxOver(HistoryScorer(), t0=0.5),
}


@pytest.mark.parametrize("case", CASES)
def test_contract(case):
    check_contract(CASES[case](), contract_requests(N_ITEMS), N_ITEMS)


@pytest.mark.parametrize("make", [lambda method: method, lambda method: SoftmaxOver(method, 0.1)])
def test_contract_of_item_knn(make):
    generator = np.random.default_rng(0)
    users, items = generator.integers(0, 9, 40), generator.integers(0, 14, 40)
    method = ItemKnn(similarities(users, items, 14, 1.0, 5), 3.0, 50, np.bincount(items, minlength=14))
    check_contract(make(method), contract_requests(14), 14)
    check_contract(make(method), make_requests(6, 14), 14)


class _Builder:
    """Prompts of a request's own tokens and history."""

    def __init__(self, model):
        self.model = model

    def prompt(self, request: Request, context=None) -> list[int]:
        words = list((request.query or "").encode())
        return [256, *words, *self.model.item_tokens[request.history].reshape(-1).tolist()]


@pytest.mark.parametrize(("budget", "longest"), [(1, 6), (1 << 30, 37)])
@pytest.mark.parametrize("in_sequence", [True, False])
@pytest.mark.parametrize("form", FORMS[:2])
def test_contract_of_generated_lists(form, in_sequence, budget, longest):
    """A budget of a byte reads prompts one by one; one of a GB all at once."""
    tiny = tiny_model(form)
    catalogue = Catalogue(
        np.arange(30).astype(str).astype(object),
        [str(item) for item in range(30)],
        {"letters": [list(letters) for letters in ("a", "ab", "b", "", "cd", "c")] * 5},
    )
    recommender = SidRecommender("generator", Reading(tiny, _Builder(tiny)), budget)
    asked, limits = contract_requests(30), {"letters": 2}
    check_lists_contract(recommender.playlist, asked, 30, catalogue, limits, in_sequence, longest, 1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_contract_of_the_generator(form):
    model = tiny_model(form)
    recommender = SidRecommender("generator", Reading(model, _Builder(model)))
    check_contract(recommender, contract_requests(30), 30, tolerance=1e-4)
    scores = recommender.scores(contract_requests(30))
    assert np.exp(scores.astype(float)).sum(1) == pytest.approx(np.ones(len(scores)), abs=1e-5)


class _Broken(Popularity):
    """Popularity with one clause broken."""

    def __init__(self, fault: str):
        super().__init__(COUNTS)
        self.fault = fault

    def recommend(self, requests, n, temperature=0.0, seed=0):
        if self.fault == "exclusions":
            requests = [Request(r.request_id, r.user, r.time, allow=r.allow) for r in requests]
        if self.fault == "allow-list":
            requests = [Request(r.request_id, r.user, r.time, exclude=r.exclude) for r in requests]
        answers = super().recommend(requests, n, temperature, seed)
        if self.fault == "repeats":
            return [Ranked(a.items[[0, *range(len(a.items) - 1)]], a.scores) for a in answers]
        if self.fault == "short":
            return [Ranked(a.items[:10], a.scores[:10]) for a in answers]
        if self.fault == "batch" and len(requests) > 1:
            return [Ranked(a.items[::-1], a.scores[::-1]) for a in answers]
        return answers


@pytest.mark.parametrize("fault", ["exclusions", "allow-list", "repeats", "short", "batch"])
def test_the_contract_fails_a_broken_recommender(fault):
    with pytest.raises(AssertionError):
        check_contract(_Broken(fault), contract_requests(N_ITEMS), N_ITEMS)


class _ForgetsTemperature(SoftmaxOver):
    def log_prob(self, requests, items, temperature=1.0):
        return super().log_prob(requests, items, 1.0)


def test_the_contract_fails_a_scorer_that_forgets_its_temperature():
    with pytest.raises(AssertionError):
        check_contract(_ForgetsTemperature(Popularity(COUNTS)), contract_requests(N_ITEMS), N_ITEMS)

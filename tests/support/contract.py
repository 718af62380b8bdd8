"""The contract of every Recommender.

    from tests.support.contract import check_contract
    check_contract(my_recommender, my_requests, n_items)

Requests of one's own should hold a user with a history, one without, an unknown user (None), and exclusions.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from recsys.data.caps import Caps
from recsys.data.catalogue import Catalogue
from recsys.recommender import ProbabilisticRecommender, Ranked, Recommender, Request


def contract_requests(n_items: int) -> list[Request]:
    """A few odd requests over a catalogue of `n_items` items (at least 8)."""
    items = np.arange(n_items)
    return [
        Request("plain", user=0, time=100, history=items[:3], history_times=np.array([10, 20, 30])),
        Request(
            "seen", user=1, time=90, history=items[2:5], history_times=np.array([5, 6, 7]), exclude=items[2:5]
        ),
        Request("no-history", user=2, time=50, exclude=items[[7, 0]]),
        Request("unknown", user=None, time=50, exclude=items[:1]),
        Request("unknown", user=None, time=51, query="a query"),
        Request("only-these", user=4, time=70, exclude=items[[1, 6]], allow=items[[6, 1, 3, 5, 5]]),
        Request(
            "unknown-these",
            user=None,
            time=70,
            history=items[:2],
            history_times=np.array([1, 2]),
            allow=items[4:7],
        ),
        Request(
            "all-but-two", user=3, time=60, history=items[:1], history_times=np.array([1]), exclude=items[2:]
        ),
    ]


def allowed_items(request: Request, n_items: int) -> np.ndarray:
    """By sets, apart from the code under test."""
    allowed = set(range(n_items)) if request.allow is None else set(request.allow.tolist())
    return np.array(sorted(allowed - set(request.exclude.tolist())), dtype=int)


def check_contract(
    recommender: Recommender,
    requests: Sequence[Request],
    n_items: int,
    tolerance: float = 1e-6,
    partial: bool = False,
) -> None:
    """Run every clause of the contract. `tolerance`: how far scores (nats) may differ between a batch and one
    by one.

    `partial` is for a recommender that may know of fewer items than the catalogue holds (it may then return
    less).
    """
    assert isinstance(recommender, Recommender)
    assert recommender.name
    for temperature in (0.0, 1.0):
        _check_lists(recommender, requests, n_items, temperature, partial)
        _check_repeatable(recommender, requests, temperature, tolerance)
    _check_best_first(recommender, requests, n_items, tolerance)
    assert recommender.recommend([], 5) == []
    if recommender.draws:
        assert isinstance(recommender, ProbabilisticRecommender)
        check_distribution(recommender, requests, n_items, max(tolerance, 1e-5))


def _check_lists(recommender, requests, n_items, temperature, partial) -> None:
    for n in (1, 5, n_items + 7):  # the last asks for more than there is
        answers = recommender.recommend(requests, n, temperature, seed=3)
        assert len(answers) == len(requests)
        for request, answer in zip(requests, answers, strict=True):
            items = np.asarray(answer.items)
            allowed = allowed_items(request, n_items)
            assert np.issubdtype(items.dtype, np.integer)
            assert np.isin(items, allowed).all(), f"{request.request_id}: not in the catalogue, or excluded"
            assert len(np.unique(items)) == len(items), f"{request.request_id}: an item is repeated"
            assert len(answer.scores) == len(items)
            assert len(items) == min(n, len(allowed)) or (partial and len(items) < n)


def _check_repeatable(recommender, requests, temperature, tolerance) -> None:
    """Same seed same list; batch equals one by one; order and company change nothing; the seed is used."""
    whole = recommender.recommend(requests, 5, temperature, seed=3)
    again = recommender.recommend(requests, 5, temperature, seed=3)
    alone = [recommender.recommend([request], 5, temperature, seed=3)[0] for request in requests]
    backwards = recommender.recommend(list(reversed(requests)), 5, temperature, seed=3)[::-1]
    for other in (again, alone, backwards):
        _assert_equal(whole, other, tolerance)
    if recommender.draws and temperature > 0:
        others = (recommender.recommend(requests, 5, temperature, seed=seed) for seed in range(4, 12))
        first = [answer.items.tolist() for answer in whole]  # others are made until one differs
        assert any([answer.items.tolist() for answer in other] != first for other in others), (
            "the seed is unused"
        )


def _assert_equal(left: Sequence[Ranked], right: Sequence[Ranked], tolerance: float) -> None:
    for one, other in zip(left, right, strict=True):
        assert np.asarray(one.items).tolist() == np.asarray(other.items).tolist()
        np.testing.assert_allclose(one.scores, other.scores, atol=tolerance, rtol=tolerance)


def _check_best_first(recommender, requests, n_items, tolerance) -> None:
    """At temperature 0 scores do not rise, and a short list is the head of a long one."""
    short, long = (recommender.recommend(requests, n, 0.0) for n in (2, n_items))
    for head, whole in zip(short, long, strict=True):
        assert (np.diff(whole.scores) <= tolerance).all()
        np.testing.assert_allclose(
            whole.scores[: len(head.scores)], head.scores, atol=tolerance, rtol=tolerance
        )


def check_distribution(
    recommender: ProbabilisticRecommender, requests: Sequence[Request], n_items: int, tolerance: float
) -> None:
    """Drawing and scoring are of one distribution over the allowed items, at every temperature."""
    for temperature in (0.7, 1.0):
        table = _log_table(recommender, requests, n_items, temperature)
        np.testing.assert_allclose(np.exp(table).sum(axis=1), 1.0, atol=max(tolerance, 1e-5))
        items, log_p = recommender.draw(requests, 40, temperature, seed=5)
        assert items.shape == log_p.shape == (len(requests), 40)
        for row, request in enumerate(requests):
            allowed = allowed_items(request, n_items)
            assert np.isneginf(np.delete(table[row], allowed)).all(), (
                f"{request.request_id}: not available but possible"
            )
            assert np.isin(items[row], allowed).all()
            np.testing.assert_allclose(log_p[row], table[row][items[row]], atol=tolerance, rtol=tolerance)
            alone_items, alone_log_p = recommender.draw([request], 40, temperature, seed=5)
            assert alone_items[0].tolist() == items[row].tolist()
            np.testing.assert_allclose(alone_log_p[0], log_p[row], atol=tolerance, rtol=tolerance)
    assert np.isfinite(recommender.context_tokens(requests))


def _log_table(recommender, requests, n_items, temperature) -> np.ndarray:
    """Log-probabilities [R, N] of the whole catalogue: one call, in which each request asks about every item."""
    asked = [request for request in requests for _ in range(n_items)]
    log_p = recommender.log_prob(asked, np.tile(np.arange(n_items), len(requests)), temperature)
    return np.asarray(log_p).reshape(len(requests), n_items)


def check_lists_contract(
    make: Callable[..., list[Ranked]],
    requests: Sequence[Request],
    n_items: int,
    catalogue: Catalogue,
    limits: dict[str, int],
    in_sequence: bool,
    longest: int,
    tolerance: float = 1e-6,
) -> None:
    """The same clauses for lists in sequence and within caps: `make(requests, n, temperature, seed, in_sequence, caps)`."""
    for caps, temperature in itertools.product((None, Caps(catalogue, limits)), (0.0, 1.0)):

        def made(some, n, seed=3, caps=caps, temperature=temperature):
            return make(some, n, temperature, seed, in_sequence, caps)

        for n in (1, longest):
            for request, answer in zip(requests, made(requests, n), strict=True):
                items, allowed = answer.items.tolist(), allowed_items(request, n_items)
                where = f"{request.request_id}, n {n}, temperature {temperature}"
                assert set(items) <= set(allowed.tolist()), f"{where}: not available"
                assert len(set(items)) == len(items) == len(answer.scores), f"{where}: an item is repeated"
                fits = _fitting(catalogue, limits if caps else {}, items, allowed)
                assert len(items) <= n
                assert len(items) == n or not fits, f"{where}: short, though {fits} fit"
        whole = made(requests, 5)
        alone = [made([request], 5)[0] for request in requests]
        backwards = made(list(reversed(requests)), 5)[::-1]
        for other in (made(requests, 5), alone, backwards):
            _assert_equal(whole, other, tolerance)
        if temperature > 0:
            first = [answer.items.tolist() for answer in whole]
            others = (made(requests, 5, seed) for seed in range(4, 12))  # made until one differs
            assert any([a.items.tolist() for a in other] != first for other in others), "the seed is unused"
    assert make([], 5, 1.0, 3, in_sequence, None) == []


def _fitting(
    catalogue: Catalogue, limits: dict[str, int], items: list[int], allowed: np.ndarray
) -> list[int]:
    """What could still be added; and no value of `items` is over its limit. By counting, apart from the code under test."""
    fits = set(allowed.tolist()) - set(items)
    for column, limit in limits.items():
        counts = Counter(value for item in items for value in set(catalogue.columns[column][item]))
        assert max(counts.values(), default=0) <= limit, f"{column}: a cap is broken"
        full = {value for value, count in counts.items() if count == limit}
        fits = {item for item in fits if not full & set(catalogue.columns[column][item])}
    return sorted(fits)

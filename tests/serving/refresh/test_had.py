"""How often newcomers were had, and what that makes of their weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from recsys.run import Run
from serving import Recommender
from serving.refresh.had import LEAST_SHAPE, counts_of, log_rates, shape_of_counts, since_they_came
from serving.refresh.refresh import refresh
from tests.support.nights import NEW, items_today


def test_rates_by_hand():
    """Of three newcomers two had their first night, in which 2 events each were to be had and 9 and 0 were; later 3 each, and 8 and 1."""
    first, later = np.array([[9, 2], [0, 2], [0, 0]], float), np.array([[8, 3], [1, 3], [0, 0]], float)
    found = np.exp(log_rates(first, later, np.array([True, True, False]), 2.0))
    of_first, of_later = (9 + 10) / (4 + 10), (9 + 10) / (6 + 10)
    to_be_had = 2 * of_first + 3 * of_later
    by_hand = [of_later * (17 + 2) / (to_be_had + 2), of_later * (1 + 2) / (to_be_had + 2), of_first]
    np.testing.assert_allclose(found, by_hand)
    nothing = log_rates(np.zeros((3, 2)), np.zeros((3, 2)), np.array([True, True, False]), 0.5)
    assert nothing == pytest.approx([0, 0, 0]), "nothing is known: nothing moves"


def test_with_many_events_a_rate_is_what_was_seen():
    later = np.array([[40_000, 10_000], [5_000, 10_000]], float)
    found = np.exp(log_rates(np.zeros((2, 2)), later, np.array([True, True]), 1.0))
    np.testing.assert_allclose(found, [4, 0.5], rtol=1e-3)


def test_nights_of_two_trained_items_and_two_newcomers():
    """Items 0 and 1 are trained, ρ is 2, and κ .5. Item 2 comes first, item 3 a night later; each night's file is counted the night after."""
    fit = {"fit": {"popularity_of_new": 2.0, "shape_of_counts": 0.5}}
    nothing, file = np.zeros(4, np.int64), np.array([3, 1, 1, 0])
    first = since_they_came(nothing, file, np.array([2]), fit, 2)
    assert first == {"came": {"2": [4, 1]}, "passed": {}, "had": {}}, (
        "what is in the file was had before it came"
    )
    second = since_they_came(file, np.array([10, 0, 7, 0]), np.array([2, 3]), fit | first, 2)
    assert second == {"came": {"2": [4, 1], "3": [14, 0]}, "passed": {}, "had": {}}
    counts = file + np.array([10, 0, 7, 0])
    third = since_they_came(counts, nothing, np.array([2, 3]), fit | second, 2)
    assert third["passed"] == {"2": [14, 8]}
    rates = log_rates(
        np.array([[7, 2 * 10 / 2], [0, 0]], float), np.zeros((2, 2)), np.array([True, False]), 0.5
    )
    assert [third["had"]["2"], third["had"]["3"]] == pytest.approx(rates, abs=1e-6)
    assert rates[1] == pytest.approx(np.log(17 / 20)), "item 3 has its first night before it"
    fourth = since_they_came(counts + np.array([0, 6, 1, 5]), nothing, np.array([2, 3]), fit | third, 2)
    first_nights, later = np.array([[7, 10], [5, 6]], float), np.array([[1, 6], [0, 0]], float)
    rates = log_rates(first_nights, later, np.array([True, True]), 0.5)
    assert [fourth["had"]["2"], fourth["had"]["3"]] == pytest.approx(rates, abs=1e-6)
    fewer = since_they_came(np.array([2, 1, 0, 0]), nothing, np.array([2, 3]), fit | fourth, 2)
    rates = log_rates(first_nights, np.zeros((2, 2)), np.array([True, True]), 0.5)
    assert [fewer["had"]["2"], fewer["had"]["3"]] == pytest.approx(rates, abs=1e-6), (
        "somebody was deleted: no fewer than none"
    )


def test_the_shape_is_that_of_a_negative_binomial():
    counts = stats.nbinom.rvs(0.7, 0.1, size=4000, random_state=np.random.default_rng(0))
    items = np.concatenate([np.arange(4000), np.repeat(np.arange(4000), counts)])
    times = np.concatenate([np.zeros(4000), np.ones(counts.sum())])
    data: Any = SimpleNamespace(
        roles=np.zeros(len(items), np.int8), items=items, times=times.astype(np.int64), n_items=4000
    )
    assert shape_of_counts(data) == pytest.approx(0.7, rel=0.1)
    data.items = np.tile(np.arange(4000), 5)  # all alike: fewer than Poisson's differences
    data.roles, data.times = np.zeros(20_000, np.int8), np.ones(20_000, np.int64)
    assert shape_of_counts(data) > 1 > LEAST_SHAPE


def test_what_was_had_weighs_more_the_next_night(night):
    refresh(night.run.path, **night.files)
    service = Recommender.load(night.run.path)
    catalogue = service.methods.dataset.catalogue
    hot, cold = (catalogue.item_ids[catalogue.n_trained + at] for at in (0, 1))
    before: Any = service.method("e2p")
    moment = int(service.methods.dataset.end) + 10
    service.update([(f"u{user}", hot, moment + user) for user in range(12)] + [("u1", "i3", moment)])
    counts = counts_of(Run.open(night.run.path), catalogue)
    assert counts[catalogue.number(hot)] >= 12
    assert counts[catalogue.number("i3")] >= 1
    found = refresh(night.run.path, items=items_today(night.run, night.folder / "second.csv", NEW, ("i12",)))
    assert found.published
    after: Any = Recommender.load(night.run.path).method("e2p")
    had = dict(zip(after.newcomers.items.tolist(), after.newcomers.had.tolist(), strict=True))
    assert not before.newcomers.had.any(), "nothing was known on the first night"
    assert had[catalogue.number(hot)] > max(had[catalogue.number(cold)], 0)
    assert after.newcomers.weights == before.newcomers.weights


def test_what_is_retired_counts_for_nobody_and_comes_anew(night):
    refresh(night.run.path, **night.files)
    service = Recommender.load(night.run.path)
    moment = int(service.methods.dataset.end) + 10
    service.update([(f"u{user}", "i3", moment + user) for user in range(30)])
    without = items_today(night.run, night.folder / "second.csv", NEW[1:])
    assert refresh(night.run.path, items=without).published
    first = service.methods.dataset.catalogue.n_trained
    told = Run.serving(night.run.path).read_json("adapt", "newcomers.json")
    assert told["came"].keys() == {str(first + 1), str(first + 2)}, "the first is retired"
    came = told["came"][str(first + 1)][0]
    again = items_today(night.run, night.folder / "third.csv", NEW)
    assert refresh(night.run.path, items=again).published
    told = Run.serving(night.run.path).read_json("adapt", "newcomers.json")
    assert told["came"][str(first)][0] >= came + 30
    assert str(first) not in told["passed"]

"""With which probability an item was drawn: against every order that could have been, and against the model item by item."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from recsys.data.caps import Caps
from recsys.data.catalogue import Catalogue
from recsys.recommender import Ranked
from serving import Recommender
from serving.answering.propensities import MOST_SUMMED, given_before, probabilities
from serving.answering.requests import asked_of

P = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
KINDS = Catalogue(np.array(list("abcde"), object), list("abcde"), {"kind": [["x"], ["x"], ["y"], ["y"], []]})


def test_chances_of_every_order_sum_to_one():
    lists = [np.array(one) for one in permutations(range(5), 3)]
    assert sum(np.prod(given_before(P, one)) for one in lists) == pytest.approx(1)


def test_within_caps_what_does_not_fit_has_no_chance_and_the_rest_sums_to_one():
    caps = Caps(KINDS, {"kind": 1})
    fits = [one for one in permutations(range(5), 3) if len({"xxyy "[item] for item in one}) == 3]
    assert len(fits) == 24
    assert sum(np.prod(given_before(P, np.array(one), caps)) for one in fits) == pytest.approx(1)
    np.testing.assert_allclose(given_before(P, np.array([0, 2, 4]), caps), [0.4, 0.15 / 0.3, 1.0])


def test_what_was_shown_on_pages_before_is_passed_over():
    np.testing.assert_allclose(given_before(P, np.array([1, 2]), None, [0, 4]), [0.3 / 0.55, 0.15 / 0.25])


def test_frequencies_of_drawing_with_rejection_are_the_chances():
    rng, caps, n = np.random.default_rng(0), Caps(KINDS, {"kind": 1}), 6_000
    counts: Counter[tuple[int, ...]] = Counter()
    for _ in range(n):
        order = rng.choice(5, 5, replace=False, p=P)
        growing, found = caps.start(), []
        for item in order:
            if growing.fits(item) and len(found) < 2:
                growing.add(item)
                found.append(int(item))
        counts[tuple(found)] += 1
    for one, count in counts.items():
        chance = np.prod(given_before(P, np.array(one), caps))
        assert abs(count / n - chance) < 5 * np.sqrt(chance * (1 - chance) / n)


@pytest.fixture(scope="module")
def recommender(world_run) -> Recommender:
    return Recommender.load(world_run[1].path)


@pytest.mark.parametrize("method", ["e2p", "no_context", "tap_per"])
@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.0])
def test_all_chances_at_once_are_those_of_single_items(recommender, method, temperature):
    data, built = recommender.methods.dataset, recommender.method(method)
    items = np.arange(data.n_items)
    for options in (
        {},
        {"exclude": ["i1", "i2", "i3"]},
        {"allow": [f"i{n}" for n in range(0, 60, 5)], "exclude": ["i5"]},
    ):
        request = asked_of(data, recommender.live.histories, "u3", "even", **options).request
        at_once = built.log_probs([request], temperature)[0]
        single = built.log_prob([request] * len(items), items, temperature)
        np.testing.assert_allclose(at_once[np.isfinite(single)], single[np.isfinite(single)], atol=2e-4)
        assert (np.isfinite(at_once) == np.isfinite(single)).all()
        assert np.isfinite(single).sum() == request.available(items).sum()
        assert np.exp(at_once).sum() == pytest.approx(1, abs=1e-4)


def test_nothing_drawn_has_no_probability(recommender):
    request = asked_of(recommender.methods.dataset, recommender.live.histories, "u3").request
    ranked = recommender.method("popularity").recommend([request], 3, 1.0)[0]
    assert probabilities(recommender.method("popularity"), request, ranked, 60, 1.0) is None
    e2p = recommender.method("e2p")
    ranked = e2p.recommend([request], 3, 1.0)[0]
    assert probabilities(e2p, request, ranked, 60, 0.0) is None
    caps = Caps(recommender.methods.dataset.catalogue, {"kind": 2})
    assert probabilities(e2p, request, ranked, MOST_SUMMED + 1, 1.0, caps=caps) is None


def test_a_list_that_takes_nearly_all_is_summed_and_not_subtracted(recommender):
    """The last items of a list over a few: 1 − Σ would have lost every digit."""
    request = asked_of(
        recommender.methods.dataset, recommender.live.histories, "u3", allow=["i1", "i2", "i4", "i6"]
    ).request
    built = recommender.method("e2p")
    ranked = built.recommend([request], 4, 0.2)[0]
    chances = probabilities(built, request, ranked, 60, 0.2)
    exact = np.exp(built.log_probs([request], 0.2)[0])
    np.testing.assert_allclose(chances, given_before(exact, ranked.items), rtol=1e-6)
    assert chances[-1] == pytest.approx(1)
    assert probabilities(built, request, Ranked(ranked.items[:0], ranked.scores[:0]), 60, 0.2).size == 0

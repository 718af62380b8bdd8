"""Products of experts: weights against scikit-learn's conditional answer and a planted truth, and exactness of what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import chisquare

from evaluation.product import TEMPERATURES, Product, fit_weights
from evaluation.softmax import SoftmaxOver
from recsys.recommender import Request


class Table:
    """A scorer that looks its scores up by request id."""

    def __init__(self, name: str, scores: np.ndarray):
        self.name, self.table, self.calls = name, scores, 0

    def scores(self, requests):
        self.calls += 1
        return self.table[[int(request.request_id) for request in requests]]


def requests_of(n: int, excluded: np.ndarray | None = None) -> list[Request]:
    none = np.zeros(0, np.int64)
    return [Request(str(at), at, 0, exclude=none if excluded is None else excluded[at]) for at in range(n)]


@pytest.fixture(scope="module")
def world():
    """2,000 requests over 12 items whose targets are drawn from a product with known weights; two items are excluded from each."""
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 2000, 12)) * np.array([1.0, 0.3])[:, None, None]
    excluded = generator.permuted(np.tile(np.arange(12), (2000, 1)), axis=1)[:, :2]
    logits = 0.7 * first + 4.0 * second
    np.put_along_axis(logits, excluded, -np.inf, 1)
    targets = (log_softmax(logits, 1) + generator.gumbel(size=logits.shape)).argmax(1)
    return Table("a", first), Table("b", second), requests_of(2000, excluded), targets, excluded


def test_weights_are_those_that_the_targets_were_drawn_with(world):
    first, second, requests, targets, excluded = world
    found = fit_weights([first, second], requests, targets)
    assert found.values == pytest.approx([0.7, 4.0], rel=0.1)

    # the same likelihood by hand, and no other weights are better
    def nats(weights):
        logits = weights[0] * first.table + weights[1] * second.table
        np.put_along_axis(logits, excluded, -np.inf, 1)
        return -log_softmax(logits, 1)[np.arange(2000), targets].mean()

    assert found.nats == pytest.approx(nats(found.values), rel=1e-5)
    for move in ([0.05, 0], [-0.05, 0], [0, 0.2], [0, -0.2]):
        assert nats(np.array(found.values) + move) > found.nats
    alone = minimize_scalar(lambda weight: nats([weight, 0.0]), bounds=(0, 5), method="bounded").fun
    assert found.nats_alone[0] == pytest.approx(alone, abs=1e-4)


def test_an_expert_that_knows_nothing_gets_next_to_no_weight(world):
    first, _, requests, targets, _ = world
    noise = Table("noise", np.random.default_rng(5).normal(size=first.table.shape))
    assert fit_weights([first, noise], requests, targets).values[1] == pytest.approx(0, abs=0.1)


def test_a_target_that_is_excluded_is_refused(world):
    first, second, requests, targets, excluded = world
    wrong = targets.copy()
    wrong[7] = excluded[7, 0]
    with pytest.raises(ValueError, match="request '7' is not available"):
        fit_weights([first, second], requests, wrong)
    with pytest.raises(ValueError, match="2 experts need as many finite weights"):
        Product("p", [first, second], [1.0])


def test_draws_lists_and_scores_are_of_one_distribution(world):
    first, second, requests, _, excluded = world
    product = SoftmaxOver(Product("p", [first, second], [0.7, 4.0]), 1.0)
    logits = 0.7 * first.table[3] + 4.0 * second.table[3]
    logits[excluded[3]] = -np.inf
    p = np.exp(log_softmax(logits))
    drawn, log_p = product.draw([requests[3]], 4000, 1.0, seed=2)
    live = p > 0
    assert chisquare(np.bincount(drawn[0], minlength=12)[live], 4000 * p[live]).pvalue > 1e-3
    assert log_p[0] == pytest.approx(np.log(p[drawn[0]]), abs=1e-5)
    assert product.log_prob([requests[3]], np.array([5])) == pytest.approx(np.log(p[5]), abs=1e-5)
    ranked = product.recommend([requests[3]], 12)[0]
    assert ranked.items.tolist() == np.argsort(-p, kind="stable")[: live.sum()].tolist()


def test_what_was_asked_last_is_scored_once(world):
    first, second, requests, _, _ = world
    before = first.calls
    product = SoftmaxOver(Product("p", [first, second], [1.0, 1.0]), 1.0)
    some = requests[:50]
    product.recommend(some, 5), product.draw(some, 5), product.log_prob(some, np.zeros(50, int))
    assert first.calls == before + 1
    product.log_prob(requests[50:100], np.zeros(50, int))
    assert first.calls == before + 2


def test_the_sharpness_is_that_of_the_best_expected_hit_rate_of_30_draws(world):
    first, second, requests, targets, _ = world
    found = fit_weights([first, second], requests, targets)

    def rate(temperature):
        log_p = SoftmaxOver(Product("p", [first, second], found.values), temperature).log_prob(
            requests, targets
        )
        return (1 - (1 - np.exp(log_p)) ** 30).mean()

    rates = {temperature: rate(temperature) for temperature in TEMPERATURES}
    assert found.temperature == max(rates, key=rates.get)
    assert found.sharpened == pytest.approx(np.array(found.values) / found.temperature)

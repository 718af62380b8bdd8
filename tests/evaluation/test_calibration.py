"""The temperature of matched calibration: by hand, and where it is known."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.calibration import LEAST_NATS, fit_temperature
from evaluation.softmax import SoftmaxOver
from recsys.recommender import Request

GRID = (0.25, 0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)


class Given:
    """Scores that are there already."""

    name = "given"

    def __init__(self, scores):
        self.rows = scores

    def scores(self, requests):
        return self.rows[[int(request.request_id) for request in requests]]


@pytest.mark.parametrize("truth", [0.45, 0.9, 1.35])
def test_the_temperature_that_the_targets_were_drawn_at_is_found(truth):
    generator = np.random.default_rng(0)
    scores = generator.normal(0, 2, (3000, 20))
    p = np.exp(scores / truth)
    p /= p.sum(1, keepdims=True)
    targets = (p.cumsum(1) > generator.random((3000, 1))).argmax(1)
    requests = [Request(str(at), at, 0) for at in range(3000)]
    log_p = SoftmaxOver(Given(scores)).log_prob_at(requests, targets, GRID)
    found = fit_temperature(log_p, GRID, np.arange(3000))
    assert found.temperature == pytest.approx(truth, rel=0.05)
    fine = np.exp(np.linspace(np.log(0.3), np.log(1.9), 400))
    best = SoftmaxOver(Given(scores)).log_prob_at(requests, targets, fine).mean(0)
    assert found.temperature == pytest.approx(fine[best.argmax()], rel=0.02)
    assert found.nats == pytest.approx(best.max(), abs=2e-3)


def test_it_is_what_a_row_knows_and_not_how_sharp_it_is():
    """The same scores, once three times as sharp: other temperatures, the same likelihood at them."""
    generator = np.random.default_rng(1)
    scores = generator.normal(0, 1, (500, 9))
    targets = scores.argmax(1) * (generator.random(500) < 0.5)
    requests = [Request(str(at), at, 0) for at in range(500)]
    one, other = (
        fit_temperature(
            SoftmaxOver(Given(scores * by)).log_prob_at(requests, targets, grid), grid, np.arange(500)
        )
        for by, grid in ((1.0, GRID), (3.0, tuple(3 * t for t in GRID)))
    )
    assert other.temperature == pytest.approx(3 * one.temperature, rel=1e-6)
    assert other.nats == pytest.approx(one.nats, abs=1e-9)


def test_users_count_once_and_the_ends_of_the_grid_are_ends():
    log_p = np.array([[-1.0, -2.0, -3.0]] * 3 + [[-9.0, -7.0, -4.0]])
    by_user = fit_temperature(log_p, (1, 2, 3), np.array([0, 0, 0, 1]))
    assert (by_user.temperature, by_user.nats) == (3, -3.5)
    assert fit_temperature(log_p, (1, 2, 3), np.arange(4)).temperature == 1
    unreachable = np.array([[-np.inf, -np.inf, -2.0], [-1.0, -1.0, -1.5]])
    found = fit_temperature(unreachable, (1, 2, 3), np.arange(2))
    assert (found.temperature, found.nats) == (3, -1.75)
    assert LEAST_NATS < -50
    with pytest.raises(ValueError, match="must ascend"):
        fit_temperature(log_p, (1, 3, 2), np.arange(4))

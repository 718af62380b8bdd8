"""The tests at matched calibration against the formulas alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from evaluation.statistics import user_means
from evaluation.table.config import EvaluateConfig
from evaluation.table.rows import Row
from tests.support.small_tables import Taste, run, soft, world

CONFIG = EvaluateConfig(n_candidates=3, top_k=(2,), bootstrap_samples=100)


def log_p_of(gain: float, temperature: float) -> np.ndarray:
    requests, targets, _ = world()
    scores = Taste(gain).scores(requests) / temperature
    for row, request in enumerate(requests):
        scores[row, request.exclude] = -np.inf
    scores -= np.log(np.exp(scores).sum(1, keepdims=True))
    return scores[np.arange(len(targets)), targets]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    rows = [
        Row("No Context", [soft(0.5)], matched=0.8),
        Row("Static Prefix", [soft(0.7)], matched=1.0),
        Row("E2P", [soft(3.0)], temperature=0.5, matched=2.5),
        Row("Elsewhere", [soft(0.1)]),
    ]
    return run(tmp_path_factory.mktemp("matched"), CONFIG, rows)


def test_each_row_is_measured_at_its_own_temperature(found):
    users = world()[2]
    assert [one["name"] for one in found.matched["rows"]] == ["No Context", "Static Prefix", "E2P"]
    for one, (gain, t) in zip(found.matched["rows"], ((0.5, 0.8), (0.7, 1.0), (3.0, 2.5)), strict=True):
        log_p = log_p_of(gain, t)
        per_user = user_means(log_p, users)[1]
        assert one["temperature"] == t
        assert one["nats"] == pytest.approx(per_user.mean())
        half = stats.t.ppf(0.975, len(per_user) - 1) * per_user.std(ddof=1) / len(per_user) ** 0.5
        assert one["nats_ci95"] == pytest.approx([per_user.mean() - half, per_user.mean() + half])
        assert one["expected_hit_rate@3"] == pytest.approx(
            user_means(1 - (1 - np.exp(log_p)) ** 3, users)[1].mean()
        )


def test_tests_are_paired_over_users_and_holm_leaves_the_primary_one_out(found):
    users = world()[2]
    ours, static = (user_means(log_p_of(*one), users)[1] for one in ((3.0, 2.5), (0.7, 1.0)))
    test = stats.ttest_rel(ours, static)
    primary = found.matched["primary"]["log_p_matched"]
    assert (primary["a"], primary["b"]) == ("E2P", "Static Prefix")
    assert primary["difference"] == pytest.approx((ours - static).mean())
    assert primary["p_value"] == pytest.approx(test.pvalue)
    against = found.matched["references"]["No Context"]["log_p_matched"]
    assert [one["a"] for one in against] == ["Static Prefix", "E2P"]
    p = sorted(one["p_value"] for one in against)
    assert sorted(one["p_holm"] for one in against) == pytest.approx([min(1, 2 * p[0]), max(2 * p[0], p[1])])
    assert found.matched["n_tests_in_holm_family"] == {"expected_matched": 2, "log_p_matched": 2}
    pair = next(
        one for one in found.matched["references"]["Static Prefix"]["log_p_matched"] if one["a"] == "E2P"
    )
    assert pair["p_holm"] is None  # the primary pair


def test_without_fitted_temperatures_there_is_no_such_table(tmp_path):
    assert run(tmp_path, CONFIG).matched == {}

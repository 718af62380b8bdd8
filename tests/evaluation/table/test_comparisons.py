"""Comparisons of rows: paired tests and their correction, samplers that disagree, replicas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from evaluation.softmax import SoftmaxOver
from evaluation.table.config import EvaluateConfig
from evaluation.table.rows import Row
from recsys.recommender import Request
from tests.support.small_tables import Taste, plain_expected, plain_user_means, run, soft, table, world


def test_holm_is_over_all_tests_but_the_primary(results):
    """Ten pairs of five rows, less E2P against Static Prefix (primary) and Popularity against E2P-Random (no reference)."""
    assert results.protocol["n_tests_in_holm_family"] == 8
    raw = {}
    for name in ("Static Prefix", "No Context", "E2P"):
        for one in results.references[name]:
            if one["a"] != name and {one["a"], name} != {"E2P", "Static Prefix"}:
                raw[frozenset((one["a"], name))] = one["p_value"]
    assert len(raw) == 8
    adjusted, most = {}, 0.0
    for rank, pair in enumerate(sorted(raw, key=lambda pair: raw[pair])):
        most = adjusted[pair] = min(1.0, max(most, (8 - rank) * raw[pair]))
    for contrasts in (*results.references.values(), results.effects):
        for one in contrasts:
            pair = frozenset((one["a"], one["b"]))
            assert one["p_holm"] == (pytest.approx(adjusted[pair]) if pair in adjusted else None)
    for row in results.rows:
        pair = frozenset((row["name"], "No Context"))
        assert row["p_holm"] == (pytest.approx(adjusted[pair]) if pair in adjusted else None)
    assert results.row("No Context")["p_value"] is None
    assert {effect["b"] for effect in results.effects} == {"E2P-Random", "Popularity"}


def test_every_row_is_tested_against_every_reference(results):
    users = world()[2]
    names = ["Popularity", "No Context", "Static Prefix", "E2P-Random", "E2P"]
    assert list(results.references) == ["Static Prefix", "No Context", "E2P"]
    means = {
        name: plain_user_means(plain_expected(gain, seeds), users)
        for name, gain, seeds in (
            ("No Context", 0.0, (0,)), ("Static Prefix", 0.1, (1, 2)), ("E2P-Random", -0.3, (1,)), ("E2P", 1.2, (1, 2))
        )
    }  # fmt: skip
    for reference, contrasts in results.references.items():
        assert [one["a"] for one in contrasts] == names
        for one in contrasts[1:]:
            assert one["b"] == reference
            assert one["difference"] == pytest.approx((means[one["a"]] - means[reference]).mean())
            expected = None
            if one["a"] != reference:
                expected = pytest.approx(stats.ttest_rel(means[one["a"]], means[reference]).pvalue)
            assert one["p_value"] == expected
        assert contrasts[0]["figure"] == "top3"  # Popularity has no draws
        assert contrasts[0]["difference"] == pytest.approx(
            results.row("Popularity")["top3"] - results.row(reference)["top3"]
        )


def test_only_references_that_are_there(tmp_path):
    results = run(tmp_path, rows=[row for row in table() if row.name != "Static Prefix"])
    assert list(results.references) == ["No Context", "E2P"]


class _Forgetful(SoftmaxOver):
    """Scores with the user's taste and draws without it, as a sampler that lost the prefix would."""

    def draw(self, requests, n, temperature=1.0, seed=0):
        items, _ = soft(0.0).draw(requests, n, temperature, seed)
        return items, np.stack([self.log_prob(requests, column, temperature) for column in items.T], axis=1)


def test_a_biased_sampler_is_flagged(tmp_path):
    data = world(users=300, per_user=(2, 3))
    config = EvaluateConfig(n_candidates=2, batch_size=300, draw_seeds=(0, 1), beam_columns=False)
    rows = [Row("No Context", [soft(3.0)]), Row("E2P", [_Forgetful(Taste(3.0))])]
    results = run(tmp_path, config, rows, data)
    assert [row["sampled_agrees"] for row in results.rows] == [True, False]
    assert results.row("E2P")["sampled_minus_expected_z"] < -6


def test_replicas_draw_independently(tmp_path):
    """The same model as two replicas must not draw the same items: the check assumes independent hits."""
    data = world(users=100)
    config = EvaluateConfig(n_candidates=3, beam_columns=False)
    one = run(tmp_path / "one", config, [Row("No Context", [soft(0.5)])], data).rows[0]["hit_rate@3"]
    two = run(tmp_path / "two", config, [Row("No Context", [soft(0.5), soft(0.5)])], data).rows[0][
        "hit_rate@3"
    ]
    assert one != two


def test_users_are_averaged_before_the_test(tmp_path):
    """Fifty instances of one user count as one user: n is 3, not 52."""
    requests = [Request(f"{at}", min(at, 2), at + 1) for at in range(52)]
    users = np.array([request.user for request in requests])
    row = run(tmp_path, data=(requests, np.full(52, 4), users)).row("E2P")
    assert (row["n_users"], row["n_instances"]) == (3, 52)


def test_the_smallest_detectable_effect_stands_beside_the_primary(results):
    sd = results.primary["smallest_detectable_difference"]
    assert sd > 0
    assert results.primary["smallest_detectable_pct"] == pytest.approx(100 * sd / results.primary["value_b"])
    assert (
        results.primary["bootstrap_ci95"][0]
        < results.primary["difference"]
        < results.primary["bootstrap_ci95"][1]
    )

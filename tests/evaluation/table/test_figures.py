"""The figures of the table against plain loops."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from evaluation.baselines import Popularity
from evaluation.metrics import expected_hit
from evaluation.report.tables import describe, figure_columns
from evaluation.softmax import SoftmaxOver
from evaluation.table.config import EvaluateConfig
from evaluation.table.instances import sample_instances
from evaluation.table.results import Results
from evaluation.table.rows import Row
from recsys.recommender import Request
from tests.support.small_tables import (
    CONFIG,
    N,
    Taste,
    plain_expected,
    plain_user_means,
    run,
    soft,
    table,
    world,
)


def test_figures_equal_a_plain_loop(results):
    users = world()[2]
    e2p, none, static = (
        plain_user_means(plain_expected(*args), users) for args in ((1.2, (1, 2)), (0.0, (0,)), (0.1, (1, 2)))
    )
    row = results.row("E2P")
    assert row["expected_hit_rate@3"] == pytest.approx(e2p.mean())
    assert row["relative_to_no_context_pct"] == pytest.approx(100 * (e2p.mean() / none.mean() - 1))
    assert row["p_value"] == pytest.approx(stats.ttest_rel(e2p, none).pvalue)
    half = stats.t.ppf(0.975, len(e2p) - 1) * (e2p - none).std(ddof=1) / np.sqrt(len(e2p))
    difference = e2p.mean() - none.mean()
    assert row["difference_ci95"] == pytest.approx([difference - half, difference + half])
    half = stats.sem(e2p) * stats.t.ppf(0.975, len(e2p) - 1)
    assert row["ci95"] == pytest.approx([e2p.mean() - half, e2p.mean() + half])
    assert results.primary["p_value"] == pytest.approx(stats.ttest_rel(e2p, static).pvalue)
    assert (results.primary["a"], results.primary["b"]) == ("E2P", "Static Prefix")
    cold = plain_user_means(plain_expected(1.2, (1, 2), 0.5), users).mean()
    assert (row["temperature"], row["expected_hit_rate@3_at_temperature"]) == (0.5, pytest.approx(cold))


def test_deterministic_rows_compare_ranked_lists(results):
    requests, targets, users = world()
    top = []
    for request, target in zip(requests, targets, strict=True):
        order = [item for item in range(N - 1, -1, -1) if item not in request.exclude]
        top.append(float(target in order[:3]))
    row = results.row("Popularity")
    assert row["top3"] == pytest.approx(plain_user_means(top, users).mean())
    assert row["compared_on"] == row["figure"] == "top3"
    base = results.row("No Context")["top3"]
    assert row["relative_to_no_context_pct"] == pytest.approx(100 * (row["top3"] / base - 1))
    for missing in (
        "context_tokens",
        "hit_rate@3",
        "expected_hit_rate@3",
        "distinct3",
        "entropy_nats",
        "sampled_agrees",
    ):
        assert row[missing] is None
    assert row["ci95"][0] < row["top3"] < row["ci95"][1]


def test_every_row_has_its_interval_and_agrees(results):
    for row in results.rows:
        assert row["ci95"] is not None
        assert row["n_users"] == 30
        if row["name"] != "Popularity":
            assert row["sampled_agrees"], row["name"]
            assert abs(row["sampled_minus_expected_z"]) < 4


def test_z_is_the_printed_difference_over_its_standard_error(results):
    users = world()[2]
    counts = np.bincount(users)[users]
    variance = 0.0
    for seed in (1, 2):
        h = plain_expected(1.2, (seed,))
        variance += (h * (1 - h) / (30 * counts * 2) ** 2).sum()
    row = results.row("E2P")
    difference = row["hit_rate@3"] - row["expected_hit_rate@3"]
    assert row["sampled_minus_expected_z"] == pytest.approx(difference / np.sqrt(variance))


def test_groups_equal_a_plain_loop(tmp_path):
    """Instances of one user in two groups count in each with what they have there."""
    data = world()
    _, targets, users = data
    levels = [
        "10-99" if target % 2 else "<10" if user % 2 else "100+"
        for target, user in zip(targets, users, strict=True)
    ]
    kinds = ["warm" if user < 20 else "ood" for user in users]
    results = run(tmp_path, data=data, groups={"users": kinds, "activity": levels})
    assert [one["group"] for one in results.groups["activity"]] == ["<10", "10-99", "100+"]
    assert [one["group"] for one in results.groups["users"]] == ["ood", "warm"]
    for labels, groups in ((levels, results.groups["activity"]), (kinds, results.groups["users"])):
        for group in groups:
            mine = np.array(labels) == group["group"]
            assert (group["n_instances"], group["n_users"]) == (mine.sum(), len(set(users[mine])))
            e2p, none = (
                plain_user_means(plain_expected(*args)[mine], users[mine])
                for args in ((1.2, (1, 2)), (0.0, (0,)))
            )
            rows = {row["name"]: row for row in group["rows"]}
            assert list(rows) == [row.name for row in table()]
            row, half = rows["E2P"], stats.sem(e2p) * stats.t.ppf(0.975, len(e2p) - 1)
            assert row["value"] == pytest.approx(e2p.mean())
            assert row["ci95"] == pytest.approx([max(0, e2p.mean() - half), e2p.mean() + half])
            half = stats.sem(e2p - none) * stats.t.ppf(0.975, len(e2p) - 1)
            change = (e2p - none).mean()
            assert (row["difference"], row["baseline_value"]) == pytest.approx((change, none.mean()))
            assert row["difference_ci95"] == pytest.approx([change - half, change + half])
            assert rows["Popularity"]["figure"] == rows["Popularity"]["compared_on"] == "top3"
            assert rows["No Context"]["difference"] == 0
    assert results.rows == run(tmp_path, data=data).rows  # and nothing else moves


def test_labels_follow_their_instances_into_a_sample(tmp_path):
    users = world()[2]
    config = CONFIG.model_copy(update={"max_instances": 20})
    labels = [f"user {user}" for user in users]
    results = run(tmp_path, config=config, groups={"one by one": labels})
    chosen = sample_instances(users, 20, CONFIG.seed)
    assert [one["group"] for one in results.groups["one by one"]] == [labels[at] for at in chosen]
    first = results.groups["one by one"][0]
    assert (first["n_users"], first["rows"][-1]["ci95"]) == (1, None)
    assert first["rows"][-1]["value"] == pytest.approx(plain_expected(1.2, (1, 2))[chosen[0]])
    with pytest.raises(ValueError, match="grouping 'users' needs one label per instance: 1 labels"):
        run(tmp_path, groups={"users": ["warm"]})


def test_costs_stand_in_their_rows(tmp_path):
    rows = table()
    rows[-1] = replace(rows[-1], costs={"per_user_parameters": 0.0, "seconds_to_admit": 0.25})
    row = run(tmp_path, rows=rows).row("E2P")
    assert (row["per_user_parameters"], row["seconds_to_admit"], row["latency_ratio"]) == (0.0, 0.25, None)
    rows[-1] = replace(rows[-1], costs={"euros": 1.0})
    with pytest.raises(ValueError, match="row 'E2P' has a cost 'euros'; costs are per_user_parameters"):
        run(tmp_path, rows=rows)


def test_entropy_is_that_of_the_distribution(tmp_path):
    requests, targets, users = world(users=60)
    rows = [Row("No Context", [soft(0.8)])]
    config = EvaluateConfig(n_candidates=30, beam_columns=False)
    row = run(tmp_path, config, rows, (requests, targets, users)).rows[0]
    exact = []
    for request in requests:
        log_p = soft(0.8).log_prob([request] * N, np.arange(N))
        p = np.exp(log_p)
        exact.append(-(p[p > 0] * log_p[p > 0]).sum())
    # the printed error also holds the spread between users, so it is an upper bound for the estimate's own
    assert abs(row["entropy_nats"] - plain_user_means(exact, users).mean()) < 4 * row["entropy_se_nats"]
    assert row["top30"] is None
    assert row["recall@5"] is row["ndcg@10"] is None


def test_recall_and_ndcg_at_several_depths_by_hand(tmp_path):
    """Popularity lists items 4, 3, 2, 1, 0. Ada's targets stand at ranks 1 and 3, Bob's only one at rank 4: Ada's means
    come first, then those of both. N@3 of rank 3 is 1 / log2(4) = 1/2, N@4 of rank 4 is 1 / log2(5)."""
    targets, users = np.array([4, 2, 1]), np.array([0, 0, 1])
    requests = [
        Request(f"r{at}", int(user), 10, np.array([1]), np.array([9])) for at, user in enumerate(users)
    ]
    rows = [Row("No Context", [Popularity(np.arange(5))])]
    config = EvaluateConfig(n_candidates=2, top_k=(1, 3, 4), bootstrap_samples=100)
    found = run(tmp_path, config, rows, (requests, targets, users))
    assert found.protocol["top_k"] == [1, 3, 4]
    row = found.rows[0]
    assert row["recall@1"] == pytest.approx((1 / 2 + 0) / 2)
    assert row["recall@3"] == pytest.approx((1 + 0) / 2)
    assert row["recall@4"] == pytest.approx(1.0)  # deeper than the two candidates
    assert row["ndcg@1"] == pytest.approx((1 / 2 + 0) / 2)
    assert row["ndcg@3"] == pytest.approx(((1 + 1 / 2) / 2 + 0) / 2)
    assert row["ndcg@4"] == pytest.approx(((1 + 1 / 2) / 2 + 1 / np.log2(5)) / 2)
    heads = [column[0] for column in figure_columns(found)]
    assert heads[heads.index("top 2") + 1 : heads.index("nats")] == ["R@1", "R@3", "R@4", "N@1", "N@3", "N@4"]


def test_depths_are_a_list_or_one_number():
    assert EvaluateConfig().top_k == (5, 10)
    assert EvaluateConfig.model_validate({"top_k": 10}).top_k == (10,)  # as older configurations have it
    assert EvaluateConfig.model_validate({"top_k": [1, 20]}).top_k == (1, 20)
    for wrong in ([10, 5], [5, 5], [0, 5], 0):
        with pytest.raises(ValueError, match="from 1 up, each once, ascending"):
            EvaluateConfig.model_validate({"top_k": wrong})
    with pytest.raises(ValueError, match="top_k"):
        EvaluateConfig.model_validate({"top_k": []})


def test_results_of_one_depth_are_still_read(tmp_path, results):
    old = results.as_dict()
    old["protocol"]["top_k"] = 2  # as `results.json` had it when there was one depth
    (tmp_path / "results.json").write_text(json.dumps(old))
    read = Results.read(tmp_path / "results.json")
    assert [head for head, *_ in figure_columns(read)] == [head for head, *_ in figure_columns(results)]
    assert "R@2 (Recall) and N@2 (NDCG)" in " ".join(describe(read))


def test_one_user_and_impossible_targets(tmp_path):
    """No test with one user; an item that cannot be reached counts as missed, and is counted."""

    class Blind(Taste):
        def scores(self, requests):
            scores = super().scores(requests)
            scores[:, 4] = -np.inf
            return scores

    rows = [
        Row("No Context", [soft(0.0)]),
        Row("E2P", [SoftmaxOver(Blind(1.0))]),
        Row("Static Prefix", [soft(0.0)]),
    ]
    results = run(tmp_path, rows=rows, data=([Request("a", 0, 5)], np.array([4]), np.array([0])))
    row = results.row("E2P")
    assert (row["expected_hit_rate@3"], row["n_unreachable"], row["p_value"], row["ci95"]) == (
        0.0,
        1,
        None,
        None,
    )
    assert "No test is possible" in results.primary["reading"]
    results.write(tmp_path / "results.json")


def test_expected_rate_is_the_limit_of_sampled_ones(tmp_path):
    """Two hundred draw seeds on a few instances: the sampled column approaches the expected one."""
    data = world(users=6)
    config = EvaluateConfig(n_candidates=3, draw_seeds=tuple(range(200)), beam_columns=False)
    row = run(tmp_path, config, [Row("No Context", [soft(1.0)])], data).rows[0]
    assert row["hit_rate@3"] == pytest.approx(row["expected_hit_rate@3"], abs=0.05)
    assert row["sampled_agrees"]
    assert expected_hit(np.array([0.0]), 3)[0] == 1.0

"""The evaluation job on small recommenders with known probabilities: figures, tests, refusals, resume."""

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
from evaluation.table.instances import Question, sample_instances
from evaluation.table.job import evaluate_rows
from evaluation.table.results import Results
from evaluation.table.rows import Row
from recsys.recommender import Ranked, Request

N = 15
CONFIG = EvaluateConfig(n_candidates=3, top_k=2, batch_size=16, bootstrap_samples=200, seed=5)


class Taste:
    """Scores every item `bias` at random, and those of the user's taste (user mod 3) `gain` higher."""

    name = "taste"

    def __init__(self, gain, seed=0):
        self.gain = gain
        self.bias = np.random.default_rng(seed).normal(size=N)

    def scores(self, requests):
        mine = np.stack([np.arange(N) % 3 == request.user % 3 for request in requests])
        return self.bias + self.gain * mine


def world(users=30, per_user=(1, 4), seed=0):
    """Instances whose targets are of the user's taste two times in three."""
    rng = np.random.default_rng(seed)
    requests, targets = [], []
    for user in range(users):
        for at in range(rng.integers(*per_user)):
            loyal = rng.random() < 2 / 3
            target = int(rng.choice(np.flatnonzero((np.arange(N) % 3 == user % 3) == loyal)))
            exclude = rng.choice(np.setdiff1d(np.arange(N), target), 2, replace=False)
            requests.append(
                Request(f"{user}-{at}", user, 100 + at, np.array([1]), np.array([9]), None, exclude)
            )
            targets.append(target)
    return requests, np.array(targets), np.array([request.user for request in requests])


def soft(gain, seed=0):
    return SoftmaxOver(Taste(gain, seed))


def table():
    return [
        Row("Popularity", [Popularity(np.arange(N))], reads="nothing"),
        Row("No Context", [soft(0.0)]),
        Row("Static Prefix", [soft(0.1, 1), soft(0.1, 2)]),
        Row("E2P-Random", [soft(-0.3, 1)]),
        Row("E2P", [soft(1.2, 1), soft(1.2, 2)], temperature=0.5, reads="history", trained="100 numbers"),
    ]


def run(tmp_path, config=CONFIG, rows=None, data=None, **more):
    question = Question(*(data or world()))
    rows = table() if rows is None else rows
    return evaluate_rows(config, rows, question, tmp_path / "c", {"data": "toy"}, quiet=True, **more)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return run(tmp_path_factory.mktemp("job"))


def plain_user_means(values, users):
    return np.array(
        [np.mean([v for v, u in zip(values, users, strict=True) if u == user]) for user in sorted(set(users))]
    )


def plain_expected(gain, seeds, temperature=1.0):
    """Expected hit-rate@3 of each instance by the formulas alone, averaged over training seeds."""
    requests, targets, _ = world()
    columns = []
    for seed in seeds:
        values = []
        for request, target in zip(requests, targets, strict=True):
            weights = np.exp(Taste(gain, seed).scores([request])[0] / temperature)
            weights[request.exclude] = 0
            values.append(1 - (1 - weights[target] / weights.sum()) ** 3)
        columns.append(values)
    return np.mean(columns, axis=0)


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


class _Killed(SoftmaxOver):
    """Dies after a number of calls, as a kill in the middle would end it."""

    calls_left = 10**9

    def draw(self, *args, **kwargs):
        if self.calls_left == 0:
            raise KeyboardInterrupt
        self.calls_left -= 1
        return super().draw(*args, **kwargs)


def killable(calls):
    rows = table()
    method = _Killed(Taste(1.2, 1))
    method.calls_left = calls
    return [*rows[:-1], replace(rows[-1], replicas=[method, soft(1.2, 2)])]


def test_a_killed_evaluation_continues_to_the_same_bytes(tmp_path, results):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, rows=killable(2))
    finished = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "c").glob("*.parquet")}
    assert finished
    resumed = run(tmp_path, rows=killable(10**9))
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "c").glob("*.parquet")}
    assert finished.items() <= after.items()  # nothing was measured twice
    for name, one in (("a", results), ("b", resumed)):
        one.write(tmp_path / f"{name}.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_damaged_chunk_is_measured_again(tmp_path, results):
    run(tmp_path)
    chunk = next((tmp_path / "c").glob("row04*.parquet"))
    chunk.write_bytes(chunk.read_bytes()[:50])
    assert run(tmp_path).as_dict() == results.as_dict()


def test_other_inputs_do_not_use_old_chunks(tmp_path):
    run(tmp_path)
    requests, targets, users = world(seed=3)
    fresh = run(tmp_path / "fresh", data=(requests, targets, users))
    assert run(tmp_path, data=(requests, targets, users)).as_dict() == fresh.as_dict()


def test_batch_size_changes_no_figure(tmp_path, results):
    other = run(tmp_path, CONFIG.model_copy(update={"batch_size": 100}))
    for ours, theirs in zip(results.rows, other.rows, strict=True):
        for name, value in ours.items():
            assert theirs[name] == (pytest.approx(value) if isinstance(value, float | list) else value), name


def test_results_round_trip_and_hold_no_nan(tmp_path, results):
    results.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == results
    text = (tmp_path / "results.json").read_text()
    assert "NaN" not in text
    wanted = "context_tokens hit_rate@3 expected_hit_rate@3 top3 ci95 relative_to_no_context_pct p_value"
    for row in json.loads(text)["rows"]:
        assert set(wanted.split()) <= row.keys()


def test_a_sample_takes_every_user_before_a_second_instance():
    users = np.repeat(np.arange(30), 5)
    chosen = sample_instances(users, 30, seed=1)
    assert sorted(users[chosen]) == list(range(30))
    assert len(np.unique(users[sample_instances(users, 45, seed=1)])) == 30
    assert chosen.tolist() == sample_instances(users, 30, seed=1).tolist()
    assert chosen.tolist() != sample_instances(users, 30, seed=2).tolist()
    assert (
        sample_instances(users, 0, 0).tolist() == sample_instances(users, 150, 0).tolist() == list(range(150))
    )


def test_a_sample_and_users_without_target_are_stated(tmp_path):
    question = Question(*world())
    config = CONFIG.model_copy(update={"max_instances": 20})
    results = evaluate_rows(config, table(), question, tmp_path / "c", {"users_in_data": 33}, quiet=True)
    facts = results.protocol
    assert (facts["n_instances"], facts["n_instances_available"]) == (20, len(question))
    assert facts["is_sample"]
    assert facts["users_without_held_out_item"] == 3
    assert results.rows[0]["n_users"] == 20
    assert "decide nothing" in results.primary["reading"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exclude": np.arange(N)}, "'0-0' excludes .or does not allow. its own target"),
        ({"history": np.array([1]), "history_times": np.array([100])}, "reaches its own moment 100"),
    ],
)
def test_instances_that_leak_or_cannot_be_hit_are_refused(tmp_path, change, message):
    requests, targets, users = world(users=3)
    requests[0] = replace(requests[0], **change)
    with pytest.raises(ValueError, match=message):
        run(tmp_path, data=(requests, targets, users))


def test_other_mistakes_of_callers(tmp_path):
    requests, targets, users = world(users=3)
    with pytest.raises(ValueError, match="no user has a held-out item"):
        run(tmp_path, data=([], np.array([]), np.array([])))
    with pytest.raises(ValueError, match="occurs twice"):
        run(tmp_path, data=([requests[0]] * 2, targets[:1].repeat(2), users[:1].repeat(2)))
    with pytest.raises(ValueError, match="no row 'No Context'"):
        run(tmp_path, rows=table()[2:])
    with pytest.raises(ValueError, match="row 'E2P' needs replicas"):
        run(tmp_path, rows=[*table()[:-1], Row("E2P", [])])


class _Cheats(Popularity):
    def recommend(self, requests, n, temperature=0.0, seed=0):
        return [Ranked(np.arange(N), np.zeros(N)) for _ in requests]


class _Repeats(SoftmaxOver):
    def recommend(self, requests, n, temperature=0.0, seed=0):
        return [Ranked(np.full(n, 3), np.zeros(n)) for _ in requests]


class _NaN(SoftmaxOver):
    def log_prob(self, requests, items, temperature=1.0):
        return np.full(len(requests), np.nan)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (_Cheats(np.ones(N)), "row 'Bad' answered|returned an item that request"),
        (_Repeats(Taste(1.0)), "row 'Bad' answered request .* with repeats"),
        (_NaN(Taste(1.0)), "row 'Bad': the target of request .* scores NaN"),
    ],
)
def test_answers_that_break_the_protocol_stop_the_run(tmp_path, method, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, rows=[*table(), Row("Bad", [method])])


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


def test_the_smallest_detectable_effect_stands_beside_the_primary(results):
    sd = results.primary["smallest_detectable_difference"]
    assert sd > 0
    assert results.primary["smallest_detectable_pct"] == pytest.approx(100 * sd / results.primary["value_b"])
    assert (
        results.primary["bootstrap_ci95"][0]
        < results.primary["difference"]
        < results.primary["bootstrap_ci95"][1]
    )


def test_expected_rate_is_the_limit_of_sampled_ones(tmp_path):
    """Two hundred draw seeds on a few instances: the sampled column approaches the expected one."""
    data = world(users=6)
    config = EvaluateConfig(n_candidates=3, draw_seeds=tuple(range(200)), beam_columns=False)
    row = run(tmp_path, config, [Row("No Context", [soft(1.0)])], data).rows[0]
    assert row["hit_rate@3"] == pytest.approx(row["expected_hit_rate@3"], abs=0.05)
    assert row["sampled_agrees"]
    assert expected_hit(np.array([0.0]), 3)[0] == 1.0

"""The report's text, tables and pictures on a small real evaluation."""

from __future__ import annotations

import base64
import io
import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from rich.console import Console

from evaluation.baselines import Popularity
from evaluation.report.plots import _tsne, by_group, code_use, forest, training_curves, tsne_pair
from evaluation.report.report import print_table, write_report
from evaluation.report.tables import p_value, percent, rate, signed
from evaluation.softmax import SoftmaxOver
from evaluation.table.config import EvaluateConfig
from evaluation.table.instances import Question
from evaluation.table.job import evaluate_rows
from evaluation.table.results import Results
from evaluation.table.rows import COSTS, Row
from recsys.recommender import Request


class Split:
    """Even users like low items, odd ones half as much high items, as far as `gain` tells."""

    name = "split"

    def __init__(self, gain):
        self.gain = gain

    def scores(self, requests):
        return np.stack([self.gain * (np.arange(10) < 5) * (1 - 1.5 * (r.user % 2)) for r in requests])


def small_results(folder, max_instances=0, broken=False):
    requests = [Request(f"r{at}", user=at // 2, time=at) for at in range(60)]
    users = np.array([request.user for request in requests])
    targets = np.where(users % 2 == 0, 1, 7)
    rows = [
        Row("Popularity", [Popularity(np.arange(10))]),
        Row("No Context", [SoftmaxOver(Split(0.0))], matched=1.0),
        Row("Static Prefix", [SoftmaxOver(Split(0.01))], matched=0.8),
        Row(
            "E2P",
            [SoftmaxOver(Split(1.0))],
            temperature=0.5,
            matched=0.7,
            reads="history <before>",
            trained="9 numbers",
            costs={"per_user_parameters": 1234.0, "seconds_to_admit": 0.125},
        ),
    ]
    config = EvaluateConfig(n_candidates=3, top_k=2, max_instances=max_instances, bootstrap_samples=100)
    facts = {"data": "toy", "users_in_data": 33}
    kinds = ["ood" if user % 3 == 0 else "warm" for user in users]
    groups = {"users": kinds, "activity": [("0", "1-4", "5+")[at % 3] for at in range(60)]}
    return evaluate_rows(
        config, rows, Question(requests, targets, users), folder, facts, quiet=True, groups=groups
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return small_results(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    return small_results(tmp_path_factory.mktemp("sampled"), max_instances=20)


def printed(results):
    out = io.StringIO()
    print_table(results, Console(file=out, width=80))
    return out.getvalue()


def words(text):
    return " ".join(text.split())


def test_numbers_as_printed():
    assert [rate(0.05791), rate(1.0), rate(None)] == [".0579", "1.0000", "–"]
    assert [signed(-0.002), signed(0.5), signed(10.0)] == ["-.0020", "+.5000", "+10.0000"]
    assert [p_value(0.0004), p_value(0.25), p_value(1.0)] == ["<.001", ".250", "1.000"]
    assert percent(-3.25) in ("-3.2 %", "-3.3 %")


def html_of(results, folder):
    write_report(folder / "all.html", results)
    return words((folder / "all.html").read_text())


def test_the_report_shows_every_row_and_figure(tmp_path, results):
    text = html_of(results, tmp_path)
    row = results.row("E2P")
    for figure in ("hit_rate@3", "expected_hit_rate@3", "distinct3", "top3", "recall@2", "ndcg@2", "p_holm"):
        show = p_value if figure == "p_holm" else rate
        assert show(row[figure]).replace("<", "&lt;") in text, figure
    assert percent(row["relative_to_no_context_pct"]) in text
    assert "3 users have no held-out item" in words(text)
    assert "named before the run: E2P against Static Prefix" in words(text)


def test_the_terminal_shows_one_table_of_twelve_rows_and_a_hundred_columns(results):
    text = printed(results)
    assert sum("──" in line for line in text.splitlines()) == 1  # one table
    assert max(map(len, text.splitlines())) <= 100
    for figure in ("expected_hit_rate@3", "top3", "recall@2", "ndcg@2"):
        assert rate(results.row("E2P")[figure]) in text, figure
    assert "named before the run: E2P against Static Prefix" in words(text)
    long = [dict(row) for row in results.rows]
    long += [
        row | {"name": f"A row of a name that is much too long, {at}"} for at in range(20) for row in long[:1]
    ]
    text = printed(Results(results.protocol, long, results.primary, results.effects))
    body = [
        line
        for line in text.splitlines()
        if line.strip().startswith(("A row", "E2P", "No ", "Static", "Popul"))
    ]
    assert len(body) == 12
    assert all(
        any(line.strip().startswith(name) for line in body) for name in ("E2P ", "No Context", "Static")
    )
    assert max(map(len, text.splitlines())) <= 100
    assert f"{len(long) - 12} more rows" in words(text)


def test_groups_references_and_costs_have_tables(tmp_path, results):
    text = html_of(results, tmp_path)
    ood = results.groups["users"][0]
    assert ood["group"] == "ood"
    row = next(row for row in ood["rows"] if row["name"] == "E2P")
    against = next(one for one in results.references["Static Prefix"] if one["a"] == "E2P")
    for title in (
        "By users: hit-rate@3",
        "By activity: difference to No Context",
        "Against E2P",
        "What it costs",
    ):
        assert title in text
    assert rate(row["value"]) + " ±" in text
    assert signed(row["difference"]) + " ±" in text
    assert "1,234" in text
    assert ".125" in text
    assert signed(against["difference"]) in text
    assert "no test is made of them" in text
    bare = Results(results.protocol, [row | {"per_user_parameters": None, "seconds_to_admit": None} for row in results.rows],
                   results.primary, results.effects)  # fmt: skip
    text = html_of(bare, tmp_path)
    assert "What it costs" not in text
    assert "By users" not in text
    assert "E2P against the other rows" in text  # as long as no reference says it


def test_matched_calibration_has_its_tables(tmp_path, results):
    text = html_of(results, tmp_path)
    assert "At matched calibration" in text
    assert "Against Static Prefix, at matched calibration" in text
    own = next(one for one in results.matched["rows"] if one["name"] == "E2P")
    assert f"{own['nats']:.3f}" in text
    assert f"{own['nats']:.2f}" in printed(results)


def test_results_of_an_older_prelude_are_read_and_printed(tmp_path, results):
    old = results.as_dict()
    del old["groups"], old["references"]
    old["rows"] = [{key: row[key] for key in row if key not in COSTS} for row in old["rows"]]
    (tmp_path / "results.json").write_text(json.dumps(old))
    read = Results.read(tmp_path / "results.json")
    assert (read.groups, read.references) == ({}, {})
    assert "E2P" in printed(read)
    assert "E2P against the other rows" in html_of(read, tmp_path)
    write_report(tmp_path / "r.html", read)


def test_only_a_sample_says_that_its_p_values_decide_nothing(tmp_path, results, sampled):
    assert "decide nothing" not in words(printed(results))
    assert "decide nothing" in words(printed(sampled))
    assert "a seeded sample of the 60 instances" in html_of(sampled, tmp_path)


def test_a_row_whose_sampler_disagrees_is_marked(tmp_path, results):
    rows = [dict(row) for row in results.rows]
    rows[-1]["sampled_agrees"] = False
    write_report(tmp_path / "r.html", Results(results.protocol, rows, results.primary, results.effects))
    assert 'class="first bad"' in (tmp_path / "r.html").read_text()


def everything():
    rng = np.random.default_rng(0)
    return {
        "curves": {
            "adapt": {"losses": [(1, 3.0), (2, 2.0)], "validation": [(2, 0.05)]},
            "empty": {"losses": []},
        },
        "code_counts": [rng.poisson(3, 16), rng.poisson(3, 16)],
        "tsne": {
            "embeddings": rng.normal(size=(12, 5)),
            "prefixes": rng.normal(size=(12, 9)),
            "labels": ["comedy", "drama"] * 6,
        },
        "quality": {"collisions": 2, "perplexity": {"level 1": 14.25}, "codes": list(range(256))},
        "timings": {"adapt": 90.0, "embed": 30.5},
        "extra": {"Notes": "a <b>bold</b> claim"},
    }


def test_the_report_is_one_file_with_its_pictures(tmp_path, results):
    write_report(tmp_path / "report.html", results, **everything())
    html = (tmp_path / "report.html").read_text()
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert len(pictures) == 5
    for picture in pictures:
        pixels = plt.imread(io.BytesIO(base64.b64decode(picture)), format="png")
        assert pixels.shape[0] > 100
        assert pixels.std() > 0  # something is drawn
    assert not re.search(r'(src|href)="(?!data:)', html), "nothing is loaded from elsewhere"
    assert "<b>" not in html
    assert "256 entries" in html
    assert "history &lt;before&gt;" in html
    assert "120.5 s" in html
    assert rate(results.row("E2P")["expected_hit_rate@3"]) in html


def test_a_report_of_nothing_but_results(tmp_path, sampled):
    write_report(tmp_path / "report.html", sampled, {}, None, None, None, None, None)
    html = (tmp_path / "report.html").read_text()
    assert html.count("data:image/png") == 2  # the effects, and quality by activity
    assert "decide nothing" in html


@pytest.mark.parametrize("users", [0, 1, 3])
def test_too_few_users_for_tsne(users):
    assert tsne_pair(np.zeros((users, 3)), np.zeros((users, 4)), ["x"] * users) is None


@pytest.mark.parametrize("vectors", [np.zeros((5, 3)), np.ones((4, 1)), np.eye(6)])
def test_tsne_of_odd_vectors_is_finite(vectors):
    assert np.isfinite(_tsne(vectors, 0)).all()


def test_tsne_keeps_two_tastes_apart():
    rng = np.random.default_rng(0)
    side = np.repeat([1.0, -1.0], 20)
    places = _tsne(side[:, None] * np.array([1.0, 2.0, -1.0]) + 0.05 * rng.normal(size=(40, 3)), 0)
    apart = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(40)
    assert (side[apart.argmin(axis=1)] == side).all()


def test_tsne_needs_one_label_per_user():
    with pytest.raises(ValueError, match="3 users, 3 prefixes and 2 labels"):
        tsne_pair(np.zeros((3, 2)), np.zeros((3, 2)), ["a", "b"])


def test_many_tastes_and_dead_codes_are_drawn():
    rng = np.random.default_rng(1)
    labels = [f"taste {at % 12}" for at in range(24)]
    assert tsne_pair(rng.normal(size=(24, 4)), rng.normal(size=(24, 4)), labels)[:4] == b"\x89PNG"
    assert code_use([np.zeros(8), np.array([5, 0, 0, 0])])[:4] == b"\x89PNG"
    assert code_use([]) is None
    assert training_curves({}) is None


def test_of_very_many_users_a_part_is_drawn(monkeypatch):
    monkeypatch.setattr("evaluation.report.plots.MAX_TSNE_USERS", 6)
    sizes = []
    monkeypatch.setattr(
        "evaluation.report.plots._tsne", lambda vectors, seed: sizes.append(len(vectors)) or vectors
    )
    assert tsne_pair(np.eye(9)[:, :2], np.eye(9)[:, :2], list("aaabbbccc"))[:4] == b"\x89PNG"
    assert sizes == [6, 6]


def test_a_panel_for_each_of_many_rows_and_none_for_one_group(results, monkeypatch):
    group = results.groups["activity"][0]
    low_first = sorted(group["rows"], key=lambda row: row["ci95"][1])
    many = [group | {"rows": [row | {"name": f"row {at}"} for row in low_first for at in range(5)]}] * 3
    drawn = []
    monkeypatch.setattr("evaluation.report.plots.png", lambda figure: drawn.append(figure) or b"")
    by_group(many)
    assert [axis.get_title(loc="left") for axis in drawn[0].axes] == [row["name"] for row in many[0]["rows"]]
    line = drawn[0].axes[-1].lines[1]
    assert line.get_ydata().tolist() == [low_first[-1]["value"]] * 3
    highest = max(row["ci95"][1] for row in group["rows"])
    assert all(axis.get_ylim()[0] == 0 and axis.get_ylim()[1] > highest for axis in drawn[0].axes)
    one_user = [group | {"rows": [group["rows"][-1] | {"ci95": None, "baseline_value": None}]}] * 2
    by_group(one_user)
    assert by_group(many[:1]) is None
    assert by_group([]) is None


def test_no_forest_without_intervals(results):
    rows = [row | {"relative_ci95_pct": None} for row in results.rows]
    bare = Results(results.protocol, rows, results.primary | {"relative_ci95_pct": None}, [])
    assert forest(bare) is None
    assert forest(results)[:4] == b"\x89PNG"


def test_missing_primary_rows_are_said(tmp_path):
    requests = [Request(f"r{at}", user=at, time=at) for at in range(8)]
    rows = [Row("No Context", [SoftmaxOver(Split(0.0))])]
    config = EvaluateConfig(n_candidates=3, bootstrap_samples=100)
    question = Question(requests, np.ones(8, dtype=int), np.arange(8))
    results = evaluate_rows(config, rows, question, tmp_path / "c", {}, quiet=True)
    assert "are not both in the table" in words(printed(results))
    write_report(tmp_path / "report.html", results)

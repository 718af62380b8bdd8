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

from evaluation.report.plots import by_group, code_use, forest, training_curves, tsne_pair
from evaluation.report.report import write_report
from evaluation.report.tables import p_value, percent, rate, signed
from evaluation.report.terminal import print_table
from evaluation.softmax import SoftmaxOver
from evaluation.table.config import EvaluateConfig
from evaluation.table.instances import Question
from evaluation.table.job import evaluate_rows
from evaluation.table.results import Results
from evaluation.table.rows import COSTS, Row
from recsys.recommender import Request
from tests.support.small_results import Split, small_results, whole_page


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
    nothing = dict.fromkeys(COSTS)
    rows = [row | nothing for row in results.rows]
    bare = Results(results.protocol, rows, results.primary, results.effects)
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


def test_the_report_is_one_file_with_its_pictures(tmp_path, results):
    write_report(tmp_path / "report.html", results, **whole_page())
    html = (tmp_path / "report.html").read_text()
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert len(pictures) == 5
    for picture in pictures:
        pixels = plt.imread(io.BytesIO(base64.b64decode(picture)), format="png")
        assert pixels.shape[0] > 100
        assert pixels.std() > 0  # something is drawn
    assert not re.search(r'(src|href)="(?!data:|#)', html), "nothing is loaded from elsewhere"
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


def test_training_curves_say_from_where_to_where_and_ring_the_kept_state(monkeypatch):
    drawn = []
    monkeypatch.setattr("evaluation.report.plots.png", lambda figure: drawn.append(figure) or b"")
    curve = {"losses": [(10, 4.0), (20, 2.5), (40, 3.0)], "validation": [(0, -9.0), (20, -6.5), (40, -7.0)]}
    training_curves({"Stage $1": curve, "flat": {"losses": [(5, 1.0)]}, "nothing": {}})
    (axis,) = drawn[0].axes
    assert [text.get_text() for text in axis.texts] == [
        r"Stage \$1, 40 steps", "loss 4 to 3", "validation -9 to -6.5, at step 20", "flat, 5 steps", "loss 1 to 1",
    ]  # fmt: skip
    losses, values, kept = axis.lines[:3]
    assert np.diff(losses.get_xdata()) == pytest.approx([3.4 / 4, 3.4 / 2])
    assert np.ptp(losses.get_ydata()) == pytest.approx(
        np.ptp(values.get_ydata())
    )  # each from its least to its largest
    assert (kept.get_xdata(), kept.get_ydata()) == (values.get_xdata()[1], values.get_ydata()[1])


def test_of_very_many_users_a_part_is_drawn(monkeypatch):
    monkeypatch.setattr("evaluation.report.plots.MAX_TSNE_USERS", 6)
    sizes = []
    monkeypatch.setattr(
        "evaluation.report.plots.tsne_places", lambda vectors, seed=0: sizes.append(len(vectors)) or vectors
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
    named = [text.get_text() for axis in drawn[0].axes for text in axis.texts]
    assert named == [row["name"] for row in many[0]["rows"]]
    last = [line for line in drawn[0].axes[-1].lines if line.get_marker() != "None"][-1]
    assert last.get_ydata()[-4:-1].tolist() == [low_first[-1]["value"]] * 3
    assert np.isnan(last.get_ydata()[-1])
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

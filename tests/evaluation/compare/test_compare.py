"""Runs against each other on made figures: what is one test, how tests differ, and the paired tests themselves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from evaluation.compare.measured import RunFigures, how_tests_differ
from evaluation.compare.page import sentences
from evaluation.compare.paired import compare_rows
from evaluation.compare.pictures import curves_together, differences
from evaluation.table.config import EvaluateConfig
from evaluation.table.instances import Question
from evaluation.table.kept import Kept, read_instances, save_instances
from recsys.recommender import Request

PROTOCOL = {"n_candidates": 30, "top_k": [5], "temperature": 1.0, "items": 9, "exclude_seen": True}


def figures(name: str, gain: float = 0.0, seed: int = 0, users: int = 40, **protocol) -> RunFigures:
    """Two instances a user; E2P with draws and nats, Popularity with a list alone."""
    stream = np.random.default_rng(seed)
    owners = np.repeat([f"u{user}" for user in range(users)], 2)
    count = len(owners)
    frame = pd.DataFrame(
        {"user_id": owners, "item_id": "i1", "time": np.arange(count), "events": 3, "history": np.arange(count).astype(np.uint64)}
    )  # fmt: skip
    base = np.random.default_rng(7).random(count)
    rows = {
        "E2P": {"expected": base + gain + 0.1 * stream.normal(size=count), "top": (base > 0.5).astype(float),
                "log_p_matched": -base},
        "Popularity": {"top": (base > 0.8).astype(float)},
    }  # fmt: skip
    return RunFigures(name, Kept(frame, rows), PROTOCOL | protocol)


def test_a_gain_is_shown_and_paired_over_users():
    first, other = figures("a"), figures("b", gain=0.1, seed=1)
    found = compare_rows([first, other], EvaluateConfig())
    tests = {(one["row"], one["figure"]): one for one in found["tests"]}
    assert set(tests) == {("E2P", "expected_hit_rate@30"), ("E2P", "nats"), ("Popularity", "top30")}
    one = tests["E2P", "expected_hit_rate@30"]
    sides = [run.kept.rows["E2P"]["expected"].reshape(-1, 2).mean(axis=1) for run in (other, first)]
    assert one["difference"] == pytest.approx((sides[0] - sides[1]).mean())
    assert one["p_value"] == pytest.approx(stats.ttest_rel(*sides).pvalue)
    assert one["p_holm"] == pytest.approx(3 * one["p_value"])
    assert tests["Popularity", "top30"]["p_value"] == 1
    assert any(
        line.startswith("b against a, hits: better E2P; worse none") for line in sentences(found, 0.05)
    )
    drawn = differences(found, "hits")
    assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == ["E2P", "Popularity"]
    drawn.canvas.draw()  # all names are there, and not those alone that a few ticks would have
    assert [tick.label1.get_text() for tick in drawn.axes[0].yaxis.get_major_ticks()] == ["E2P", "Popularity"]


def test_the_order_of_instances_does_not_matter():
    first, other = figures("a"), figures("b", gain=0.1, seed=1)
    order = np.random.default_rng(3).permutation(len(other.kept.instances))
    rows = {row: {name: one[order] for name, one in some.items()} for row, some in other.kept.rows.items()}
    mixed = RunFigures("b", Kept(other.kept.instances.iloc[order].reset_index(drop=True), rows), PROTOCOL)
    assert compare_rows([first, mixed], EvaluateConfig()) == compare_rows([first, other], EvaluateConfig())


def test_other_tests_are_refused_and_it_is_said_how():
    first = figures("a")
    with pytest.raises(
        ValueError,
        match=r"a and b were not measured on the same test.*draws and depth of a list: 30 in a, 10 in b",
    ):
        compare_rows([first, figures("b", n_candidates=10)], EvaluateConfig())
    (said,) = how_tests_differ(first, figures("b", users=30))
    assert said.startswith(
        "instances: 80 in a and 60 in b, of which 60 are in both; only in a: user u30, item i1, time 60;"
    )
    other = figures("b")
    other.kept.instances.loc[4:5, "history"] = 99
    (said,) = how_tests_differ(first, other)
    assert said.startswith(
        "histories: of 80 instances 2 come after other events (0 after another number of them)"
    )
    with pytest.raises(
        ValueError, match=r"no two of these runs have a row 'P2P'.*they share E2P, Popularity"
    ):
        compare_rows([first, figures("b")], EvaluateConfig(), ["P2P"])


def test_figures_of_instances_come_back(tmp_path):
    requests = [
        Request("e0", 0, 5, np.array([1, 2]), np.array([1, 2])),
        Request("e1", 1, 6, np.array([2, 1]), np.array([1, 2])),
    ]
    asked = Question(requests, np.array([0, 2]), np.array([0, 1]))
    measured = [
        {"top": np.array([[1.0, 0.0], [0.0, 0.0]]), "entropy": np.zeros((2, 1)), "recall@5": np.ones((2, 1))}
    ]
    ids = np.array(["x", "y", "z"], dtype=object)
    save_instances(tmp_path, ["E2P"], measured, asked, ids, ids)
    kept = read_instances(tmp_path / "instances.parquet")
    assert kept.instances[["user_id", "item_id"]].values.tolist() == [["x", "x"], ["y", "z"]]
    assert kept.instances["history"].nunique() == 2  # the same items in another order
    assert {name: one.tolist() for name, one in kept.rows["E2P"].items()} == {
        "top": [0.5, 0],
        "recall@5": [1, 1],
    }


def test_curves_lie_over_each_other():
    curve = {"losses": [[1, 2.0], [2, 1.0]], "validation": []}
    figure = curves_together({"a": {"Stage 1": curve}, "b": {"Stage 1": curve, "E2P": curve}})
    assert figure is not None
    assert [len(axis.lines) for axis in figure.axes] == [2, 1]
    assert curves_together({"a": {}, "b": {}}) is None

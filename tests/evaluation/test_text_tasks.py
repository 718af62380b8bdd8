"""The arithmetic behind the tables of text tasks: against scikit-learn, the rouge library and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from rouge_score import rouge_scorer
from scipy import stats
from sklearn.metrics import f1_score

from evaluation.text_tasks.metrics import Rouge, expected_rating, label_counts, macro_f1_of_counts
from evaluation.text_tasks.results import Figure, Measured, markdown, tabulate

# -- the arithmetic -------------------------------------------------------------------------------------------------------


def test_macro_f1_of_counts_is_scikit_learns():
    draw = np.random.default_rng(0)
    targets, predicted = draw.integers(0, 5, 60), draw.integers(0, 4, 60)
    users = draw.integers(0, 9, 60)
    names, counts = label_counts(targets, predicted, users, 7)
    assert len(names) == 9
    expected = f1_score(targets, predicted, average="macro", zero_division=0)
    assert macro_f1_of_counts(counts.sum(0)) == pytest.approx(expected)
    chosen = users == 3
    expected = f1_score(targets[chosen], predicted[chosen], average="macro", zero_division=0)
    assert macro_f1_of_counts(counts[names == 3].sum(0)) == pytest.approx(expected)


def test_expected_rating_by_hand():
    probs = np.array([[0.25, 0.75], [1.0, 0.0]])
    with np.errstate(divide="ignore"):
        assert expected_rating(np.log(probs), np.array([1.0, 5.0])) == pytest.approx([4.0, 1.0])


def test_rouge_is_the_librarys():
    scorer = rouge_scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
    library = scorer.score("the cat sat on the mat", "the mat sat")
    ours = Rouge().scores("the cat sat on the mat", "the mat sat")
    assert ours["rouge1"] == library["rouge1"].fmeasure == pytest.approx(2 * 3 / (6 + 3))
    assert ours["rougeL"] == library["rougeL"].fmeasure


def test_tables_average_users_first_and_test_pairs():
    users = np.array(["a", "a", "b", "c"])
    one = np.array([[1.0, 3.0], [3.0, 5.0], [4.0, 4.0], [8.0, 8.0]])  # user means 3, 4, 8
    two = np.array([[1.0], [1.0], [2.0], [3.0]])
    rows = tabulate(
        {
            "no_context": Measured({"e": Figure(two, "exp"), "r": Figure(two, "root")}, facts={"tokens_added": 0.0, "parameters": 0}),
            "e2p": Measured({"e": Figure(one, "exp"), "r": Figure(one, "root")}, facts={"tokens_added": 1.0, "parameters": 9}),
        },
        users, None, 0, ["no_context", "static_prefix"], 100, 0,
    )  # fmt: skip
    figures = rows[1]["figures"]
    assert figures["e"]["value"] == pytest.approx(np.exp(5))
    assert figures["r"]["value"] == pytest.approx(np.sqrt(5))
    low, high = stats.t.interval(0.95, 2, 5, stats.sem([3, 4, 8]))
    assert figures["e"]["ci95"] == pytest.approx([np.exp(low), np.exp(high)])
    assert figures["r"]["ci95"] == pytest.approx([0 if low < 0 else np.sqrt(low), np.sqrt(high)])
    test = figures["e"]["against"]["no_context"]
    assert test["difference"] == pytest.approx(3.0)
    assert test["p"] == pytest.approx(stats.ttest_rel([3, 4, 8], [1, 2, 3]).pvalue)
    assert "static_prefix" not in figures["e"]["against"]
    assert "## Against no_context" in markdown("t", ["fact"], rows, ["no_context", "static_prefix"])


def test_an_instance_that_was_not_measured_is_left_out():
    users = np.array(["a", "b", "c"])
    values = np.array([[1.0], [3.0], [np.nan]])
    facts = {"tokens_added": 0.0, "parameters": 0}
    rows = tabulate({"no_context": Measured({"x": Figure(values)}, facts=facts)}, users, None, 0, [], 100, 0)
    assert rows[0]["figures"]["x"]["value"] == 2
    assert rows[0]["figures"]["x"]["n_users"] == 2

"""The five sentences, held against the figures that results.json has; and what they say where nothing is shown."""

from __future__ import annotations

import copy
import json

import pytest

from evaluation.report.tables import interval, p_value, rate, signed
from evaluation.report.verdict import is_shown, milliseconds, ranking_of, sentences
from evaluation.table.results import Results
from tests.support.small_results import small_results


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results:
    found = small_results(tmp_path_factory.mktemp("personal"))
    found.write(tmp_path_factory.getbasetemp() / "results.json")
    return Results.read(tmp_path_factory.getbasetemp() / "results.json")  # what a reader has


@pytest.fixture(scope="module")
def impersonal(tmp_path_factory) -> Results:
    return small_results(tmp_path_factory.mktemp("impersonal"), personal=False)


def said(results: Results) -> dict:
    return {one.key: one for one in sentences(results)}


def against(results: Results, name: str) -> dict:
    return next(one for one in results.ranking["contrasts"] if one["b"] == name)


def test_there_are_five_in_their_order(results):
    assert [one.key for one in sentences(results)] == ["best", "next", "personal", "query", "cost"]


def test_the_best_row_has_its_figure_its_interval_and_its_distance_from_popularity(results):
    best, other = results.ranking["rows"][0], against(results, "Popularity")
    assert best["value"] == max(row["top3"] for row in results.rows)
    assert results.ranking["best"] == best["name"] == "E2P"
    text = said(results)["best"].text
    assert (
        f"E2P: hit-rate@3 of its ranked list {rate(best['value'])} (95 % {interval(best['ci95'])}) over 30 users"
        in text
    )
    low, high = other["difference_ci95"]
    assert (
        f"{signed(other['difference'])} ({signed(low)} to {signed(high)}, p {p_value(other['p_holm'])}) is shown"
        in text
    )
    assert other["difference"] == pytest.approx(best["value"] - results.row("Popularity")["top3"])
    assert f"Popularity has {rate(other['value_b'])}, and" in text
    assert other["value_b"] != other["value_a"]
    assert other["p_holm"] < 0.05 < 1
    assert said(results)["best"].shown is True


def test_p_values_of_the_best_are_corrected_for_all_pairs(results):
    names = [row["name"] for row in results.ranking["rows"]]
    assert results.ranking["n_tests_in_holm_family"] == len(names) * (len(names) - 1) // 2
    for one in results.ranking["contrasts"]:
        assert one["p_holm"] >= one["p_value"]
        assert one["a"] == "E2P"


def test_the_next_row_is_the_second_and_no_control(results):
    second = next(row for row in results.ranking["rows"][1:] if row["name"] != "E2P-Random")
    one = said(results)["next"]
    assert one.text.startswith(f"Next comes {second['name']} with {rate(second['value'])}")
    assert one.shown is is_shown(against(results, second["name"]), results)


def test_of_the_others_those_are_named_that_are_not_shown_to_be_below(results):
    def one(name: str, p: float) -> dict:
        return {"a": "E2P", "b": name, "value_a": 0.5, "value_b": 0.4, "n_users": 30, "difference": 0.1,
                "difference_ci95": [0.05, 0.15], "p_value": 0.001, "p_holm": p}  # fmt: skip

    names = ["E2P", "E2P-Random", "No Context", "Static Prefix", "Popularity"]
    other = copy.deepcopy(results)
    other.ranking.update(
        best="E2P",
        rows=[{"name": name, "value": 0.5 - at / 10, "ci95": None} for at, name in enumerate(names)],
        contrasts=[one(name, p) for name, p in zip(names[1:], (0.9, 0.2, 0.06, 0.01), strict=True)],
    )
    found = said(other)["next"]
    assert found.text.startswith("Next comes No Context with .3000: the difference of +.1000 (")
    assert found.text.endswith(
        "is not shown. Of 3 others, 2 are not shown to be below the best: No Context, Static Prefix."
    )


def test_what_is_personal_is_said_with_both_comparisons(results):
    pair = next(one for one in results.references["E2P"] if one["a"] == "E2P-Random")
    low, high = pair["difference_ci95"]
    one = said(results)["personal"]
    assert one.text.startswith("Yes. ")
    assert rate(pair["value_b"]) in one.text
    assert rate(pair["value_a"]) in one.text
    change = f"{signed(-pair['difference'])} ({signed(-high)} to {signed(-low)}, p {p_value(pair['p_holm'])})"
    assert f"{change} is shown" in one.text
    assert f"{rate(results.primary['value_b'])}): {signed(results.primary['difference'])} (" in one.text
    assert one.shown is True


def test_a_world_in_which_nothing_is_personal_says_so(impersonal):
    pair = next(one for one in impersonal.references["E2P"] if one["a"] == "E2P-Random")
    assert pair["difference_ci95"][0] < 0 < pair["difference_ci95"][1]
    one = said(impersonal)["personal"]
    assert one.text.startswith("Not shown. ")
    assert "is not shown" in one.text
    assert one.shown is False


def with_pair(results: Results, **changes) -> Results:
    """The same results, the pair of own and another's vector with other figures."""
    other = copy.deepcopy(results)
    next(one for one in other.references["E2P"] if one["a"] == "E2P-Random").update(changes)
    return other


@pytest.mark.parametrize(
    ("bounds", "p", "shown"),
    [
        ([-0.2, -0.1], 0.001, True),
        ([-0.2, -0.1], 0.05, False),
        ([-0.2, 0.0], 0.04, False),
        ([-0.2, 0.1], 0.001, False),
    ],
)
def test_shown_takes_the_interval_and_the_corrected_p(results, bounds, p, shown):
    one = said(with_pair(results, difference=-0.15, difference_ci95=bounds, p_holm=p, p_value=1e-9))[
        "personal"
    ]
    assert one.shown is shown
    assert one.text.startswith("Yes. " if shown else "Not shown. ")


def test_a_vector_that_is_read_and_does_not_help_is_not_personal(results):
    flat = copy.deepcopy(results)
    flat.primary.update(difference=0.001, difference_ci95=[-0.01, 0.012], p_value=0.8)
    one = said(flat)["personal"]
    assert one.text.startswith("Not shown: another's vector does harm")
    assert one.shown is False
    worse = with_pair(results, difference=0.15, difference_ci95=[0.1, 0.2], p_holm=0.001)
    assert said(worse)["personal"].text.startswith("No: another's vector does better")


def test_without_the_twin_it_was_not_measured(results):
    less = copy.deepcopy(results)
    less.references["E2P"] = [one for one in less.references["E2P"] if one["a"] != "E2P-Random"]
    one = said(less)["personal"]
    assert (one.shown, one.text.startswith("Not measured")) == (None, True)


CHANGE = {"a": "E2P × words", "b": "E2P", "depth": 30, "value_a": 0.4, "value_b": 0.25, "n_users": 90, "difference": 0.15,
          "difference_ci95": [0.1, 0.2], "p_value": 0.001, "p_holm": 0.004}  # fmt: skip


def test_a_query_changes_what_its_contrast_says(results):
    def asked(**changes):
        return said(
            Results(
                **{**results.as_dict(), "queries": {"seen": {"instances": 99, "change": CHANGE | changes}}}
            )
        )["query"]

    one = asked()
    assert (
        "E2P × words lists the target among 30 in .4000 of 99 instances; without, E2P does in .2500"
        in one.text
    )
    assert "+.1500 (+.1000 to +.2000, p .004) is shown" in one.text
    assert one.shown is True
    for changes in ({"p_holm": 0.06}, {"difference_ci95": [-0.01, 0.2]}):
        assert "is not shown" in asked(**changes).text
        assert asked(**changes).shown is False
    assert said(results)["query"].text.startswith("Not measured: this run asked no queries")


def test_costs_are_tokens_latency_and_bytes(results):
    text = said(results)["cost"].text
    assert f"E2P: {milliseconds(12.25)} for a list of ten items" in text
    assert "0 tokens of personal context" in text
    assert f"{4 * 1234:,} bytes kept a user" in text


def test_a_sample_shows_nothing(tmp_path):
    found = said(small_results(tmp_path, max_instances=20))
    assert found["best"].text.startswith("Only a sample of the test was measured (20 of 60 instances)")
    assert not any(one.shown for one in found.values())


def test_results_of_an_older_prelude_say_what_they_cannot(results):
    old = results.as_dict()
    del old["ranking"], old["queries"]
    for row in old["rows"]:
        del row["is_baseline"], row["latency_ms"]
    read = Results(**json.loads(json.dumps(old)))
    assert ranking_of(read)["best"] == "E2P"
    found = said(read)
    assert "no comparison with Popularity" in found["best"].text
    assert "Evaluate again" in found["next"].text
    assert found["personal"].shown is True

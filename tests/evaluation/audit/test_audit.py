"""The audit of lists: groups, intervals, and the worst group of a world in which it is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from evaluation.audit import groups
from evaluation.audit.audit import Population, _worst, _worst_items, audit_lists
from evaluation.audit.pictures import by_group
from evaluation.audit.tables import as_csv, worst_groups

N, PEOPLE = 60, 240


def population() -> tuple[np.ndarray, Population]:
    """Lists that give everybody popular items of the first kind; half of the people have had the second kind, which is rare."""
    stream = np.random.default_rng(0)
    kinds = np.zeros((N, 2))
    kinds[: N // 2, 0] = kinds[N // 2 :, 1] = 1
    counts = np.where(np.arange(N) < N // 2, 100, 4)
    niche = np.arange(PEOPLE) % 2 == 1
    had = np.zeros((PEOPLE, N))
    for person in range(PEOPLE):
        half = np.arange(N // 2) + niche[person] * N // 2
        had[person, stream.choice(half, 8, replace=False)] = 1
    targets = np.array([stream.integers(N // 2) + one * N // 2 for one in niche.astype(int)])
    lists = np.stack([stream.permutation(N // 2)[:10] for _ in range(PEOPLE)])
    values = (had @ counts) / had.sum(axis=1)
    people = Population(
        targets, sparse.csr_array(had), counts, np.minimum(counts, PEOPLE), PEOPLE,
        np.eye(N), kinds, {"taste": groups.by_taste(values), "kind": np.where(niche, "rare", "common").astype(object)},
        {"popularity": groups.shares_of_labels(groups.by_popularity(counts))},
    )  # fmt: skip
    return lists, people


def test_the_worst_off_are_named_where_that_is_known():
    lists, people = population()
    found = audit_lists("Popular", lists, people)
    worst = {one["measure"]: one for one in found["worst_people"] if one["grouping"] == "kind"}
    assert {worst[name]["group"] for name in ("hit", "lift", "miscalibration")} == {"rare"}
    assert all(worst[name]["shown"] for name in ("hit", "lift", "miscalibration"))
    assert not worst["coverage"]["shown"]  # all are shown alike many items
    assert not worst["gini"]["shown"]
    row = {one["group"]: one for one in found["people"]["kind"]}
    assert row["rare"]["lift"]["value"] == pytest.approx(100 / 4 - 1)
    assert row["common"]["lift"]["value"] == pytest.approx(0)
    assert row["common"]["hit"]["ci95"][0] < 1 / 3 < row["common"]["hit"]["ci95"][1]
    assert "miscalibration (KL)" in worst_groups(found)
    (item,) = found["worst_items"]
    assert item["group"] == "tail"
    assert item["value"] < 0.6  # ten of its forty items are shown
    assert item["shown"]


def test_the_worst_of_many_groups_of_items_takes_more_than_the_worst_of_two():
    draws = np.concatenate([np.full(990, 0.8), np.full(10, 1.1)])  # a hundredth is not below 1
    few = {"a": (0.8, draws), "b": (1.2, draws + 0.4)}
    many = few | {f"c{at}": (1.2, draws + 0.4) for at in range(8)}
    assert _worst_items(few) == [{"group": "a", "value": 0.8, "shown": True}]
    assert _worst_items(many) == [{"group": "a", "value": 0.8, "shown": False}]


def test_intervals_hold_the_figure_and_nothing_is_shown_of_nothing():
    lists, people = population()
    stream = np.random.default_rng(1)
    people.user_groups["by chance"] = stream.permutation(
        np.array(["a", "b", "c"] * (PEOPLE // 3), dtype=object)
    )  # type: ignore[index]
    found = audit_lists("Popular", lists, people)
    for figure in found["figures"].values():
        assert figure["ci95"][0] - 1e-9 <= figure["value"] <= figure["ci95"][1] + 1e-9
    chance = [one for one in found["worst_people"] if one["grouping"] == "by chance"]
    assert len(chance) == 7
    assert not any(one["shown"] for one in chance)
    lines = as_csv([found]).splitlines()
    assert lines[0].startswith("row,of,grouping")
    assert any(line.startswith("Popular,people,kind,rare,120,lift,") for line in lines)


def test_where_all_have_one_list_no_group_is_worse_off_by_rounding():
    groups = {
        "a": (4.0, np.full(9, 4.0 - 1e-12), np.full(9, 4.0)),
        "b": (4.1, np.full(9, 4.0), np.full(9, 4.0)),
    }
    assert not _worst("novelty", groups)["shown"]
    groups["a"] = (4.0, np.full(9, 3.9), np.full(9, 4.0))
    assert _worst("novelty", groups)["shown"]


def test_a_measure_that_no_row_has_has_no_picture():
    lists, people = population()
    found = audit_lists("Popular", lists, people)
    assert by_group([found], "kind", "novelty") is not None
    assert by_group([found], "kind", "calm") is None


def test_groups_of_people_and_items():
    assert groups.by_activity(np.array([0, 4, 5, 60, 300])).tolist() == [
        "cold (0-4)", "cold (0-4)", "5-19", "50-199", "200+",
    ]  # fmt: skip
    assert groups.by_taste(np.array([5.0, 1, np.nan, 3])).tolist() == [
        "mainstream",
        "niche",
        "not given",
        "mixed",
    ]
    assert groups.by_popularity(np.array([6, 1, 0, 3, 2])).tolist() == [
        "head",
        "tail",
        "new",
        "middle",
        "tail",
    ]
    names, shares = groups.shares_of_values([["a", "b"], [], ["a"]], np.array([1.0, 1, 1]))
    assert names == ["a", "b", "not given"]
    assert shares.tolist() == [[0.5, 0.5, 0], [0, 0, 1], [1, 0, 0]]

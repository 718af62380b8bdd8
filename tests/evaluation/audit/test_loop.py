"""The feedback loop: the choice model's frequencies, a fitted utility, and arms of which it is known whether they narrow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import sparse

from evaluation.audit.audit import Population
from evaluation.audit.choice import Choice
from evaluation.audit.loop import Setting, differences, over_seeds, simulate, welfare
from evaluation.audit.loop_tables import sentences
from evaluation.audit.utility import fit_utilities
from evaluation.metrics import pad_lists
from recsys.recommender import Request

N, PEOPLE = 40, 60


@dataclass(frozen=True)
class Alike:
    """Everything is worth as much to everybody."""

    said: str = "alike"

    def of_all(self, requests: Sequence[Request]) -> np.ndarray:
        return np.zeros((len(requests), N))


def test_choices_are_made_as_stated():
    utility = np.tile(np.array([0.0, 1.0, 0.5, -1.0]), (40_000, 1))
    lists = np.tile([1, 0, 3, -1], (40_000, 1))
    chosen = Choice(Alike(), position=1.0, choices=1).choose(lists, utility, np.random.default_rng(0))[:, 0]
    weights = np.exp([1.0, 0.0, -1.0]) / np.log2([2, 3, 4])
    found = [(chosen == item).mean() for item in (1, 0, 3)]
    assert found == pytest.approx(weights / weights.sum(), abs=0.01)
    several = Choice(Alike(), choices=3).choose(lists[:50], utility[:50], np.random.default_rng(1))
    assert (np.sort(several, axis=1) == [0, 1, 3]).all()


def test_welfare_is_the_share_of_what_is_left_that_is_worth_less():
    utility = np.array([[0.0, 1, 2, 3]])
    request = Request("a", 0, 1, exclude=np.array([3]))
    assert welfare(np.array([[2, 0]]), utility, [request]) == pytest.approx([(2 / 3 + 0) / 2])
    assert np.isnan(welfare(np.array([[-1]]), utility, [request])).all()


class Counting:
    """Shows the same few items, those chosen most; or any."""

    def __init__(self, name: str, any_items: bool):
        self.name, self.any_items = name, any_items

    def start(self, seed: int) -> None:
        self.counts = np.random.default_rng(seed).random(N)

    def lists(self, requests: Sequence[Request], n: int, seed: int) -> np.ndarray:
        stream, rows = np.random.default_rng(seed), []
        for request in requests:
            scores = stream.random(N) if self.any_items else self.counts + 2 * stream.random(N)
            order = np.argsort(-scores)
            rows.append(order[request.available(order)][:n])
        return pad_lists(rows, n)

    def learn(self, requests: Sequence[Request], chosen: np.ndarray, seed: int) -> None:
        self.counts += np.bincount(chosen[chosen >= 0], minlength=N) / 4


def test_what_learns_from_its_own_lists_narrows_and_random_lists_do_not():
    kinds = np.zeros((N, 2))
    kinds[: N // 2, 0] = kinds[N // 2 :, 1] = 1
    had = np.zeros((PEOPLE, N))
    had[:, :4] = 1
    counts = np.bincount(np.repeat(np.arange(4), 5), minlength=N)
    people = Population(
        np.zeros(PEOPLE, int), sparse.csr_array(had), counts, counts, PEOPLE, np.eye(N), kinds,
        {"taste": np.array(["niche", "mainstream"] * (PEOPLE // 2), dtype=object)},
    )  # fmt: skip
    start = [Request(f"r{user}", user, 10, np.arange(4), np.arange(4)) for user in range(PEOPLE)]
    setting = Setting(people, Choice(Alike(), choices=2), counts == 0, rounds=5, n=5, exclude_seen=False)
    arms = {True: Counting("Random", True), False: Counting("Counted", False)}
    seeds = {one.name: [simulate(one, start, setting, seed) for seed in range(4)] for one in arms.values()}
    assert seeds["Counted"][0] == simulate(arms[False], start, setting, 0)
    found = {
        "plan": {"seeds": 4},
        "arms": {name: over_seeds(some) for name, some in seeds.items()},
        "against": "Counted",
        "levers": {"Random": differences(seeds["Random"], seeds["Counted"])},
    }
    narrows = found["arms"]["Counted"]["change"]["gini"]
    assert narrows["ci95"][0] > 0.05
    assert found["arms"]["Counted"]["change"]["overlap"]["ci95"][0] > 0
    steady = found["arms"]["Random"]["change"]["gini"]["ci95"]
    assert steady[0] < 0 < steady[1]
    assert found["levers"]["Random"]["gini"]["ci95"][1] < 0
    said = sentences(found)
    assert said[1].startswith("Counted: exposure narrows (Gini +")
    assert said[0].startswith("Random: exposure is not shown to change")
    assert set(found["arms"]["Counted"]["groups"]["taste"]) == {"niche", "mainstream"}
    assert sentences(found | {"plan": {"seeds": 1}}) == ["One seed: nothing is shown."]


def test_for_whom_is_said_where_a_group_goes_further_than_everybody():
    def rounds(niche: float, mainstream: float) -> list[dict]:
        some = {"niche": {"miscalibration": niche}, "mainstream": {"miscalibration": mainstream}}
        both = (niche + mainstream) / 2
        zero = {"niche": {"miscalibration": 0.0}, "mainstream": {"miscalibration": 0.0}}
        same = {"gini": 0.5}
        return [
            same | {"miscalibration": 0.0, "groups": {"taste": zero}},
            same | {"miscalibration": both, "groups": {"taste": some}},
        ]

    def said(*seeds: list[dict]) -> str:
        return sentences({"plan": {"seeds": len(seeds)}, "arms": {"A": over_seeds(seeds)}, "levers": {}})[0]

    apart = over_seeds([rounds(0.30, 0.10), rounds(0.31, 0.11), rounds(0.32, 0.10)])
    beside = apart["groups"]["taste"]["niche"]["miscalibration"]["beside"]
    assert beside["value"] == pytest.approx((0.1 + 0.1 + 0.11) / 3)
    half = (
        6.2053 * np.std([0.1, 0.1, 0.11], ddof=1) / np.sqrt(3)
    )  # t of 2 degrees of freedom at 1 − .05 / 2 / 2
    assert beside["ci95"] == pytest.approx([beside["value"] - half, beside["value"] + half], abs=1e-5)
    assert "from niche people's most" in said(rounds(0.30, 0.10), rounds(0.31, 0.11), rounds(0.32, 0.10))
    alike = said(rounds(0.30, 0.20), rounds(0.20, 0.30), rounds(0.26, 0.25))
    assert "lists go away from people's first taste" in alike
    assert "most" not in alike


def test_a_fitted_utility_knows_two_tastes():
    stream = np.random.default_rng(0)
    users = np.repeat(np.arange(80), 12)
    items = np.concatenate([stream.choice(20, 12, replace=False) + 20 * (user % 2) for user in range(80)])
    held_out = np.tile(np.arange(12) >= 10, 80)
    found = fit_utilities(users, items, 80, N, held_out)
    own = found.of_all([Request("a", 0, 1), Request("b", 1, 1)])
    assert own[0, :20].mean() > own[0, 20:].mean() + 1
    assert own[1, 20:].mean() > own[1, :20].mean() + 1
    assert found.figures["auc_on_the_other_half"] > 0.7
    assert found.figures["beta_svd"] > 0
    assert fit_utilities(users, items, 80, N, held_out).values.tolist() == found.values.tolist()

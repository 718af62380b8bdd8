"""Estimates against planted truth: a world whose rewards are known, and values summed over every possible list."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest

from evaluation.value.estimators import Logged, estimate, of_lists
from evaluation.value.rewards import RewardMeans, folds_of
from evaluation.value.sequential import compare, radius

N, K, CONTEXTS, LISTS, REPEATS = 9, 3, 4, 2000, 400
KINDS = np.arange(N) % 3  # lists within caps have at most one of a kind


@dataclass
class World:
    """Users of four tastes; two policies; the reward of an item depends on taste, place, and the item before it."""

    how: str  # "i.i.d.", "distinct", "caps"

    def __post_init__(self) -> None:
        rng = np.random.default_rng(3)
        logits = rng.normal(size=(CONTEXTS, N))
        self.old = softmax(logits)
        self.new = softmax(0.7 * logits + 0.4 * rng.normal(size=(CONTEXTS, N)))
        self.chance = rng.uniform(0.05, 0.6, size=(CONTEXTS, N))

    def left(self, p: np.ndarray, before: tuple[int, ...]) -> np.ndarray:
        """π(· | items before) [N] of a policy whose first draw is p [N]."""
        p = p.copy()
        if self.how != "i.i.d.":
            p[list(before)] = 0
        if self.how == "caps":
            p[np.isin(KINDS, KINDS[list(before)])] = 0
        return p / p.sum()

    def reward(self, context: int, items: tuple[int, ...]) -> float:
        """E[r] of the last of `items`, given those before it."""
        bored = 0.5 if len(items) > 1 and items[-2] > items[-1] else 1.0
        return self.chance[context, items[-1]] * 0.8 ** (len(items) - 1) * bored

    def tables(self) -> dict[tuple[int, ...], tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of each list that begins some list: π_old and π_new of what follows, and rewards, by taste [T, N]."""
        found = {}
        for length in range(K):
            for before in product(range(N), repeat=length):
                if all(self.left(self.old[0], before[:at])[item] > 0 for at, item in enumerate(before)):
                    ways = [
                        np.stack([self.left(p[c], before) for c in range(CONTEXTS)])
                        for p in (self.old, self.new)
                    ]
                    rewards = np.array(
                        [[self.reward(c, (*before, a)) for a in range(N)] for c in range(CONTEXTS)]
                    )
                    found[before] = (*ways, rewards)
        return found

    def truth(self, tables) -> float:
        """V of the new policy, summed over every list."""
        total, chance = 0.0, {(): np.full(CONTEXTS, 1 / CONTEXTS)}
        for before, (_, new, rewards) in tables.items():
            reached = chance[before]
            total += float((reached[:, None] * new * rewards).sum())
            for item in range(N):
                chance[(*before, item)] = reached * new[:, item]
        return total


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def drawn(world: World, tables, rng: np.random.Generator) -> Logged:
    """LISTS lists of LISTS / 2 users, drawn by the old policy; q is learned from the other half of the users."""
    users = np.arange(LISTS) // 2
    contexts = rng.integers(0, CONTEXTS, LISTS // 2)[users]
    places = {before: place for place, before in enumerate(tables)}
    ours, theirs, chances = (np.stack(some) for some in zip(*tables.values(), strict=True))  # [P, T, N] each
    after = np.array([[places.get((*before, a), -1) for a in range(N)] for before in tables])
    old, new, rewards, v = (np.zeros((LISTS, K)) for _ in range(4))
    items, where, following = np.zeros((LISTS, K), np.int64), np.zeros(LISTS, np.int64), []
    for place in range(K):
        p = ours[where, contexts]
        item = (p.cumsum(1) < rng.random((LISTS, 1)) * p.sum(1, keepdims=True)).sum(1)
        old[:, place], new[:, place] = p[np.arange(LISTS), item], theirs[where, contexts, item]
        rewards[:, place] = rng.random(LISTS) < chances[where, contexts, item]
        following.append(theirs[where, contexts])
        items[:, place], where = item, after[where, item]
    folds, q = folds_of(users), np.zeros((LISTS, K))
    for fold in (0, 1):
        learned = RewardMeans(list(items[folds != fold]), list(rewards[folds != fold]), N, K)
        mine = folds == fold
        for place in range(K):
            at = learned.at(place)
            q[mine, place], v[mine, place] = at[items[mine, place]], following[place][mine] @ at
    return Logged(rewards, old, new, users, q, v)


@pytest.mark.parametrize("how", ["i.i.d.", "distinct", "caps"])
def test_intervals_hold_the_planted_truth_as_often_as_they_say(how):
    world = World(how)
    tables = world.tables()
    truth, rng = world.truth(tables), np.random.default_rng(0)
    held = {"ips": 0, "snips": 0, "dr": 0}
    widths, values = dict.fromkeys(held, 0.0), {name: [] for name in held}
    for _ in range(REPEATS):
        found = estimate(drawn(world, tables, rng))
        for name in held:
            one = getattr(found, name)
            held[name] += one.interval[0] <= truth <= one.interval[1]
            widths[name] += (one.interval[1] - one.interval[0]) / REPEATS
            values[name].append(one.value)
    print(how, truth, held, widths)
    for name, count in held.items():
        assert 0.93 <= count / REPEATS <= 0.97, (name, count / REPEATS)
        error = np.std(values[name]) / np.sqrt(REPEATS)
        assert abs(np.mean(values[name]) - truth) < 4 * error + (0.01 if name == "snips" else 0)
    assert widths["dr"] < widths["ips"]


def test_of_its_own_lists_a_policy_is_worth_what_they_earned():
    rng = np.random.default_rng(0)
    rewards, p = rng.random((50, 4)), rng.uniform(0.1, 1, (50, 4))
    found = estimate(Logged(rewards, p, p, np.arange(50) % 20))
    assert found.ips == found.logged
    assert found.snips.value == pytest.approx(found.logged.value)
    assert found.effective == pytest.approx(50)
    assert found.dr is None


def test_a_case_by_hand():
    logged = Logged(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.5, 0.5], [0.25, 0.5]]),
                    np.array([[0.25, 0.5], [0.5, 0.25]]), np.array([0, 1]))  # fmt: skip
    np.testing.assert_allclose(logged.weights, [[0.5, 0.5], [2.0, 1.0]])
    found = estimate(logged)
    assert found.ips.value == pytest.approx((0.5 * 1 + 1.0 * 1) / 2)
    assert found.snips.value == pytest.approx(0.5 / 2.5 + 1.0 / 1.5)
    assert found.effective == pytest.approx(1.5**2 / 1.25)


def test_lists_of_one_user_count_as_one():
    values, users = np.repeat([0.0, 1.0, 2.0], 5), np.repeat([0, 1, 2], 5)
    spread, alone = of_lists(values, np.arange(15)), of_lists(values, users)
    assert spread.value == alone.value == 1.0
    assert alone.error == pytest.approx(np.std([0, 1, 2], ddof=1) / np.sqrt(3))
    assert spread.error < alone.error
    assert of_lists(values, np.zeros(15)).interval is None


@pytest.mark.parametrize("wrong", [{"old": 0.0}, {"old": 1.5}, {"new": np.nan}])
def test_what_cannot_be_a_probability_is_refused(wrong):
    full = {"old": np.full((2, 2), 0.5), "new": np.full((2, 2), 0.5)} | {
        k: np.full((2, 2), v) for k, v in wrong.items()
    }
    with pytest.raises(ValueError, match="probability"):
        Logged(np.zeros((2, 2)), users=np.arange(2), **full)


def test_looking_at_every_user_is_no_cheating():
    """Of 300 experiments without a difference, looked at after each 20 users: the sequence is wrong in at most 5 %, Welch's in far more."""
    rng, looks = np.random.default_rng(5), range(40, 1001, 20)
    wrong = {"interval": 0, "always": 0}
    for _ in range(300):
        a, b = rng.random(1000) < 0.3, rng.random(1000) < 0.3
        seen = dict.fromkeys(wrong, False)
        for n in looks:
            found = compare(a[:n], b[:n])
            for name in wrong:
                low, high = getattr(found, name)
                seen[name] |= not low <= 0 <= high
        for name in wrong:
            wrong[name] += seen[name]
    assert wrong["always"] / 300 <= 0.05
    assert wrong["interval"] / 300 > 0.15


def test_the_sequence_grows_narrow_and_a_difference_is_found():
    rng = np.random.default_rng(0)
    values = rng.normal(size=100_000)
    widths = [radius(values[:n], 0.05) for n in (100, 1000, 10_000, 100_000)]
    assert widths == sorted(widths, reverse=True)
    assert widths[1] == pytest.approx(0.1, abs=0.03)
    found = compare(rng.normal(size=5000), rng.normal(0.3, size=5000))
    assert found.always is not None
    assert found.always[0] > 0
    assert compare(np.ones(1), np.ones(5)).always is None

"""Splits: the docstring's seven rows, cases worked by hand, and rules that hold on generated data."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recsys.data.splits as splits
from recsys.data.splits import FIT, PERSONALIZE, TEST, UNUSED, VALIDATION, SplitConfig, assign_roles, cutoffs


def roles_of_one(n: int, **settings) -> list[int]:
    """Counts of (fit, personalize, validation, test) for a user with n events."""
    roles = assign_roles(np.zeros(n, dtype=np.int64), np.arange(n), SplitConfig(**settings))
    return np.bincount(roles, minlength=5)[:4].tolist()


def test_seven_rows():
    result = doctest.testmod(splits)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    ("n", "expected"),
    [(1, [1, 0, 0, 0]), (2, [1, 1, 0, 0]), (3, [1, 0, 1, 1]), (5, [2, 1, 1, 1]), (12, [7, 3, 1, 1])],
)
def test_leave_last_out_by_hand(n, expected):
    assert roles_of_one(n, kind="leave_last_out") == expected


@pytest.mark.parametrize(
    ("n", "cap", "expected"),
    [
        (4, 20, [3, 1, 0, 0]),  # fewer than five events: nothing held out
        (5, 20, [2, 1, 1, 1]),  # at least one
        (30, 20, [18, 8, 1, 3]),
        (1000, 20, [672, 288, 20, 20]),  # the cap holds for validation too
    ],
)
def test_last_fraction_by_hand(n, cap, expected):
    assert roles_of_one(n, kind="last_fraction", max_test_per_user=cap) == expected


def test_a_share_is_not_lost_to_binary_fractions():
    assert 100 * 0.29 < 29
    assert roles_of_one(100, test_fraction=0.29, max_test_per_user=50)[3] == 29


def test_no_validation_when_none_is_wanted():
    assert roles_of_one(20, validation_fraction=0.0, personalize_fraction=0.0) == [18, 0, 0, 2]


def test_global_time_caps_each_user_and_keeps_the_earliest():
    users = np.repeat([0, 1], [6, 4])
    times = np.array([1, 2, 10, 11, 12, 20, 3, 10, 20, 21])
    config = SplitConfig(
        kind="global_time",
        cutoff_validation_unix_s=10,
        cutoff_test_unix_s=20,
        max_test_per_user=1,
        personalize_fraction=0.3,
    )
    expected = [FIT, FIT, VALIDATION, UNUSED, UNUSED, TEST, PERSONALIZE, VALIDATION, TEST, UNUSED]
    assert assign_roles(users, times, config).tolist() == expected


def test_global_cutoffs_follow_the_fractions():
    config = SplitConfig(kind="global_time", test_fraction=0.2, validation_fraction=0.1)
    assert cutoffs(np.arange(100), config) == (70, 80)


@pytest.mark.parametrize(
    "settings",
    [
        {"test_fraction": 0.6, "validation_fraction": 0.4},
        {"kind": "last_fraction", "cutoff_test_unix_s": 5},
        {"kind": "global_time", "cutoff_test_unix_s": 5},
        {"kind": "global_time", "cutoff_test_unix_s": 5, "cutoff_validation_unix_s": 6},
        {"test_fraction": 0.0},
        {"max_test_per_user": 0},
        {"unheard_of": 1},
    ],
)
def test_contradictions_are_refused(settings):
    with pytest.raises(ValueError):  # noqa: PT011 (pydantic's message names the field)
        SplitConfig(**settings)


@st.composite
def worlds(draw):
    """Sorted events of up to six users, with ties in time."""
    times = draw(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=40), min_size=1, max_size=6))
    users = np.repeat(np.arange(len(times)), [len(one) for one in times])
    return users, np.concatenate([np.sort(one) for one in times])


@settings(max_examples=150, deadline=None)
@given(
    worlds(),
    st.sampled_from(["leave_last_out", "last_fraction", "global_time"]),
    st.floats(0.01, 0.6),
    st.floats(0.0, 0.39),
    st.floats(0.0, 0.95),
    st.integers(1, 5),
)
def test_roles_never_run_backwards(world, kind, test, validation, personalize, cap):
    users, times = world
    config = SplitConfig(
        kind=kind,
        test_fraction=test,
        validation_fraction=validation,
        personalize_fraction=personalize,
        max_test_per_user=cap,
    )
    roles = assign_roles(users, times, config)
    for user in np.unique(users):
        mine = users == user
        for early in (FIT, PERSONALIZE, VALIDATION):
            for late in range(early + 1, UNUSED):
                before, after = times[mine & (roles == early)], times[mine & (roles == late)]
                assert not len(before) or not len(after) or before.max() <= after.min()
        assert (roles[mine] == TEST).sum() <= cap
        if kind != "global_time":
            assert (roles[mine] == FIT).any()  # somebody to learn from
            assert (np.diff(roles[mine]) >= 0).all()
            assert (roles[mine] == TEST).any() == (mine.sum() >= (3 if kind == "leave_last_out" else 5))
    if kind == "global_time":  # one clock for all: no learned event is later than any held-out one
        learned, held_out = times[roles <= PERSONALIZE], times[roles >= VALIDATION]
        assert not len(learned) or not len(held_out) or learned.max() < held_out.min()


def test_stage_2_may_have_users_of_its_own():
    """All training events of a drawn share of the users, and none of anybody else's."""
    users = np.repeat(np.arange(400), 6)
    times = np.tile(np.arange(6), 400)
    config = SplitConfig(kind="leave_last_out", personalize_by="users", personalize_fraction=0.25, seed=3)
    roles = assign_roles(users, times, config).reshape(400, 6)
    theirs = roles[:, 0] == PERSONALIZE
    assert 70 < theirs.sum() < 130
    assert (roles[theirs, :4] == PERSONALIZE).all()
    assert (roles[~theirs, :4] == FIT).all()
    assert (roles[:, 4] == VALIDATION).all()
    assert (roles[:, 5] == TEST).all()
    again = assign_roles(users, times, config.model_copy(update={"seed": 4})).reshape(400, 6)
    assert (again != roles).any()
    with pytest.raises(ValueError, match="one clock"):
        SplitConfig(kind="global_time", personalize_by="users")

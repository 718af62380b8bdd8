"""Rows of an epoch in proportion to their weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.seeds import rng, torch_generator
from recsys.training.rows import in_proportion, rows_of_epoch


@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
def test_each_row_comes_as_often_as_its_share_and_never_a_whole_time_off(spread):
    weights = np.exp(rng(0, "weights").normal(size=400) * spread)
    shares = 400 * weights / weights.sum()
    counts = np.array(
        [np.bincount(in_proportion(weights, rng(seed, "draw")), minlength=400) for seed in range(300)]
    )
    assert (counts.sum(1) == 400).all()
    assert (np.abs(counts - shares) < 1 + 1e-9).all()
    # the mean of 300 draws, each ⌊share⌋ or ⌈share⌉: five standard errors, and three draws for what hardly ever comes
    part = shares - np.floor(shares)
    assert (np.abs(counts.mean(0) - shares) <= 5 * np.sqrt(part * (1 - part) / 300) + 0.01).all()


def test_equal_weights_are_a_permutation_and_the_order_is_drawn():
    drawn = in_proportion(np.full(50, 0.1), rng(0, "draw"))
    assert sorted(drawn) == list(range(50))
    assert list(drawn) != list(range(50))
    again, other = (in_proportion(np.arange(1, 51), rng(seed, "draw")) for seed in (0, 1))
    np.testing.assert_array_equal(again, in_proportion(np.arange(1, 51), rng(0, "draw")))
    assert (again != other).any()


def test_weights_of_a_million_to_one_and_a_single_row():
    heavy = in_proportion(np.array([1e-3, 1e3, 1e-3, 1e3]), rng(3, "draw"))
    assert sorted(heavy) == [1, 1, 3, 3]
    assert in_proportion(np.array([7.0]), rng(0, "draw")).tolist() == [0]
    assert in_proportion(np.zeros(0), rng(0, "draw")).tolist() == []


def test_without_weights_the_stream_is_the_one_that_runs_have_always_had():
    expected = torch.randperm(20, generator=torch_generator(5, "edges", 3)).numpy()
    np.testing.assert_array_equal(rows_of_epoch(20, None, 5, "edges", 3), expected)

"""Numbers that places have, against the published sequence of SplitMix64."""

from __future__ import annotations

import numpy as np
from scipy import stats

from recsys.seeds import rng, sample, uniforms_at

# outputs of Vigna's splitmix64.c for the seed 1234567 (as on Rosetta Code)
PUBLISHED = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]


def test_a_places_number_is_that_entry_of_the_published_sequence():
    expected = [(value >> 11) * 2.0**-53 for value in PUBLISHED]
    key = np.array(1234567, np.uint64)
    assert uniforms_at(key, np.arange(5)).tolist() == expected
    assert uniforms_at(key, np.array([3, 0])).tolist() == [expected[3], expected[0]]


def test_numbers_of_places_are_uniform_and_those_of_keys_have_nothing_in_common():
    keys = np.array([[1], [2**63 + 12345]], np.uint64)
    values = uniforms_at(keys, np.arange(20_000))
    assert stats.kstest(values.ravel(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(values)[0, 1]) < 0.03
    assert abs(np.corrcoef(values[0, 1:], values[0, :-1])[0, 1]) < 0.03


def test_a_sample_is_the_streams_in_ascending_order_and_all_where_nothing_is_left_out():
    values = np.random.default_rng(0).permutation(50)
    found = sample(values, 9, 7, "who", 2)
    assert found.tolist() == sorted(rng(7, "who", 2).choice(values, 9, replace=False).tolist())
    assert sample(values, 9, 7, "who", 3).tolist() != found.tolist()
    assert sample(values, 50, 7, "who").tolist() == sample(values, 0, 7, "who").tolist() == values.tolist()

"""Windows and batches of sequences, worked by hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest

from recsys.embeddings.sequences import Batches, cheapest_cuts, padded, windows_of_epoch

# -- sequences --------------------------------------------------------------------------------------------------


def test_windows_of_seven_events_by_hand():
    """User 0 has five moments, cut into windows of at most 3 targets; user 2 has two; user 5 has one: nothing to learn."""
    users = np.array([0, 0, 0, 0, 0, 2, 2, 5])
    items = np.array([10, 11, 12, 13, 14, 20, 21, 30])
    times = np.array([1, 2, 3, 4, 5, 1, 2, 1])
    seen = set()
    for epoch in range(30):
        windows = windows_of_epoch(users, items, times, 3, 0, epoch)
        rows = {
            (tuple(row[:n]), tuple(after[:n]))
            for row, after, n in zip(
                windows.inputs.tolist(), windows.targets.tolist(), windows.lengths.tolist(), strict=True
            )
        }
        assert ((20,), (21,)) in rows
        cut = sorted(row[0] for row in rows if row[0] != (20,))
        seen.add(tuple(cut))
        assert [item for row in cut for item in row] == [10, 11, 12, 13]  # each but the last is read once
        assert all(
            after == tuple(item + 1 for item in row) for row, after in rows
        )  # and followed by the next
        assert (windows.inputs[np.arange(windows.inputs.shape[1]) >= windows.lengths[:, None]] == 0).all()
    assert seen == {((10, 11, 12), (13,)), ((10,), (11, 12, 13)), ((10, 11), (12, 13))}  # the cuts move


def test_each_epoch_draws_one_event_of_a_tie_and_cuts_nothing_that_fits():
    users, items, times = np.zeros(5, int), np.array([1, 2, 3, 4, 5]), np.array([10, 20, 20, 20, 30])
    middles = set()
    for epoch in range(40):
        windows = windows_of_epoch(users, items, times, 2, 0, epoch)
        assert windows.lengths.tolist() == [2]
        (first, middle), (follows, last) = windows.inputs[0].tolist(), windows.targets[0].tolist()
        assert (first, last) == (1, 5)
        assert middle == follows
        middles.add(middle)
    assert middles == {2, 3, 4}


def test_batches_go_through_every_target_of_an_epoch_once_and_can_be_asked_in_any_order():
    generator = np.random.default_rng(0)
    users = np.sort(generator.integers(0, 12, 150))
    times = np.arange(150)
    items = generator.permutation(150)  # all different, so that a target names its event
    batches = Batches((users, items, times), 5, 4, seed=3, pieces=3)
    first = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
    expected = sorted(np.delete(items, first).tolist())
    before = {int(items[at]): int(items[at - 1]) for at in range(1, 150)}
    targets, step = [], 0
    while len(targets) < len(expected):
        rows = 0
        for piece in batches[step]:
            assert [before[item] for item in piece.targets.tolist()] == piece.items.reshape(-1)[
                piece.places
            ].tolist()
            assert len(piece.places) == piece.lengths.sum()
            assert piece.items.shape == (len(piece.lengths), piece.lengths.max())  # no wider than it must be
            targets += piece.targets.tolist()
            rows += len(piece.lengths)
        assert rows <= 4
        step += 1
    assert sorted(targets) == expected
    later = batches[step + 2]
    again = Batches((users, items, times), 5, 4, seed=3, pieces=3)[step + 2]
    for left, right in zip(later, again, strict=True):
        assert all((one == other).all() for one, other in zip(left, right, strict=True))
    with pytest.raises(ValueError, match="no sequence to learn from"):
        windows_of_epoch(np.array([0, 0]), np.array([1, 2]), np.array([7, 7]), 5, 0, 0)


def test_histories_are_cut_to_their_last_items():
    items, lengths = padded([np.array([1, 2, 3]), np.array([], int), np.array([4])], 2)
    assert items.tolist() == [[2, 3], [0, 0], [4, 0]]
    assert lengths.tolist() == [2, 0, 1]
    items, lengths = padded([np.array([], int)], 2)
    assert (items.tolist(), lengths.tolist()) == ([[0]], [0])


@pytest.mark.parametrize("piece_cost", [0, 1, 5, 1000])
def test_the_cheapest_cuts_are_those_of_trying_all(piece_cost):
    generator = np.random.default_rng(piece_cost)
    for _ in range(20):
        lengths = np.sort(generator.integers(1, 9, generator.integers(1, 9)))[::-1]

        def cost(cuts: Sequence[int], lengths: np.ndarray = lengths) -> int:
            return sum(len(part) * part[0] + piece_cost for part in np.split(lengths, cuts))

        places = range(1, len(lengths))
        best = min(cost(cuts) for k in range(len(lengths)) for cuts in combinations(places, k))
        assert cost(cheapest_cuts(lengths, piece_cost)) == best

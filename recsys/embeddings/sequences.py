"""Item sequences as padded matrices: histories to read, and an epoch's windows to learn from.

They are made without a loop over users.

Rows are padded on the right, so that a causal model never sees padding, and item 0 stands where there is
none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from recsys.seeds import rng
from recsys.training.rows import in_proportion

PIECE_COST = 150  # what a piece costs beside its positions, in positions: some sixty calls of small kernels, there and back


class Piece(NamedTuple):
    """Rows of a batch: `items` [B, t], `lengths` [B], the `places` [n] of all real positions in the flattened [B · t], and the
    `targets` [n] that follow them; `weights` of the targets' losses are [n], or none, [0], where all are 1.
    """

    items: np.ndarray
    lengths: np.ndarray
    places: np.ndarray
    targets: np.ndarray
    weights: np.ndarray = np.zeros(0)


@dataclass(frozen=True)
class Windows:
    """`inputs` [S, T] and the item that follows each, `targets` [S, T]; the first `lengths` [S] of a row are real.

    `weights` [S, T] of the targets' losses have a mean of 1 in each row; None: all are 1.
    """

    inputs: np.ndarray
    targets: np.ndarray
    lengths: np.ndarray
    weights: np.ndarray | None = None

    def batch(self, start: int, size: int, pieces: int | None = 1) -> list[Piece]:
        """`size` rows from `start` on in `pieces` of like lengths, each cut to its longest:
        most rows are short, and padding costs. None: as many pieces, cut where, as costs least.
        """
        lengths = self.lengths[start : start + size]
        order = start + np.argsort(-lengths, kind="stable")
        if pieces is None:
            return [self._piece(rows) for rows in np.split(order, cheapest_cuts(self.lengths[order]))]
        return [self._piece(rows) for rows in np.array_split(order, min(pieces, len(order)))]

    def _piece(self, rows: np.ndarray) -> Piece:
        lengths = self.lengths[rows]
        width = int(lengths.max())
        places = np.flatnonzero(np.arange(width) < lengths[:, None])
        piece = Piece(
            self.inputs[rows, :width], lengths, places, self.targets[rows, :width].reshape(-1)[places]
        )
        if self.weights is None:
            return piece
        return piece._replace(weights=self.weights[rows, :width].reshape(-1)[places])


def cheapest_cuts(lengths: np.ndarray, piece_cost: int = PIECE_COST) -> list[int]:
    """Where to cut rows of falling `lengths` [B ≥ 1] into pieces, such that positions, padding and all, and `piece_cost` a
    piece add up to the least: the starts of all pieces but the first. Exact, by dynamic programming over distinct lengths.
    """
    widths, counts = np.unique(lengths, return_counts=True)
    widths, ends = widths[::-1], np.concatenate([[0], np.cumsum(counts[::-1])])
    best, came_from = np.zeros(len(ends)), np.zeros(len(ends), np.int64)
    for end in range(1, len(ends)):
        costs = best[:end] + widths[:end] * (ends[end] - ends[:end]) + piece_cost
        came_from[end] = np.argmin(costs)
        best[end] = costs[came_from[end]]
    cuts, at = [], int(came_from[-1])
    while at:
        cuts.append(int(ends[at]))
        at = int(came_from[at])
    return cuts[::-1]


def one_of_each_tie(users: np.ndarray, times: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Places of one event of every (user, time), drawn, in order of (user, time): times then rise strictly.

    Events of the same second are not in each other's history (the one rule for ties), so of those none may
    stand before another.
    """
    shuffled = generator.permutation(len(users))
    order = shuffled[np.lexsort((times[shuffled], users[shuffled]))]  # stable: ties stay shuffled
    users, times = users[order], times[order]
    first = np.ones(len(order), bool)
    first[1:] = (users[1:] != users[:-1]) | (times[1:] != times[:-1])
    return order[first]


def windows_of_epoch(
    users: np.ndarray,
    items: np.ndarray,
    times: np.ndarray,
    max_items: int,
    seed: int,
    epoch: int,
    weights: np.ndarray | None = None,
) -> Windows:
    """The windows of an epoch, shuffled, from events [E] in order of (user, time):
    each reads at most `max_items` items.

    Of every tie one event is drawn (`one_of_each_tie`). Every drawn event but a user's first is a target once. A user with more than `max_items` targets is cut
    into several windows at places that move from epoch to epoch; a window reads on from the item before its first target.
    With `weights` [E] a window comes as often as its targets weigh on average, and within it each target weighs in proportion, so that a
    target's share of all losses is in proportion to its weight.
    """
    generator = rng(seed, "sequences", epoch)
    drawn = one_of_each_tie(users, times, generator)
    users, items = users[drawn], items[drawn]
    place = np.arange(len(users)) - np.searchsorted(users, users)
    targets = np.flatnonzero(place > 0)
    owner, place = users[targets], place[targets] - 1  # of each target among its user's
    if not len(owner):
        raise ValueError(
            "no user has two training events at different moments: there is no sequence to learn from"
        )
    offsets = generator.integers(0, max_items, owner.max() + 1)
    offsets[np.bincount(owner) <= max_items] = 0  # what fits into one window is never cut
    shifted = place + offsets[owner]
    first = np.ones(len(targets), bool)
    first[1:] = (owner[1:] != owner[:-1]) | (shifted[1:] // max_items != shifted[:-1] // max_items)
    row = np.cumsum(first) - 1
    column = np.arange(len(targets)) - np.flatnonzero(first)[row]
    lengths = np.bincount(row)
    shape = (len(lengths), int(lengths.max()))
    inputs, following = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    inputs[row, column], following[row, column] = items[targets - 1], items[targets]
    if weights is None:
        mixed = generator.permutation(len(lengths))
        return Windows(inputs[mixed], following[mixed], lengths[mixed])
    own = weights[drawn][targets]
    means = np.bincount(row, own) / lengths
    shares = np.zeros(shape)
    shares[row, column] = own / means[row]
    mixed = in_proportion(means, generator)
    return Windows(inputs[mixed], following[mixed], lengths[mixed], shares[mixed])


class Batches:
    """`batches[step]`: the batch of an optimiser step, epoch after epoch; see `Windows.batch`.

    One epoch is in memory.

    `events` are users, items and times [E] each, in order of (user, time).
    """

    def __init__(
        self,
        events: tuple[np.ndarray, np.ndarray, np.ndarray],
        max_items: int,
        size: int,
        seed: int,
        pieces: int | None = 1,
        weights: np.ndarray | None = None,
    ):
        """`pieces` as in `Windows.batch`; `weights` [E] of the events as targets; None: all alike."""
        self._weights = weights
        self._events, self._max_items, self._size, self._seed = events, max_items, size, seed
        self._pieces, self._ends = pieces, [0]  # the step after each epoch
        self._epoch = -1
        self._windows: Windows | None = None

    def __getitem__(self, step: int) -> list[Piece]:
        while step >= self._ends[-1]:
            windows = self._load(len(self._ends) - 1)
            self._ends.append(self._ends[-1] + -(-len(windows.lengths) // self._size))
        epoch = int(np.searchsorted(self._ends, step, side="right")) - 1
        return self._load(epoch).batch((step - self._ends[epoch]) * self._size, self._size, self._pieces)

    def _load(self, epoch: int) -> Windows:
        if self._windows is None or epoch != self._epoch:
            self._windows = windows_of_epoch(*self._events, self._max_items, self._seed, epoch, self._weights)
            self._epoch = epoch
        return self._windows


def padded(histories: Sequence[np.ndarray], max_items: int) -> tuple[np.ndarray, np.ndarray]:
    """The last `max_items` of each history (oldest first):
    items [R, t ≥ 1], padded on the right with 0, and lengths [R].
    """
    latest = [history[-max_items:] for history in histories]
    lengths = np.fromiter(map(len, latest), np.int64, len(latest))
    items = np.zeros((len(latest), max(1, int(lengths.max(initial=0)))), np.int64)
    items[np.arange(items.shape[1]) < lengths[:, None]] = np.concatenate([*latest, np.zeros(0, np.int64)])
    return items, lengths

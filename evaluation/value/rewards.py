"""What an item earns at a place of a list: shrunken means, learned from other users' lists than it is asked about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PRIOR = 20.0  # lists that an item's own mean has to outweigh


class RewardMeans:
    """q(item, place) = (Σ r + m · μ_place) / (n + m), by item over all places, with the place's share."""

    def __init__(self, items: Sequence[np.ndarray], rewards: Sequence[np.ndarray], n_items: int, places: int):
        """`items`, `rewards`: of each list, in order. N items, K places."""
        place = np.concatenate([np.zeros(0, np.int64), *(np.arange(len(one)) for one in items)])
        flat = np.concatenate([np.zeros(0, np.int64), *items]).astype(np.int64)
        values = np.concatenate([np.zeros(0), *rewards])
        counts = np.bincount(place, minlength=places)
        overall = float(values.mean()) if len(values) else 0.0
        sums = np.bincount(place, values, places)
        self.by_place = (sums + PRIOR * overall) / (counts + PRIOR)  # [K]
        expected = np.bincount(flat, self.by_place[place], n_items)
        earned = np.bincount(flat, values, n_items)
        # [N]: how many times what its places earn on average an item earns
        self.by_item = (earned + PRIOR * max(overall, 1e-9)) / (expected + PRIOR * max(overall, 1e-9))

    def at(self, place: int) -> np.ndarray:
        """q [N] at a place."""
        return self.by_place[place] * self.by_item


def folds_of(users: np.ndarray, n: int = 2) -> np.ndarray:
    """A fold of each list [R]: a user's lists are in one."""
    _, whose = np.unique(users, return_inverse=True)
    return whose % n

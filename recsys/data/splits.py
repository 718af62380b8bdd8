"""Which event is learned from, and which is held out: three splits on plain arrays.

Seven events of two users, in order of (user, time, row in the file). Leave-last-out holds out the last event
for the test and the one before it for validation; of what is left, the later `personalize_fraction` is kept
from Stage 1:

>>> import numpy as np
>>> users = np.array([0, 0, 0, 0, 0, 1, 1])
>>> times = np.array([10, 20, 30, 40, 50, 15, 25])
>>> config = SplitConfig(kind="leave_last_out", personalize_fraction=0.3)
>>> print(*(ROLE_NAMES[role] for role in assign_roles(users, times, config)))
fit fit personalize validation test fit personalize

User 1 has fewer than three events, so nothing of theirs is held out. A global cut looks at the clock alone:

>>> config = SplitConfig(kind="global_time", cutoff_validation_unix_s=25, cutoff_test_unix_s=40)
>>> print(*(ROLE_NAMES[role] for role in assign_roles(users, times, config)))
fit personalize validation test test fit validation
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from recsys.data.config import SplitConfig
from recsys.seeds import rng

FIT, PERSONALIZE, VALIDATION, TEST, UNUSED = range(5)
ROLE_NAMES = ("fit", "personalize", "validation", "test", "unused")
WARM, RANDOM, OOD, DROPPED = GROUPS = (
    "warm",
    "random",
    "ood",
    "dropped",
)  # of users; see recsys.data.user_splits
HOLD_OUT_FROM = 5  # events; a user with fewer has no held-out event in the last_fraction split


def assign_roles(users: np.ndarray, times: np.ndarray, config: SplitConfig) -> np.ndarray:
    """The role of each event.

    Args:
        users: [E] int, ascending. times: [E] int, ascending within a user; ties stand in the file's order.

    Returns:
        [E] int8 of FIT, PERSONALIZE, VALIDATION, TEST, UNUSED (a part of histories, and nothing else).
    """
    assert is_sorted(users, times), "events must be sorted by user, and a user's by time"
    if config.kind == "global_time":
        return _global_time(users, times, config)
    counts = np.bincount(users)
    if config.kind == "leave_last_out":
        test = (counts >= 3).astype(np.int64)
        validation = test.copy()
    else:
        test, validation = _last_fraction(counts, config)
    training = counts - test - validation
    if config.personalize_by == "users":
        chosen = rng(config.seed, "Stage 2 users").random(len(counts)) < config.personalize_fraction
        personalize = np.where(chosen, training, 0)
    else:
        personalize = np.minimum(
            _part(training, config.personalize_fraction, round_up_from=0.5), training - 1
        )
    position = np.arange(len(users)) - (np.cumsum(counts) - counts)[users]
    # [3, U]: where each role ends
    bounds = np.cumsum([training - personalize, personalize, validation], axis=0)
    roles = np.zeros(len(users), np.int8)
    for bound in bounds:
        roles += position >= bound[users]
    return roles


def _last_fraction(counts: np.ndarray, config: SplitConfig) -> tuple[np.ndarray, np.ndarray]:
    """How many test and validation events each user has [U]; at least one event is left for training."""
    large = counts >= HOLD_OUT_FROM
    test = np.maximum(_part(counts, config.test_fraction), 1)
    test = np.minimum(test, np.minimum(config.max_test_per_user, counts - 1)) * large
    wanted = np.maximum(_part(counts, config.validation_fraction), 1 if config.validation_fraction else 0)
    wanted = np.minimum(wanted, config.max_test_per_user)
    return test, np.minimum(wanted, counts - 1 - test) * large


def _part(counts: np.ndarray, fraction: float, round_up_from: float = 1.0) -> np.ndarray:
    """`counts * fraction` as whole numbers; the small term mends binary fractions (0.29 * 100 < 29)."""
    return np.floor(counts * fraction + (1.0 - round_up_from) + 1e-9).astype(np.int64)


def _global_time(users: np.ndarray, times: np.ndarray, config: SplitConfig) -> np.ndarray:
    validation_at, test_at = cutoffs(times, config)
    roles = np.full(len(times), FIT, dtype=np.int8)
    roles[times >= validation_at] = VALIDATION
    roles[times >= test_at] = TEST
    training = roles == FIT
    if training.any() and config.personalize_fraction:
        personalize_at = np.quantile(
            times[training], 1 - config.personalize_fraction, method="higher", overwrite_input=True
        )
        roles[training & (times >= personalize_at)] = PERSONALIZE
    for role in (VALIDATION, TEST):  # each user's earliest: the nearest to what was learned
        events = np.flatnonzero(roles == role)
        first = np.searchsorted(users[events], users[events])  # where the user's events of this role start
        roles[events[np.arange(len(events)) - first >= config.max_test_per_user]] = UNUSED
    return roles


def hold_out_users(users: np.ndarray, roles: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The roles [E] after whole users are held out: nothing is learned from a user whose group is not WARM.

    `groups` [U] of RANDOM or OOD leaves a user their TEST events, DROPPED not even those; all else becomes
    UNUSED.
    """
    group = groups[users]
    kept = (group == WARM) | ((roles == TEST) & (group != DROPPED))
    return np.where(kept, roles, UNUSED).astype(np.int8)


def cutoffs(times: np.ndarray, config: SplitConfig) -> tuple[int, int]:
    """Unix seconds at which validation and test start in a global_time split."""
    if config.cutoff_validation_unix_s is not None and config.cutoff_test_unix_s is not None:
        return config.cutoff_validation_unix_s, config.cutoff_test_unix_s
    shares = [1 - config.test_fraction - config.validation_fraction, 1 - config.test_fraction]
    validation_at, test_at = np.quantile(times, shares, method="higher")
    return int(validation_at), int(test_at)


# -- events by user and time ---------------------------------------------------------------------------------------


def blocks_of(ends: np.ndarray, least: int = 1 << 20) -> Iterator[tuple[int, int]]:
    """Ranges of events (start, stop) of whole users, whose events end at `ends` [U]: at least so many events, but for the last."""
    start, users = 0, 0
    while users < len(ends):
        users = int(np.searchsorted(ends, start + least)) + 1
        stop = int(ends[min(users, len(ends)) - 1])
        if stop > start:
            yield start, stop
        start = stop


def is_sorted(users: np.ndarray, times: np.ndarray) -> bool:
    """Do events [E] stand by user, and a user's by time?"""
    same = users[1:] == users[:-1]
    return bool(((users[1:] > users[:-1]) | (same & (times[1:] >= times[:-1]))).all())


def begins_moment(users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Bool [E]: is it the first event of its user and moment?"""
    begins = np.ones(len(users), dtype=bool)
    begins[1:] = (users[1:] != users[:-1]) | (times[1:] != times[:-1])
    return begins


def had_before(items: np.ndarray, times: np.ndarray, users: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Bool [E]: had the user had the item strictly before? `ends` [U] is where each user's events end."""
    found = np.zeros(len(items), bool)
    for start, stop in blocks_of(ends):
        order = start + np.lexsort((items[start:stop], users[start:stop]))  # stable: by time within a pair
        pair = np.ones(len(order), bool)
        pair[1:] = (items[order][1:] != items[order][:-1]) | (users[order][1:] != users[order][:-1])
        first = np.maximum.accumulate(np.where(pair, np.arange(len(order)), 0))
        found[order] = times[order] > times[order[first]]
    return found

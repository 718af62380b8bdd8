"""Checks that nothing sees its own target: each raises `LeakError` with what leaked, figures and remedy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

POWER = 0.8  # of the smallest leak that is said to be seen


class LeakError(ValueError):
    """Something that is measured or trained on could see its own target; the message says what and what to
    do.
    """


def check_no_overlap(train: np.ndarray, test: np.ndarray, what: str = "instances") -> None:
    """Refuse a train and a test set that share an element.

    Elements are integers or strings [n], or rows of integers [n, c] such as (user, item, time). For a set
    split by users, hand in the users. Raises `LeakError` with the number shared and the first of them.
    """
    train, test = np.asarray(train), np.asarray(test)
    if not len(train) or not len(test):
        return
    if train.shape[1:] != test.shape[1:]:
        raise ValueError(
            f"train and test {what} have different columns: {train.shape[1:]} and {test.shape[1:]}"
        )
    shared = {_key(row) for row in train.tolist()} & {_key(row) for row in test.tolist()}
    if shared:
        raise LeakError(
            f"train and test share {len(shared)} {what}, the first is {min(shared)}; "
            "split before anything is learned, and drop duplicate events"
        )


def _key(row: Any) -> Any:
    return tuple(row) if isinstance(row, list) else row


@dataclass(frozen=True)
class RetrievalLeak:
    """What `check_retrieval_leak` measured; hit-rates are means over users."""

    train_rate: float
    validation_rate: float
    difference: float
    lower_bound: float | None  # one-sided, of the difference; None: too few users to decide
    margin: float
    smallest_seen: float | None = (
        None  # the difference that this many users show in four cases of five; None as above
    )


def check_retrieval_leak(
    train_hits: np.ndarray,
    validation_hits: np.ndarray,
    relative_margin: float = 0.25,
    absolute_margin: float = 0.02,
    alpha: float = 0.001,
) -> RetrievalLeak:
    """Stop when embeddings retrieve *training* targets clearly better than validation targets.

    A user's vector that holds its own target finds it again. `train_hits` [U1] and `validation_hits` [U2] are
    hit-rates per user (0..1), made from vectors as of the moment before each target. Training targets lie
    earlier in time and may honestly be a little easier, so the excess must pass a margin of `relative_margin`
    × the validation rate + `absolute_margin` (at most half the validation rate, so that a small rate that is tripled does not pass): Welch's two-sample t-test, one-sided at `alpha`, of train −
    validation > margin. Raises `LeakError`; with fewer than two users on a side nothing is decided.
    """
    from scipy import stats

    train, validation = _rates(train_hits, "training"), _rates(validation_hits, "validation")
    rate = float(validation.mean())
    margin = relative_margin * rate + min(absolute_margin, rate / 2)
    difference = float(train.mean() - validation.mean())
    found = RetrievalLeak(float(train.mean()), float(validation.mean()), difference, None, margin)
    if min(len(train), len(validation)) < 2:
        return found
    if np.ptp(train) == 0 and np.ptp(validation) == 0:
        lower, spread = difference, 0.0  # no spread on either side: the difference is exact
    else:
        interval = stats.ttest_ind(train, validation, equal_var=False, alternative="greater")
        lower = float(interval.confidence_interval(1 - alpha).low)
        spread = difference - lower
    power = stats.norm.ppf(POWER) / stats.norm.isf(
        alpha
    )  # more of the spread, so that chance hides it once in five
    found = replace(found, lower_bound=lower, smallest_seen=margin + spread * (1 + float(power)))
    if lower > margin:
        raise LeakError(
            f"retrieval finds {found.train_rate:.4f} of the training targets ({len(train)} users) but "
            f"only {found.validation_rate:.4f} of the validation targets ({len(validation)} users); the "
            f"excess {difference:.4f} (at least {lower:.4f} at level {alpha:g}) is above the margin "
            f"{margin:.4f}. The vectors hold their own targets: cross-fit the item vectors (by user fold or "
            "time block), and build user vectors from events strictly before each instance"
        )
    return found


def _rates(hits: np.ndarray, name: str) -> np.ndarray:
    rates = np.asarray(hits, dtype=float)
    if rates.ndim != 1 or not len(rates) or not ((rates >= 0) & (rates <= 1)).all():
        raise ValueError(f"{name} hits must be one hit-rate in 0..1 per user, got shape {rates.shape}")
    return rates


@dataclass(frozen=True)
class Events:
    """Interactions as plain arrays of one length [E]; integers inside, times in unix seconds."""

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray


BuildInputs = Callable[[Events], Mapping[str, np.ndarray]]


def check_planted_answer(build: BuildInputs, events: Events, user: int, time: int, target: int) -> None:
    """Plant the target into the current and all later records and verify that no model input changes.

    `build(events)` makes the model's input arrays for the instance of `user` at `time`, from whatever it uses
    of `events`. Three plants: everybody's records at or after `time` become `target`; those records vanish;
    ten records of the user with `target` are added at `time` and after. Raises `LeakError` naming the input
    that changed. As a control, changing the user's earlier records must change some input: otherwise `build`
    reads no events, the check proves nothing, and that is a ValueError.
    """
    honest = _copy(build(events))
    late = events.times >= time
    plants = {
        "replacing the current and later records by the target": replace(
            events, items=np.where(late, target, events.items)
        ),
        "removing the current and later records": Events(
            events.users[~late], events.items[~late], events.times[~late]
        ),
        "adding the target to the current and later records": Events(
            np.concatenate([events.users, np.full(10, user, dtype=events.users.dtype)]),
            np.concatenate([events.items, np.full(10, target, dtype=events.items.dtype)]),
            np.concatenate([events.times, time + np.arange(10, dtype=events.times.dtype)]),
        ),
    }
    for deed, planted in plants.items():
        changed = _first_change(honest, build(planted))
        if changed is not None:
            raise LeakError(
                f"{deed} (user {user}, time {time}, item {target}) changes the input '{changed}': it must be "
                "made from events strictly before the instance"
            )
    earlier = (events.users == user) & ~late
    without = Events(events.users[~earlier], events.items[~earlier], events.times[~earlier])
    if not earlier.any() or _first_change(honest, build(without)) is None:
        raise ValueError(
            f"the planted-answer check proves nothing for user {user} at {time}: removing the earlier "
            "records changes no input either; choose an instance with a history, and let "
            "`build` use the events it is given"
        )


def _first_change(honest: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> str | None:
    if honest.keys() != other.keys():
        return ", ".join(sorted(honest.keys() ^ other.keys()))
    for name, value in honest.items():
        if not np.array_equal(value, np.asarray(other[name])):
            return name
    return None


def _copy(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    # `build` may reuse its buffers
    return {name: np.array(value, copy=True) for name, value in inputs.items()}

"""How often newcomers were had since they came, and what that says of their weights: Gamma-Poisson estimates, one within another.

Of newcomer i, n_i events were absorbed since it came, where its weight takes it to be had as often as E_i = ρ T_i / N: ρ times as often as one of N
trained items (`serving.refresh.calibrate.popularity_of_new`), of whose events T_i were absorbed in that time. What is new may be had otherwise on its
first night than later, so both are told apart (n = n' + n", E = E' + E"), each with a rate of all newcomers together:

    F' = (Σ n' + PRIOR) / (Σ E' + PRIOR)        F" = (Σ n" + PRIOR) / (Σ E" + PRIOR)        f_i = F" (n_i + κ) / (F' E'_i + F" E"_i + κ)

the posterior means of a Gamma(PRIOR, PRIOR) and, given those, of F" · Gamma(κ, κ); κ is the shape of how often trained items are had. What
has its first night before it has f_i = F'. log f_i is added to log w_i (`llm.decoding.newcomers`). The events of the file that a night brings
are not counted before the next: the gate asks them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset
from recsys.run import Run
from serving.answering.live import Given
from serving.refresh.calibrate import RECENT, training_events
from serving.state.place import own_state

PRIOR = 10.0  # events
LEAST_SHAPE, MOST_SHAPE = 0.1, 10.0


def counts_of(home: Run, catalogue: Catalogue) -> np.ndarray:
    """Events [N] that each item of `catalogue` has in a run's own state."""
    state = own_state(home.path)
    if state is None:
        return np.zeros(len(catalogue), np.int64)
    from serving.state.events import count_by_item

    try:
        return _numbered(catalogue, count_by_item(state))
    finally:
        state.close()


def to_be_absorbed(events: Sequence[Given], catalogue: Catalogue) -> np.ndarray:
    """Events [N] of each item of `catalogue` in tonight's file."""
    return _numbered(catalogue, Counter(event[1] for event in events).items())


def _numbered(catalogue: Catalogue, counts: Iterable[tuple[str, int]]) -> np.ndarray:
    found = np.zeros(len(catalogue), np.int64)
    for item_id, count in counts:
        if (number := catalogue.number(item_id)) is not None:
            found[number] += count
    return found


def since_they_came(
    counts: np.ndarray, coming: np.ndarray, newcomers: np.ndarray, before: Mapping[str, Any], n_trained: int
) -> dict[str, Any]:
    """What newcomers.json says of it, by item: `came`, the events of all trained items and of itself when it came; `passed`, those when its
    first night was over; and `had`, log f_i where that is not 0.

    `counts` [N] are events that were absorbed, `coming` [N] those of tonight's file, `before` is newcomers.json of the version before.
    """
    names = [str(item) for item in newcomers.tolist()]
    now = dict(zip(names, _of_both(counts, newcomers, n_trained), strict=True))
    tonight = dict(zip(names, _of_both(counts + coming, newcomers, n_trained), strict=True))
    came = {name: before.get("came", {}).get(name, tonight[name]) for name in names}
    known = before.get("passed", {})
    passed = {
        name: known.get(name, now[name])
        for name in names
        if name in known or (name in before.get("came", {}) and now[name][0] > came[name][0])
    }
    fit, is_passed = before.get("fit", {}), np.array([name in passed for name in names], bool)
    rate, shape = fit.get("popularity_of_new", 1.0) / n_trained, fit.get("shape_of_counts", 1.0)
    start = np.array([came[name] for name in names], float).reshape(-1, 2)
    between = np.array([passed.get(name, came[name]) for name in names], float).reshape(-1, 2)
    end = np.array([now[name] if name in passed else came[name] for name in names], float).reshape(-1, 2)
    first, later = (
        (np.maximum(one - other, 0) * [rate, 1]) for one, other in ((between, start), (end, between))
    )
    log_f = log_rates(first[:, ::-1], later[:, ::-1], is_passed, shape)
    had = {name: round(value, 6) for name, value in zip(names, log_f.tolist(), strict=True) if value}
    return {"came": came, "passed": passed, "had": had}


def _of_both(counts: np.ndarray, newcomers: np.ndarray, n_trained: int) -> list[list[int]]:
    trained = int(counts[:n_trained].sum())
    return [[trained, own] for own in counts[newcomers].tolist()]


def log_rates(first: np.ndarray, later: np.ndarray, passed: np.ndarray, shape: float) -> np.ndarray:
    """log f [K], of events that were had and that were expected [K, 2] on newcomers' first nights and later; `passed` [K]: is the first over?"""
    (own_first, as_first), (own_later, as_later) = first.T, later.T
    rate_first = (own_first.sum() + PRIOR) / (as_first.sum() + PRIOR)
    rate_later = (own_later.sum() + PRIOR) / (as_later.sum() + PRIOR)
    expected = rate_first * as_first + rate_later * as_later
    return np.where(
        passed,
        np.log(rate_later) + np.log((own_first + own_later + shape) / (expected + shape)),
        np.log(rate_first),
    )


def shape_of_counts(data: Dataset) -> float:
    """κ: the shape of a negative binomial with the mean and variance of trained items' events in the last tenth of the training's time."""
    training = training_events(data)
    if len(training) < 10:
        return 1.0
    times, items = data.times[training], data.items[training]
    counts = np.bincount(items[times >= np.quantile(times, 1 - RECENT)], minlength=data.n_items)
    counts = counts[np.bincount(items, minlength=data.n_items) > 0]
    mean, variance = counts.mean(), counts.var()
    return float(np.clip(mean**2 / max(variance - mean, 1e-9), LEAST_SHAPE, MOST_SHAPE))

"""The data card: what was read, what was left out and why, what the events look like; and what of it stops a run before it starts.

`prepare.json` holds it, `prelude inspect RUN --data` prints it, and the report begins with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recsys.data.config import PrepareConfig
from recsys.data.dataset import Dataset
from recsys.data.interactions import Interactions
from recsys.data.splits import FIT, PERSONALIZE, ROLE_NAMES, TEST, VALIDATION, WARM
from recsys.door.notices import Notices
from recsys.door.tables import DataError

QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)
LARGE_ITEM = 0.2  # share of all events that one item has before it is named


def facts(dataset: Dataset) -> dict[str, Any]:
    """`prepare.json`'s counts: of events, users, items and queries, of each role, and of what is held out."""
    by_role = np.bincount(dataset.roles, minlength=len(ROLE_NAMES))
    tested = len(np.unique(dataset.users[dataset.events(TEST)]))
    return {
        "counts": {
            "events": len(dataset.users),
            "users": len(dataset.user_numbers),
            "items": dataset.n_items,
            "queries": len(dataset.queries),
            "users_without_test_event": len(dataset.user_numbers) - tested,
        },
        "roles": {name: int(n) for name, n in zip(ROLE_NAMES, by_role, strict=True)},
        "held_out": {ROLE_NAMES[role]: _held_out(dataset, role) for role in (VALIDATION, TEST)},
    }


def _held_out(dataset: Dataset, role: int) -> dict[str, Any]:
    """What the reader of a result must know about the targets of one role: how many were already in their history, have no
    history, or share their second with another event of the same user."""
    events = dataset.events(role)
    tied = int(_is_tied(dataset)[events].sum())
    return {
        "events": len(events),
        "users": len(np.unique(dataset.users[events])),
        "already_in_history": int(dataset.is_repeat[events].sum()),
        "without_history": int((dataset.history_end[events] == dataset.offsets[dataset.users[events]]).sum()),
        "tied_in_time": tied,
        "tied_share": round(tied / len(events), 4) if len(events) else None,
    }


def card(dataset: Dataset, interactions: Interactions, notices: Notices) -> dict[str, Any]:
    """The card, as prepare.json keeps it. `rows_read` is `rows_kept` and the sum of `rows_dropped`."""
    return {
        "rows_read": interactions.rows_read,
        "rows_kept": interactions.rows_kept,
        "rows_dropped": interactions.dropped,
        "time": "unix_seconds" if interactions.is_clock else "ordinal",
        "time_range": [int(dataset.times.min()), int(dataset.times.max())],
        **of_dataset(dataset),
        "coverage": [found.__dict__ for found in notices.coverage],
        "readings": notices.readings,
    }


def of_dataset(dataset: Dataset) -> dict[str, Any]:
    """What of the card is counted from the events, and is counted again when a person is deleted."""
    per_item = np.bincount(dataset.items, minlength=dataset.n_items)
    per_user = np.bincount(dataset.users, minlength=dataset.n_users)
    tested, training = dataset.events(TEST), (dataset.roles == FIT) | (dataset.roles == PERSONALIZE)
    return {
        "users": len(dataset.user_numbers),
        "items": dataset.n_items,
        "items_without_events": int((per_item == 0).sum()),
        "events": len(dataset.users),
        "events_by_kind": _kinds(dataset),
        "events_against": 0 if dataset.against is None else len(dataset.against.users),
        "tied_share": _tied(dataset, slice(None)),
        "tied_share_of_test": _tied(dataset, tested),
        "largest_user": _largest(dataset.users, dataset.user_ids),
        "largest_user_of_training": _largest(dataset.users[training], dataset.user_ids),
        "largest_item": _largest(dataset.items, dataset.catalogue.item_ids),
        "events_a_user": _quantiles(per_user[dataset.user_ids != ""]),
        "history_before_test": _quantiles((dataset.history_end - dataset.offsets[dataset.users])[tested]),
        "targets": {ROLE_NAMES[role]: _targets(dataset, role) for role in (PERSONALIZE, VALIDATION, TEST)},
        "exclude_seen": dataset.exclude_seen,
        "text_columns": {
            name: sum(bool(phrases) for phrases in column)
            for name, column in dataset.catalogue.columns.items()
        },
        "items_without_title": sum(
            title == item_id
            for title, item_id in zip(dataset.catalogue.titles, dataset.catalogue.item_ids, strict=True)
        ),
        "queries": len(dataset.queries),
        "queries_of_nobody_known": int((dataset.queries["user"] < 0).sum()),
    }


def _kinds(dataset: Dataset) -> dict[str, int]:
    if dataset.kinds is None:
        return {}
    names, counts = np.unique(dataset.kinds.astype(str), return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


def _tied(dataset: Dataset, events: np.ndarray | slice) -> float | None:
    """Share of `events` that share their moment with another event of the same user."""
    if not len(dataset.users[events]):
        return None
    return round(float(_is_tied(dataset)[events].mean()), 4)


def _is_tied(dataset: Dataset) -> np.ndarray:
    """Bool [E]: does an event share its moment with another of the same user?"""
    begins = dataset.begins_moment
    return ~begins | np.append(~begins[1:], False)


def _largest(numbers: np.ndarray, names: np.ndarray) -> dict[str, Any]:
    counts = np.bincount(numbers, minlength=len(names))
    first = int(counts.argmax())
    return {
        "id": str(names[first]),
        "events": int(counts[first]),
        "share": round(float(counts[first] / max(counts.sum(), 1)), 4),
    }


def _quantiles(numbers: np.ndarray) -> dict[str, float]:
    if not len(numbers):
        return {}
    return {
        f"{share:g}": float(value)
        for share, value in zip(QUANTILES, np.quantile(numbers, QUANTILES), strict=True)
    }


def _targets(dataset: Dataset, role: int) -> dict[str, int]:
    events = dataset.events(role)
    turned_down = int(dataset.was_turned_down(events).sum())
    return {
        "events": len(events),
        "repeats": int(dataset.is_repeat[events].sum()),
        **({} if dataset.against is None else {"turned_down_before": turned_down}),
        "asked_for": len(dataset.instances(role)),
        "without_history": int((dataset.history_end[events] == dataset.offsets[dataset.users[events]]).sum()),
    }


# -- what stops, and what is said --------------------------------------------------------------------------------


def check_roles(dataset: Dataset, config: PrepareConfig, notices: Notices) -> None:
    """Raises `DataError` where nothing could be learned or tested; says what is odd about who is."""
    users, roles = dataset.users, dataset.roles
    counts = np.bincount(roles, minlength=len(ROLE_NAMES))
    short = float(np.median(np.bincount(users, minlength=dataset.n_users)))
    for role in (FIT, TEST):
        if counts[role] == 0:
            raise DataError(
                f"the {config.split.kind} split of {len(roles)} events leaves none to "
                f"{'learn from' if role == FIT else 'test on'}; leave_last_out needs users with 3 events, "
                f"last_fraction with 5, global_time cutoffs inside the data's range; change split or filters"
                + (
                    f". Here the median user has {short:g} events: set prepare.split.kind to global_time"
                    if short < 5
                    else ""
                )
            )
    tested = dataset.events(TEST)
    if (dataset.history_end[tested] == dataset.offsets[users[tested]]).all():
        same = dataset.times.min() == dataset.times.max()
        raise DataError(
            f"no test event has a history: {'all events have one time, ' + str(dataset.times[0]) if same else 'each is the first moment of its user'}. "
            "What is learned from is strictly earlier than what is asked; give each event its time, or its place in the user's order as 0, "
            "1, 2 … (time: ordinal)"
        )
    for role in range(FIT + 1, TEST + 1):
        if not len(dataset.instances(role)):
            name = ROLE_NAMES[role]
            why = " that can be asked for (their users had had the items before)" if counts[role] else ""
            notices.add(
                f"no_{name}_events",
                1,
                f"the split has no {name} events{why}; stages that need them will refuse",
            )
    warm = dataset.user_groups == WARM
    untested = int(warm.sum()) - int(warm[np.unique(users[roles == TEST])].sum())
    notices.add(
        "users_without_test_event",
        untested,
        f"{untested} user(s) have no test event ({config.split.kind}); they are learned from, not measured",
    )
    _say_short_users(dataset, config, notices)
    _say_repeats(dataset, notices)
    _say_turned_down(dataset, notices)
    _say_weights(dataset, notices)
    _say_ties(dataset, config, notices)
    _say_ratings(dataset, config, notices)
    _say_largest_item(dataset, notices)
    _say_items_of_test(dataset, config, notices)
    _say_queries(dataset, notices)


def _say_largest_item(dataset: Dataset, notices: Notices) -> None:
    largest = _largest(dataset.items, dataset.catalogue.item_ids)
    if largest["share"] > LARGE_ITEM and dataset.n_items > 1 / LARGE_ITEM:
        notices.add(
            "item_with_many_events",
            largest["events"],
            f"item '{largest['id']}' has {largest['events']:,} of {len(dataset.items):,} events ({largest['share']:.0%}); is it one thing that "
            "people choose, or how somebody wrote that they don't know?",
        )


def _say_items_of_test(dataset: Dataset, config: PrepareConfig, notices: Notices) -> None:
    """What of the catalogue hangs on test events: nothing learns of them, but which items there are to choose among does."""
    earlier = dataset.roles != TEST
    has = np.bincount(dataset.items, minlength=dataset.n_items) > 0
    late = has & (np.bincount(dataset.items[earlier], minlength=dataset.n_items) == 0)
    ids, titles = dataset.catalogue.item_ids, dataset.catalogue.titles
    nameless = [number for number in np.flatnonzero(late).tolist() if titles[number] == ids[number]]
    notices.add(
        "items_that_test_alone_names",
        len(nameless),
        f"{len(nameless):,} of {dataset.n_items:,} items are in the catalogue because test events name them, and no items file describes them "
        f"(the first: '{ids[nameless[0]] if nameless else ''}'); that they are there tells that somebody will have them. An items file with "
        "titles lists what there was to choose from",
    )
    if config.k_core_items > 1:
        pairs = np.unique(dataset.users[earlier] * dataset.n_items + dataset.items[earlier])
        users = np.bincount(pairs % dataset.n_items, minlength=dataset.n_items)
        below = int((has & (users < config.k_core_items)).sum())
        notices.add(
            "items_that_test_events_keep",
            below,
            f"{below:,} of {dataset.n_items:,} items have {config.k_core_items} users (prepare.k_core_items) only with those of test events, so the "
            "test has a part in what the catalogue is; as published 5-core data have. With k_core_items: 1 or 0 and an items file it has none",
        )


def _say_queries(dataset: Dataset, notices: Notices) -> None:
    """Queries whose time is no time of the events are told from those about held-out events by their user alone."""
    times = dataset.queries["timestamp"].to_numpy()
    outside = (times < dataset.times.min()) | (times > dataset.times.max())
    if len(times) and outside.mean() > 0.5:
        notices.add(
            "queries_outside_of_the_events_times",
            int(outside.sum()),
            f"{int(outside.sum()):,} of {len(times):,} queries lie before the first event or after the last (events from {dataset.times.min()} to "
            f"{dataset.times.max()}, queries from {times.min()} to {times.max()}); are both in one unit? prepare.time names it",
        )


def _say_short_users(dataset: Dataset, config: PrepareConfig, notices: Notices) -> None:
    """Collaborative vectors come of users who had two things: too few of them leave a split by user at chance."""
    fit = np.bincount(dataset.users[dataset.events(FIT)], minlength=dataset.n_users)
    learned_from = int((fit > 0).sum())
    single = int((fit == 1).sum())
    if config.split.kind != "global_time" and 2 * single > learned_from:
        notices.add(
            "users_with_one_fit_event",
            single,
            f"{config.split.kind} leaves {single} of {learned_from} users one event to learn from, so that nearly nothing tells which items "
            "belong together (short sessions?); set prepare.split.kind to global_time, which learns from whole users before a moment",
        )


def _say_repeats(dataset: Dataset, notices: Notices) -> None:
    events = np.concatenate([dataset.events(VALIDATION), dataset.events(TEST)])
    repeats = int(dataset.is_repeat[events].sum())
    if dataset.exclude_seen:
        notices.add(
            "repeats_not_asked_for",
            repeats,
            f"{repeats} of {len(events)} validation and test targets had been had by their user before; with exclude_seen they cannot be "
            "answered, and are left out of training targets, validation and test alike. If people come back for the same items, set "
            "prepare.exclude_seen to false",
        )


def _say_turned_down(dataset: Dataset, notices: Notices) -> None:
    if not dataset.exclude_against:
        return
    count = sum(int(dataset.was_turned_down(dataset.events(role)).sum()) for role in (VALIDATION, TEST))
    notices.add(
        "targets_turned_down_before",
        count,
        f"{count} validation and test targets had been turned down by their user before (prepare.events: against); nobody would be shown them, "
        "so they are not asked for. If people may be shown what they have turned down, set prepare.exclude_against to false",
    )


def _say_weights(dataset: Dataset, notices: Notices) -> None:
    low, high = float(dataset.weights.min()), float(dataset.weights.max())
    if dataset.relative_weights is not None:
        notices.read(
            f"weights from {low:g} to {high:g} are read: edges, counts and targets of training weigh by them, over their mean; histories "
            "and held-out targets do not"
        )
    elif high != 1:
        notices.read(
            f"weights from {low:g} to {high:g} are read, but all of training is alike, so that they weigh nothing"
        )


def _say_ties(dataset: Dataset, config: PrepareConfig, notices: Notices) -> None:
    share = _tied(dataset, dataset.events(TEST)) or 0.0
    if share > config.warn_tied_share:
        tied = round(share * len(dataset.events(TEST)))
        notices.add(
            "tied_test_events",
            tied,
            f"{share:.0%} of the test events share their moment with another event of their user, so which of them is held out was drawn (by "
            "the names of user and item, not by the file's order); finer times would tell",
        )


def _say_ratings(dataset: Dataset, config: PrepareConfig, notices: Notices) -> None:
    if dataset.ratings is None or config.min_rating is not None:
        return
    known = dataset.ratings[np.isfinite(dataset.ratings)]
    if len(known) and known.min() <= 0 < known.max():
        low = int((known <= 0).sum())
        notices.add(
            "ratings_of_nothing_or_less",
            low,
            f"{low:,} of {len(known):,} ratings are {known.min():g} to 0, and count as likes, as every rating does; prepare.min_rating says from "
            "where",
        )
    elif len(known) and known.min() < known.max():
        notices.read(
            f"ratings from {known.min():g} to {known.max():g} are read, and every one counts as a like; prepare.min_rating says from where"
        )

"""Are items recommended that no training saw? Recall of their events, beside that of trained items and of text retrieval.

A run is refreshed with items that came later, and later events are asked of it one by one, each with its user's history of just before:
the run's own, and the file's earlier events. Recall@k of an event is 1 where its item is among the k first of the whole catalogue, new
items and old in one list. Averages are over a user's events first; intervals are percentile bootstraps over users.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from recsys.artifacts.rewrite import write_text_atomically
from recsys.recommender import Recommender, Request
from recsys.seeds import rng, sample
from recsys.terminal import title
from serving.answering.live import Given, LiveState
from serving.answering.methods import Methods
from serving.answering.products import text_retrieval

K = 30
SAMPLES = 2000  # of the bootstrap
TEXT = "text retrieval"
BATCH = 128  # requests asked at once
HALF_LIVES = (None, 10.0, 5.0, 2.0)  # of text retrieval's user: the one that is best here, which favours it


def newcomers_study(
    methods: Methods, events: Sequence[Given], keys: Sequence[str], at_most: int, seed: int = 0
) -> dict[str, Any]:
    """`methods` are a refreshed version's; `keys`: which of them are asked. Of old and of new items `at_most` events each.

    Raises `ValueError` where the version has no newcomers, or no event is of one.
    """
    data = methods.dataset
    first = data.catalogue.n_trained
    if first is None or first == data.n_items:
        raise ValueError(
            f"{methods.run.path} has no items that came after its training; refresh it with some first: prelude refresh RUN --items FILE"
        )
    requests, targets = _questions(methods, events)
    is_new = targets >= first
    if not is_new.any():
        raise ValueError("none of these events is of an item that came after the training")
    users = np.array([request.user for request in requests])
    kept = np.concatenate(
        [sample(np.flatnonzero(side), at_most, seed, "newcomers", "study") for side in (is_new, ~is_new)]
    )
    asked, wanted, of = [requests[place] for place in kept], targets[kept], users[kept]
    new = is_new[kept]
    rows: dict[str, Any] = {}
    text_new = None
    lists: dict[str, list[Recommender]] = {}
    if methods.config.embed.text_encoder is not None:
        lists[TEXT] = [text_retrieval(methods, half_life) for half_life in HALF_LIVES]
    lists |= {methods.name(key): [methods.build(key)] for key in keys}
    for name, candidates in lists.items():
        found = [_hits(one, asked, wanted) for one in candidates]
        hits = max(found, key=lambda one: float(_by_user(one[new], of[new]).mean()))
        rows[name] = _row(hits, new, of, seed)
        if name == TEXT:
            text_new = _by_user(hits[new], of[new])
        elif text_new is not None:
            rows[name]["new_minus_text"] = _interval(_by_user(hits[new], of[new]) - text_new, seed)
    return {
        "k": K,
        "items": {"trained": first, "new": data.n_items - first},
        "events": {"new": int(new.sum()), "old": int((~new).sum())},
        "people": {"new": len(np.unique(of[new])), "old": len(np.unique(of[~new]))},
        "chance": K / data.n_items,
        "rows": rows,
    }


def _questions(methods: Methods, events: Sequence[Given]) -> tuple[list[Request], np.ndarray]:
    """A request for each event of a known item whose user has a history, and its item."""
    data = methods.dataset
    live = LiveState(methods.run, data).histories
    known = [
        (user, item, moment)
        for user, id_, moment, *_ in events
        if (item := data.catalogue.number(id_)) is not None
    ]
    numbers = [live.number(user) for user, _, _ in known]
    items, times = (np.array([event[part] for event in known], np.int64) for part in (1, 2))
    live.add([event[0] for event in known], numbers, items, times)
    requests, targets = [], []
    for place, (user, item, moment) in enumerate(zip(numbers, items.tolist(), times.tolist(), strict=True)):
        history, when = live.before(user, moment)
        if not len(history):
            continue
        left_out = data.not_again(user, moment, history, data.exclude_seen)
        if item in left_out:  # had before
            continue
        requests.append(Request(f"later{place}", user, moment, history, when, exclude=left_out))
        targets.append(item)
    return requests, np.array(targets, np.int64)


def _hits(recommender: Recommender, requests: Sequence[Request], targets: np.ndarray) -> np.ndarray:
    hits = np.zeros(len(requests))
    for start in range(0, len(requests), BATCH):
        for place, ranked in enumerate(recommender.recommend(requests[start : start + BATCH], K), start):
            hits[place] = float(targets[place] in ranked.items)
    return hits


def _by_user(values: np.ndarray, users: np.ndarray) -> np.ndarray:
    places = np.unique(users, return_inverse=True)[1]
    return np.bincount(places, weights=values) / np.bincount(places)


def _row(hits: np.ndarray, new: np.ndarray, users: np.ndarray, seed: int) -> dict[str, Any]:
    sides = {name: _by_user(hits[some], users[some]) for name, some in (("new", new), ("old", ~new))}
    means = {name: float(values.mean()) for name, values in sides.items()}
    both, a, b = np.intersect1d(np.unique(users[new]), np.unique(users[~new]), return_indices=True)
    found: dict[str, Any] = {name: _interval(values, seed) for name, values in sides.items()}
    found["ratio"] = means["new"] / means["old"] if means["old"] else None
    if len(both) > 1:
        pairs = np.stack([sides["new"][a], sides["old"][b]])
        drawn = rng(seed, "bootstrap").integers(0, len(both), (SAMPLES, len(both)))
        new_, old_ = pairs[0][drawn].mean(1), pairs[1][drawn].mean(1)
        ratios = new_[old_ > 0] / old_[old_ > 0]
        if len(ratios):
            found["same_people"] = {
                "people": len(both),
                "ratio": float(pairs[0].mean() / pairs[1].mean()) if pairs[1].any() else None,
                "interval": np.quantile(ratios, (0.025, 0.975)).tolist(),
            }
    return found


def _interval(values: np.ndarray, seed: int) -> list[float]:
    """Mean, and the 95 % interval of it."""
    drawn = rng(seed, "bootstrap").integers(0, len(values), (SAMPLES, len(values)))
    return [float(values.mean()), *np.quantile(values[drawn].mean(1), (0.025, 0.975)).tolist()]


def save_newcomers(report: dict[str, Any], run: Path) -> Path:
    folder = run / "analyses" / "newcomers"
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(folder / "newcomers.json", json.dumps(report, indent=1))
    return folder


def print_newcomers(report: dict[str, Any]) -> None:
    """The table in the terminal."""
    counts, k = report["items"], report["k"]
    table = Table(
        title=title(
            f"Recall@{k} of {report['events']['new']:,} events of {counts['new']:,} items that no training saw "
            f"({report['people']['new']:,} people), and of {report['events']['old']:,} of {counts['trained']:,} trained ones; "
            f"chance {report['chance']:.4f}"
        ),
        title_justify="left",
    )
    for column in ("", "new", "95 %", "old", "95 %", "new / old", "same people, 95 %", "new − text, 95 %"):
        table.add_column(column, justify="left" if not column else "right")
    for name, row in report["rows"].items():
        same, beside = row.get("same_people"), row.get("new_minus_text")
        table.add_row(
            name,
            f"{row['new'][0]:.4f}",
            f"{row['new'][1]:.4f}–{row['new'][2]:.4f}",
            f"{row['old'][0]:.4f}",
            f"{row['old'][1]:.4f}–{row['old'][2]:.4f}",
            "" if row["ratio"] is None else f"{row['ratio']:.2f}",
            ""
            if same is None or same["ratio"] is None
            else f"{same['ratio']:.2f} ({same['interval'][0]:.2f}–{same['interval'][1]:.2f})",
            "" if beside is None else f"{beside[0]:+.4f} ({beside[1]:+.4f} to {beside[2]:+.4f})",
        )
    Console().print(table)

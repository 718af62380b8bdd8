"""The gate of a refresh: yesterday's events asked of the version that serves and of the one that would, and what of it stops the night.

Each event is a question: what does the version recommend to its user as of just before it? The same questions are put to both versions,
each as it would answer (its default method, or the one that is named), and a version that is clearly worse is not published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.statistics import mean_interval
from recsys.recommender import Request
from recsys.seeds import rng
from serving.answering.live import Given
from serving.answering.recommender import Recommender
from serving.answering.requests import answer, path_of
from serving.refresh.items import Coded

K = 30
LEAST = 50  # questions; fewer tell nothing, and only what needs none is judged


@dataclass(frozen=True)
class Bounds:
    """From which on a version is clearly worse."""

    hit_rate: float = 0.1  # share of the hits lost, where the interval of the difference is below 0 too
    cold: float = 0.05  # more of the answers (a share of them) that are of nobody
    retired: float = 0.2  # share of the items that were served and are no more: a file that was cut short
    room: float = 0.02  # least share of the semantic IDs that is free
    questions: int = 300  # of yesterday's events, a seeded sample


@dataclass
class Verdict:
    """What was measured, and every reason not to publish, by its name."""

    figures: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def against(self, accepted: Sequence[str]) -> dict[str, str]:
        """The reasons that nobody has accepted."""
        return {name: why for name, why in self.refused.items() if name not in accepted}


def judge_items(verdict: Verdict, counts: dict[str, int], served: int, coded: Coded, bounds: Bounds) -> None:
    """What the items alone say; `served`: how many were before."""
    retired = counts["retired"] / max(served, 1)
    verdict.figures["share_retired"] = retired
    if retired > bounds.retired:
        verdict.refused["retired"] = (
            f"{counts['retired']:,} of {served:,} items that are served are not in the items file ({retired:.0%}, at most "
            f"{bounds.retired:.0%}): is it whole? Of a file that names what is new or changed alone say --absent keep"
        )
    table = coded.table
    room = 1 - table.n_items / float(np.prod(np.array(table.sizes, float)))
    verdict.figures |= {
        "free_ids": room,
        "share_beside_their_node": coded.facts["beside_their_node"] / max(coded.facts["coded"], 1),
    }
    if room < bounds.room:
        verdict.refused["room"] = (
            f"{room:.1%} of the semantic IDs are free (at least {bounds.room:.0%}): it pays to code all items anew and train "
            "(prelude inspect RUN)"
        )


def judge_answers(
    verdict: Verdict,
    before: Recommender,
    after: Recommender,
    events: Sequence[Given],
    method: str | None,
    bounds: Bounds,
) -> None:
    """Yesterday's `events` as questions to both versions."""
    chosen = _questions(after, events, bounds.questions)
    if len(chosen) < LEAST:
        verdict.figures["questions"] = len(chosen)
        return
    sides = {
        "before": _asked(before, chosen, method),
        "after": _asked(after, chosen, method),
    }
    hits = {side: found[0] for side, found in sides.items()}
    cold = {side: float(found[1].mean()) for side, found in sides.items()}
    difference = hits["after"] - hits["before"]
    users = np.unique([event[0] for event in chosen], return_inverse=True)[1]
    by_user = np.bincount(users, weights=difference) / np.bincount(users)
    low, high = mean_interval(by_user) or (-np.inf, np.inf)
    rates = {side: float(found.mean()) for side, found in hits.items()}
    verdict.figures |= {
        "questions": len(chosen),
        "people": len(by_user),
        f"hit_rate@{K}": rates,
        "difference": [float(by_user.mean()), low, high],
        "cold": cold,
    }
    if high < 0 and rates["after"] < (1 - bounds.hit_rate) * rates["before"]:
        verdict.refused["hit_rate"] = (
            f"hit-rate@{K} on yesterday's events falls from {rates['before']:.4f} to {rates['after']:.4f} ({len(chosen)} events of "
            f"{len(by_user)} people; difference {by_user.mean():+.4f}, 95 % from {low:+.4f} to {high:+.4f})"
        )
    if cold["after"] > cold["before"] + bounds.cold:
        verdict.refused["cold"] = (
            f"{cold['after']:.1%} of yesterday's answers would be of nobody, of which there were {cold['before']:.1%}: are the user "
            "embeddings whole?"
        )


def _questions(service: Recommender, events: Sequence[Given], at_most: int) -> list[Given]:
    """A seeded sample of the events of items that the version serves."""
    catalogue = service.methods.dataset.catalogue
    known = [event for event in events if catalogue.number(event[1]) is not None]
    if len(known) <= at_most:
        return known
    places = rng(0, "refresh", "gate").choice(len(known), at_most, replace=False)
    return [known[place] for place in np.sort(places)]


def _asked(
    service: Recommender, events: Sequence[Given], method: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Of each event: was its item among the first `K` [E], and was the answer one of nobody [E]."""
    data, live = service.methods.dataset, service.live.histories
    requests: list[Request] = []
    targets: list[int | None] = []
    for number, (user_id, item_id, moment, *_) in enumerate(events):
        user, item = live.user_index(user_id), data.catalogue.number(item_id)
        targets.append(item)
        history, times = (np.zeros(0, np.int64),) * 2 if user is None else live.before(user, moment)
        left_out = data.not_again(user, moment, history, data.exclude_seen)
        requests.append(
            Request(f"gate{number}", user, moment, history, times, exclude=left_out[left_out != item])
        )
    hits, cold = np.zeros(len(events)), np.zeros(len(events), bool)
    asked: dict[str, list[int]] = {}
    for place, request in enumerate(requests):
        name = method or service.default_method(request)[0]
        asked.setdefault(name, []).append(place)
    for name, places in asked.items():
        recommender = service.method(name)
        some = [requests[place] for place in places]
        for place, request, ranked in zip(places, some, answer(recommender, some, K), strict=True):
            hits[place] = float(targets[place] in ranked.items)
            cold[place] = path_of(recommender, request, None).startswith("cold start")
    return hits, cold

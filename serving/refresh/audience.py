"""Whom new items are recommended to: of some people, those in whose lists they stand first."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from recsys.recommender import Request
from recsys.seeds import sample
from serving.answering.recommender import Recommender
from serving.answering.requests import answer

PEOPLE, N = 128, 30  # asked about, a seeded sample; items of each list
MOST_ITEMS, SHOWN = 3, 3  # newest items that are told of; last items of a person's history


def audience(service: Recommender) -> Iterator[str]:
    """A line for each of the newest items: who of a sample gets it, where it stands in their list, and what they had last."""
    data, live = service.methods.dataset, service.live.histories
    first, catalogue = data.catalogue.n_trained, data.catalogue
    if first is None or first == len(catalogue):
        yield "no item came after the training"
        return
    newest = np.setdiff1d(np.arange(first, len(catalogue)), catalogue.retired)[-MOST_ITEMS:]
    names = {number: user_id for user_id, number in live.numbers().items()}
    people = np.array(sorted(names))
    some = sample(people, PEOPLE, 0, "audience")
    requests = []
    for user in some.tolist():
        items, times = live.before(user, live.moment(user))
        left_out = data.not_again(user, live.moment(user), items, data.exclude_seen)
        requests.append(Request(f"for whom {user}", user, live.moment(user), items, times, exclude=left_out))
    key = service.default_method(requests[0])[0]
    lists = answer(service.method(key), requests, N)
    for item in newest.tolist():
        places = [np.flatnonzero(ranked.items == item) for ranked in lists]
        found = [(int(place[0]) + 1, at) for at, place in enumerate(places) if len(place)]
        told = f"{catalogue.titles[item]} ({catalogue.item_ids[item]})"
        if not found:
            yield f"{told}: in nobody's first {N} of {len(some)} people asked"
            continue
        place, at = min(found)
        last = ", ".join(catalogue.titles[one] for one in requests[at].history[-SHOWN:])
        yield (
            f"{told}: recommended to {len(found)} of {len(some)} people, first to {names[int(some[at])]} (place {place} of {key}), who had "
            f"{last} last"
        )

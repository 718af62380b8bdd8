"""Labelled lists from ratings: what a user rated within one session and that has a phrase in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from recsys.data.dataset import Dataset
from recsys.data.phrases import Phrases
from recsys.data.splits import FIT, TEST, UNUSED
from recsys.engagement.config import Drafts, EngagementConfig
from recsys.seeds import rng


def lists_from_ratings(config: EngagementConfig, data: Dataset, phrases: Phrases) -> Drafts:
    assert data.ratings is not None
    drafts, said = Drafts(), _Said(data)
    rated = np.isfinite(data.ratings) & ~np.isin(data.roles, (FIT, UNUSED))
    for user in np.unique(data.users[rated]):
        for session in _sessions(data, int(user), rated, config.session_gap_s):
            generator = rng(config.seed, "lists", int(user), int(session[0]))
            remaining = session.tolist()
            while remaining:
                query, chosen = _common(config, data, said, phrases, remaining, generator)
                items = data.items[chosen]
                drafts.add(
                    int(user),
                    int(data.times[chosen[0]]),
                    query,
                    items,
                    data.ratings[chosen] >= config.like_rating,
                )
                remaining = [event for event in remaining if event not in set(chosen)]
    return drafts


def _sessions(data: Dataset, user: int, usable: np.ndarray, gap_s: int) -> Iterator[np.ndarray]:
    """Runs of a user's usable events of one role with gaps of at most `gap_s`."""
    events = np.arange(data.offsets[user], data.offsets[user + 1])
    events = events[usable[events]]
    breaks = (np.diff(data.times[events]) > gap_s) | (np.diff(data.roles[events]) != 0)
    yield from (part for part in np.split(events, np.flatnonzero(breaks) + 1) if len(part))


class _Said:
    """Tags of items as of a moment: those that anyone gave before it.
    (Later ones are opinions that may tell the label.)
    """

    def __init__(self, data: Dataset):
        self._tags: dict[int, list[tuple[int, str]]] = defaultdict(list)
        columns = (data.queries[name] for name in ("item", "timestamp", "query"))
        for item, time, query in zip(*columns, strict=True):
            self._tags[int(item)].append((int(time), str(query)))
        self._columns = list(data.catalogue.columns.values())

    def of(self, item: int, time: int) -> list[str]:
        """Lower-case phrases for `item`, the catalogue's first."""
        values = [value for column in self._columns for value in column[item]]
        tags = [tag for at, tag in sorted(self._tags.get(item, ())) if at < time]
        return list(dict.fromkeys(phrase.lower() for phrase in [*values, *tags]))


def _common(
    config: EngagementConfig,
    data: Dataset,
    said: _Said,
    phrases: Phrases,
    remaining: list[int],
    generator: np.random.Generator,
) -> tuple[str, list[int]]:
    """A query for the first of `remaining`, and the events (at most `max_shown`) whose items have its
    phrases.
    """
    time = int(data.times[remaining[0]])
    has = {event: said.of(int(data.items[event]), time) for event in remaining}
    own = has[remaining[0]]
    if not own:
        return data.catalogue.titles[data.items[remaining[0]]].lower(), remaining[:1]
    count = 2 if len(own) > 1 and generator.random() < config.pair_share else 1
    asked = [own[at] for at in generator.choice(len(own), count, replace=False)]
    query = " ".join(asked)
    if data.roles[remaining[0]] != TEST and phrases.is_held_out(query):  # no training may read it
        asked = [next((phrase for phrase in own if not phrases.is_held_out(phrase)), own[0])]
        query = asked[0]
    chosen = [event for event in remaining if set(asked) <= set(has[event])]
    return query, chosen[: config.max_shown]

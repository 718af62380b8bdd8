"""Labelled lists from opinions: what a user rated within one session and that has a phrase in common (`recsys.engagement.label_lists`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recsys.data.dataset import Dataset
from recsys.data.phrases import Phrases
from recsys.data.splits import FIT, TEST, UNUSED
from recsys.engagement.config import Drafts, EngagementConfig
from recsys.seeds import rng


@dataclass(frozen=True)
class Opinions:
    """What people said of items [n], by (user, time): `roles` say what may read it, `keys` [n] name a session's draws by its first."""

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray
    roles: np.ndarray
    engaged: np.ndarray  # bool: liked
    keys: np.ndarray


def lists_from_ratings(config: EngagementConfig, data: Dataset, phrases: Phrases) -> Drafts:
    assert data.ratings is not None
    rated = np.flatnonzero(np.isfinite(data.ratings) & ~np.isin(data.roles, (FIT, UNUSED)))
    opinions = Opinions(
        users=data.users[rated],
        items=data.items[rated],
        times=data.times[rated],
        roles=data.roles[rated],
        engaged=data.ratings[rated] >= config.like_rating,
        keys=rated,
    )
    return lists_of(config, data, phrases, opinions)


def lists_of(
    config: EngagementConfig, data: Dataset, phrases: Phrases, opinions: Opinions, last_word: bool = False
) -> Drafts:
    """Lists of what one user had an opinion on within one session, and that has a phrase in common.

    With `last_word` an item that has several opinions in one session is shown once, as of the last.
    """
    drafts, said = Drafts(), _Said(data)
    for session in _sessions(opinions, config.session_gap_s):
        if last_word:
            _, from_end = np.unique(opinions.items[session][::-1], return_index=True)
            session = session[np.sort(len(session) - 1 - from_end)]
        user = int(opinions.users[session[0]])
        generator = rng(config.seed, "lists", user, int(opinions.keys[session[0]]))
        remaining = session.tolist()
        while remaining:
            query, chosen = _common(config, data, opinions, said, phrases, remaining, generator)
            time = int(opinions.times[chosen[0]])
            drafts.add(user, time, query, opinions.items[chosen], opinions.engaged[chosen])
            remaining = [place for place in remaining if place not in set(chosen)]
    return drafts


def _sessions(opinions: Opinions, gap_s: int) -> Iterator[np.ndarray]:
    """Places of runs of one user's opinions of one role with gaps of at most `gap_s`."""
    breaks = np.diff(opinions.users) != 0
    breaks |= (np.diff(opinions.times) > gap_s) | (np.diff(opinions.roles) != 0)
    places = np.arange(len(opinions.users))
    yield from (part for part in np.split(places, np.flatnonzero(breaks) + 1) if len(part))


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
    opinions: Opinions,
    said: _Said,
    phrases: Phrases,
    remaining: list[int],
    generator: np.random.Generator,
) -> tuple[str, list[int]]:
    """A query for the first of `remaining`, and the places (at most `max_shown`) whose items have its phrases."""
    first = remaining[0]
    has = {place: said.of(int(opinions.items[place]), int(opinions.times[first])) for place in remaining}
    own = has[first]
    if not own:
        return data.catalogue.titles[opinions.items[first]].lower(), remaining[:1]
    count = 2 if len(own) > 1 and generator.random() < config.pair_share else 1
    asked = [own[at] for at in generator.choice(len(own), count, replace=False)]
    query = " ".join(asked)
    if opinions.roles[first] != TEST and phrases.is_held_out(query):  # no training may read it
        asked = [next((phrase for phrase in own if not phrases.is_held_out(phrase)), own[0])]
        query = asked[0]
    chosen = [place for place in remaining if set(asked) <= set(has[place])]
    return query, chosen[: config.max_shown]

"""Labelled lists from kinds of events: what a user took, and what they turned down (`recsys.engagement.label_lists`)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from recsys.data.dataset import Dataset
from recsys.data.phrases import Phrases
from recsys.data.splits import DROPPED, FIT, TEST, UNUSED
from recsys.engagement.config import Drafts, EngagementConfig
from recsys.engagement.from_ratings import Opinions, lists_of


def lists_from_kinds(config: EngagementConfig, data: Dataset, phrases: Phrases) -> Drafts:
    """Engaged: the events that are for. Not engaged: those that are against. Of one item in one session the last word counts."""
    return lists_of(config, data, phrases, _opinions(data), last_word=True)


def role_of_moment(data: Dataset, user: int, time: int) -> int:
    """The role of what a user said at a moment: the latest of their events of that very moment, else that of the first after it.

    Events that are part of histories alone (UNUSED) have no say; behind the last event it is TEST, and of a user who is not even
    tested it is UNUSED.
    """
    start, stop = data.offsets[user], data.offsets[user + 1]
    told = np.flatnonzero(data.roles[start:stop] != UNUSED) + start
    first, last = np.searchsorted(data.times[told], [time, time + 1])
    if data.user_groups[user] == DROPPED:
        return UNUSED
    return int(data.roles[told[first : max(last, first + 1)]].max()) if first < len(told) else TEST


def _opinions(data: Dataset) -> Opinions:
    against = data.against
    assert against is not None
    moments = zip(against.users.tolist(), against.times.tolist(), strict=True)
    sides = [
        pd.DataFrame({"user": data.users, "item": data.items, "time": data.times, "role": data.roles, "engaged": True}),
        pd.DataFrame({"user": against.users, "item": against.items, "time": against.times,
                      "role": [role_of_moment(data, *moment) for moment in moments], "engaged": False}),
    ]  # fmt: skip
    frame = pd.concat(sides)
    frame = frame[~frame["role"].isin((FIT, UNUSED))]
    frame = frame.sort_values(["user", "time", "engaged", "item"], ascending=[True, True, False, True])
    user, item, time, role = (frame[name].to_numpy(np.int64) for name in ("user", "item", "time", "role"))
    return Opinions(user, item, time, role, frame["engaged"].to_numpy(bool), keys=time)

"""Stage `engagement`: labelled playlists from a file of one's own, from likes and dislikes, from ratings, or from tags.

Exactly how labels are made:

file      Rows `user_id, timestamp, query, item_id, engaged` (0 or 1), in the order in which items were shown;
          rows of the same user, second and query are one list.

kinds     (Data some of whose events are against: `prepare.events`.) A list is what one user took or turned down within one session
          and that has one or two phrases in common, as of ratings. Engaged: what they took. Not engaged: what they turned down; of
          an item with both in one session the last word counts, and of both at one moment the one against. A moment's part is that of the
          user's next event that is learned from or held out, so a dislike of a time that Stage 1 has fitted is in no list.

ratings   (ml-latest-small.) A list is what one user rated within one session (gaps of at most `session_gap_s`) and that has one or two
          phrases in common: a genre, or a tag that anyone gave before. The phrases are the query. Engaged: a rating of at
          least `like_rating` stars. A low rating is a dislike of something that was *watched all the same*, so hits on liked and on
          disliked items are reported apart, and a generator that learned from watching alone finds both.

tags      (hetrec2011-lastfm-2k.) A list is what a user gave one tag in one month; the tag is the query.
          Engaged: the artists that the user tagged so, for the first time in their history. Not engaged: as
          many artists that *others* had given the tag by then, each about as popular by then as the engaged
          one beside it, which the user had not tagged by the end of that month. (Nothing later is looked at:
          "never tagged" would tell a training list what the test list's answers are not. Popularity is
          matched, or it would be what the label says.) They were never refused, so a label 0 is "not chosen".

A list's time is that of its first item. Lists of events that Stage 1 and the graph have fitted are not made
at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from recsys.artifacts.paths import RunError
from recsys.data.dataset import Dataset
from recsys.data.phrases import Phrases
from recsys.data.splits import PERSONALIZE, TEST, VALIDATION, WARM
from recsys.door.notices import Notices
from recsys.door.sources import source_hash
from recsys.door.tables import DataError
from recsys.door.times import OF_RUN, Reading
from recsys.engagement.config import Drafts, EngagementConfig
from recsys.engagement.from_file import read_lists
from recsys.engagement.from_kinds import lists_from_kinds, role_of_moment
from recsys.engagement.from_ratings import lists_from_ratings
from recsys.engagement.from_tags import lists_from_tags
from recsys.engagement.shown_lists import (
    GENERATOR,
    GENERATOR_VALIDATION,
    NONE,
    PARTS,
    PREDICTOR,
    PREDICTOR_VALIDATION,
    TEST_LISTS,
    ShownLists,
)
from recsys.run import Run
from recsys.seeds import rng

BALANCED = (0.4, 0.6)  # share of engaged items; outside, the stage says so


def make_lists(config: EngagementConfig, run: Run) -> None:
    """Run the stage; see the module. Raises `DataError` for a bad file, and where a part would be empty."""
    outside = (
        {"lists": source_hash(config.lists)} if config.lists is not None and config.lists.exists() else {}
    )
    stage = run.stage("engagement", config, needs=["prepare"], outside=outside)
    if stage.is_done():
        return
    data = Dataset.load(run)
    with stage.writing() as folder:
        notices = Notices()
        source = _source(config, data)
        phrases = Phrases(data)
        drafts = {
            "file": lambda: _from_file(
                config, data, notices, OF_RUN[run.read_json("prepare", "prepare.json")["time"]]
            ),
            "kinds": lambda: lists_from_kinds(config, data, phrases),
            "ratings": lambda: lists_from_ratings(config, data, phrases),
            "tags": lambda: lists_from_tags(config, data),
        }[source]()
        lists = _assign(config, data, phrases, drafts, role_of_moment if source == "kinds" else _role)
        report = _report(lists, source, notices)
        lists.save(folder)
        (folder / "engagement.json").write_text(json.dumps(report, indent=1))
    for name, part in report["parts"].items():
        print(
            f"engagement: {name}: {part['lists']:,} lists of {part['users']:,} users, {part['items']:,} items, "
            f"{part['engaged_share']:.1%} engaged"
        )


def _source(config: EngagementConfig, data: Dataset) -> str:
    has = {
        "file": config.lists is not None,
        "kinds": data.against is not None and len(data.against.users) > 0,
        "ratings": data.ratings is not None and bool(np.isfinite(data.ratings).any()),
        "tags": len(data.queries) > 0,
    }
    wanted = next((name for name in has if has[name]), "file") if config.source == "auto" else config.source
    remedy = {
        "file": "give engagement.lists, a file of user_id, timestamp, query, item_id, engaged",
        "kinds": "the run has no events that are against an item; prepare.events says which kinds are",
        "ratings": "the interactions have no rating column",
        "tags": "the run has no queries; give prepare.queries",
    }
    if not has[wanted]:
        raise DataError(f"engagement.source {wanted}: {remedy[wanted]}")
    return wanted


def _from_file(config: EngagementConfig, data: Dataset, notices: Notices, reading: Reading) -> Drafts:
    assert config.lists is not None
    drafts = Drafts()
    frame = read_lists(config.lists, config.columns, data, notices, config.min_known, reading)
    for (user, time, query), rows in frame.groupby(["user", "timestamp", "query"], sort=False):
        drafts.add(user, time, query, rows["item"].tolist(), rows["engaged"].tolist())
    return drafts


def _assign(
    config: EngagementConfig,
    data: Dataset,
    phrases: Phrases,
    drafts: Drafts,
    role_of: Callable[[Dataset, int, int], int],
) -> ShownLists:
    """Which part each list belongs to, by the role of its user and time; lists that may not be used are left out."""
    side = rng(config.seed, "predictor users").random(data.n_users) < config.predictor_users
    rows, parts, held_out = [], [], []
    for user, time, query, items, labels in sorted(drafts.rows, key=lambda row: row[:3]):
        out, role = phrases.is_held_out(query), role_of(data, user, time)
        part = _part(data, user, role, bool(side[user]))
        learned = _earlier(data, user, time, role)
        kept = [at for at, item in enumerate(items) if item not in learned]
        if part == NONE or not kept or (out and part != TEST_LISTS):
            continue
        rows.append((user, time, query, [items[at] for at in kept], [labels[at] for at in kept]))
        parts.append(part)
        held_out.append(out)
    keep = _sample(config, np.array(parts, np.int8), np.array([row[0] for row in rows]))
    rows = [rows[at] for at in keep]
    lengths = [len(row[3]) for row in rows]
    return ShownLists(
        users=np.array([row[0] for row in rows], np.int64),
        times=np.array([row[1] for row in rows], np.int64),
        queries=[row[2] for row in rows],
        parts=np.array(parts, np.int8)[keep],
        held_out=np.array(held_out, bool)[keep],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=np.array([item for row in rows for item in row[3]], np.int64),
        labels=np.array([label for row in rows for label in row[4]], bool),
    )


def _role(data: Dataset, user: int, time: int) -> int:
    """The latest role of the user's events of that very second, else of the first event after it;
    TEST behind the last one.

    The latest: where a second (in Last.fm, a month) holds events of two roles, a training list of it would
    know of a test list's time.
    """
    if user < 0:
        return TEST
    start, stop = data.offsets[user], data.offsets[user + 1]
    first, last = start + np.searchsorted(data.times[start:stop], [time, time + 1])
    return int(data.roles[first : max(last, first + 1)].max()) if first < stop else TEST


def _earlier(data: Dataset, user: int, time: int, role: int) -> set[int]:
    """Items of the user's events from `time` on that belong to an earlier role than the list:
    something has learned from them.
    """
    if user < 0:
        return set()
    start, stop = data.offsets[user], data.offsets[user + 1]
    learned = (data.times[start:stop] >= time) & (data.roles[start:stop] < role)
    return set(data.items[start:stop][learned].tolist())


def _part(data: Dataset, user: int, role: int, predictor: bool) -> int:
    """The part of a list of that role. A user who is unknown (−1) or held out has test lists alone."""
    if role == TEST:
        return TEST_LISTS
    if data.user_groups[user] != WARM:
        return NONE
    if role == PERSONALIZE:
        return PREDICTOR if predictor else GENERATOR
    if role == VALIDATION:
        return PREDICTOR_VALIDATION if predictor else GENERATOR_VALIDATION
    return NONE


def _sample(config: EngagementConfig, parts: np.ndarray, users: np.ndarray) -> np.ndarray:
    """Rows to keep, ascending: all but the test lists beyond `test_lists`,
    of which each user gives one before any gives two.
    """
    test = np.flatnonzero(parts == TEST_LISTS)
    if len(test) > config.test_lists:
        shuffled = rng(config.seed, "test lists").permutation(test)
        turn = pd.Series(users[shuffled]).groupby(users[shuffled]).cumcount().to_numpy()
        test = shuffled[np.argsort(turn, kind="stable")[: config.test_lists]]
    return np.sort(np.concatenate([np.flatnonzero(parts != TEST_LISTS), test])).astype(np.int64)


def _report(lists: ShownLists, source: str, notices: Notices) -> dict[str, Any]:
    report: dict[str, Any] = {"source": source, "parts": {}}
    shown_part = np.repeat(lists.parts, np.diff(lists.offsets))
    for part, name in enumerate(PARTS[:-1]):
        of, labels = lists.of(part), lists.labels[shown_part == part]
        if not len(of):
            raise RunError(
                f"engagement: no labelled list falls into the part {name!r}; lists must lie in the times of the split's "
                "personalize, validation and test events (see prepare.json), of several users"
            )
        share = float(labels.mean())
        report["parts"][name] = {
            "lists": len(of),
            "users": len(np.unique(lists.users[of])),
            "items": len(labels),
            "engaged_share": share,
            "held_out_queries": int(lists.held_out[of].sum()),
            "distinct_queries": len({lists.queries[at] for at in of}),
        }
        off = not BALANCED[0] <= share <= BALANCED[1]
        notices.add(
            f"unbalanced_{name}",
            int(off),
            f"engagement: {share:.0%} of the items of part {name} were engaged with; KTO weighs the classes, and figures "
            "of the predictor are to be read beside this base rate",
        )
    report["warnings"] = [notice.__dict__ for notice in notices.entries]
    return report

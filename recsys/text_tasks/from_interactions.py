"""Two text tasks made from data at hand: personal tagging on Last.fm, rating prediction on MovieLens.

Both divide each user's instances by time (the last are the test, the ones before them validation), and an
instance's history is what the same user did strictly earlier: events of the same second (MovieLens) or month
(Last.fm, where a date is mostly the first of a month) are not in each other's history. What counts over all
users, such as which tags are used most, is counted on training events alone. An instance without any earlier
record is left out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from recsys.data.config import EMBEDDED, FILES
from recsys.data.loaders import Source, load_lastfm, load_movielens
from recsys.data.splits import TEST, VALIDATION, SplitConfig, assign_roles
from recsys.door.notices import Notices
from recsys.door.tables import DataError
from recsys.text_tasks.instances import Instance, Record, TextTask

N_TAGS = 15  # as LaMP-2M has
SHOWN_TAGS = 5  # of one artist in a record
STARS = tuple(f"{half / 2:g}" for half in range(1, 11))  # 0.5 to 5, MovieLens's scale
ROLES = ("train", "validation", "test")


def load_lastfm_tagging(folder: Path, records: int) -> TextTask:
    """Which of the 15 most used tags does this user give this artist
    (a LaMP-2M-like task on hetrec2011-lastfm-2k)?

    A question is the month in which a user first tags an artist, if exactly one of the user's tags of that
    month is among the fifteen; a record is one artist in one month, with the user's tags.
    """
    source = _read("lastfm", folder, load_lastfm, ())
    assert source.queries is not None
    titles = _titles(source)
    tags_of: dict[tuple[str, int, str], set[str]] = defaultdict(set)  # user, month, artist
    columns = (source.queries[name] for name in ("user_id", "timestamp", "item_id", "query"))
    for user, time, artist, tag in zip(*columns, strict=True):
        tags_of[user, int(time), artist].add(tag)
    groups = [(*key, sorted(tags)) for key, tags in sorted(tags_of.items())]
    seen: set[tuple[str, str]] = set()
    first = np.zeros(len(groups), bool)
    for number, (user, _, artist, _) in enumerate(groups):
        first[number] = (user, artist) not in seen
        seen.add((user, artist))
    roles = _roles([group[0] for group in groups], [group[1] for group in groups], first)
    counts = Counter(
        tag for role, (*_, tags) in zip(roles, groups, strict=True) if role == "train" for tag in tags
    )
    labels = tuple(tag for tag, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:N_TAGS])
    if len(labels) < 2:
        raise DataError(f"{folder}: the training part has {len(labels)} tag(s); bring more data")
    events = []
    for role, (user, time, artist, tags) in zip(roles, groups, strict=True):
        record = f"tagged {titles.get(artist, artist)}: {', '.join(tags[:SHOWN_TAGS])}"
        target = [tag for tag in tags if tag in labels]
        asked = (
            f"Which tag does this person give the music of {titles.get(artist, artist)}? "
            f"Answer with one of: {', '.join(labels)}."
        )
        events.append((role if len(target) == 1 else None, user, time, record, asked, "".join(target[:1])))
    return _task("lastfm-tagging", "labels", events, labels, records)


def load_movielens_rating(folder: Path | None, records: int) -> TextTask:
    """How many stars does this user give this film (LaMP-3-like, half stars),
    on ml-latest-small or its like?
    """
    source = _read("ml-latest-small", folder or EMBEDDED, load_movielens, ("genres",))
    catalogue = source.catalogue
    assert catalogue is not None
    known = {
        item: f"{title} ({', '.join(genres)})" if genres else title
        for item, title, genres in zip(
            catalogue.item_ids, catalogue.titles, catalogue.columns["genres"], strict=True
        )
    }
    frame = source.interactions.frame
    rated = sorted(
        zip(frame["user_id"], frame["timestamp"].astype(int), frame["item_id"], frame["rating"], strict=True),
        key=lambda row: row[:3],
    )
    roles = _roles([row[0] for row in rated], [row[1] for row in rated], np.ones(len(rated), bool))
    events = []
    for role, (user, time, item, rating) in zip(roles, rated, strict=True):
        stars, film = f"{rating:g}", known.get(item, item)
        if stars not in STARS:
            raise DataError(
                f"{folder or EMBEDDED}: user {user} rated {item} with {rating}; expected half stars, 0.5 to 5"
            )
        asked = f"How many stars, 0.5 to 5, does this person give the film {film}? Answer with the number."
        events.append((role, user, time, f"gave {stars} to {film}", asked, stars))
    return _task("movielens-rating", "rating", events, STARS, records)


Event = tuple[str | None, str, int, str, str, str]  # role, user, time, record, question, target


def _read(name: str, folder: Path, load: Callable, text_columns: Sequence[str]) -> Source:
    paths = {role: folder / file for role, file in FILES[name].items()}
    for path in paths.values():
        if not path.is_file():
            raise DataError(f"{path} does not exist; give the folder of {name}")
    return load(paths, text_columns, Notices())


def _titles(source: Source) -> dict[str, str]:
    catalogue = source.catalogue
    assert catalogue is not None
    return dict(zip(catalogue.item_ids, catalogue.titles, strict=True))


def _roles(users: Sequence[str], times: Sequence[int], candidates: np.ndarray) -> list[str | None]:
    """Role of each event, sorted by user and time:
    a user's candidates are divided by time, the others have none.
    """
    chosen = np.flatnonzero(candidates)
    number = np.unique(np.array(users)[chosen], return_inverse=True)[1]
    found = assign_roles(number, np.array(times)[chosen], SplitConfig())
    roles: list[str | None] = [None] * len(users)
    for place, role in zip(chosen, found, strict=True):
        roles[place] = "test" if role == TEST else "validation" if role == VALIDATION else "train"
    return roles


def _task(name: str, kind, events: Sequence[Event], labels: tuple[str, ...], n_records: int) -> TextTask:
    """Events in order of user and time become instances whose history ends strictly before their own time."""
    parts: dict[str, list[Instance]] = {role: [] for role in ROLES}
    history: list[Record] = []
    empty, now, earlier = 0, None, 0
    for number, (role, user, time, record, asked, target) in enumerate(events):
        if number == 0 or user != events[number - 1][1]:
            history, now = [], None
        if now is None or time > now:
            now, earlier = time, len(history)
        if role is not None and earlier:
            past = tuple(history[max(0, earlier - n_records) : earlier])
            parts[role].append(Instance(f"{name}-{number}", user, asked, target, time, labels, past))
        empty += role is not None and not earlier
        history.append(Record(record, time))
    notes = (f"{empty} instances without an earlier record are left out.",)
    train, validation, test = (tuple(parts[role]) for role in ROLES)
    return TextTask(name, kind, train, validation, test, longest_answer=8, notes=notes)

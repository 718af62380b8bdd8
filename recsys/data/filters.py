"""What is left out after the door: disliked items, repeats, unknown items, and all outside the k-core."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from recsys.data.catalogue import Catalogue
from recsys.data.config import Meaning, Repeats, UnknownItems
from recsys.data.interactions import Interactions, codes_of, duplicated
from recsys.door.notices import Coverage, Notices
from recsys.door.tables import DataError


def keep_rated(interactions: Interactions, min_rating: float | None) -> Interactions:
    """Only rows with a rating of at least `min_rating`; a row without a rating goes too."""
    if min_rating is None:
        return interactions
    if "rating" not in interactions.frame:
        raise DataError(
            "min_rating is set, but the interactions have no rating column; map it or leave min_rating out"
        )
    return interactions.keep(interactions.frame["rating"] >= min_rating, "min_rating")


def keep_kinds(interactions: Interactions, kinds: Sequence[str] | None) -> Interactions:
    """Only rows whose `event` is one of `kinds`."""
    if kinds is None:
        return interactions
    if "event" not in interactions.frame:
        raise DataError(
            "keep_events is set, but the interactions have no event column; map it or leave keep_events out"
        )
    unknown = sorted(set(kinds) - set(interactions.frame["event"]))
    if unknown:
        found = ", ".join(interactions.frame["event"].value_counts().index[:10])
        raise DataError(f"keep_events names '{unknown[0]}', which does not occur; events found: {found}")
    return interactions.keep(interactions.frame["event"].isin(kinds), "keep_events")


def last_of_ties(interactions: Interactions, notices: Notices) -> Interactions:
    """Of rows of one user, item, moment and kind that differ in rating or weight, the last: a correction is what the person meant."""
    frame = interactions.frame
    same = [name for name in ("user_id", "item_id", "timestamp", "rest", "event") if name in frame]
    corrected = duplicated(frame, same, keep="last")
    if corrected.any():
        where = interactions.place(int(frame.index[int(corrected.argmax())]))
        notices.add(
            "corrected_rows",
            int(corrected.sum()),
            f"{where}: {int(corrected.sum())} row(s) are followed by another of the same user, item, moment and kind (the first is here); "
            "the last row counts. The order of these rows is all that says which is the later",
        )
    return interactions.keep(~corrected, "corrected_rows")


AGAINST, CONTEXT, DROP = "against", "context", "drop"
# What the words of a kind begin with that may be against an item ("thumbs-down", "DISLIKED", "remove_from_cart", "-1")
SOUNDS_AGAINST = re.compile(
    r"(?:^|[^a-z])(?:dislik|un(?:lik|fav|follow|subscri|install|watch|star)|not[^a-z]*interest|skip|hate|ban(?:$|[^a-z]|ned)|block|hid(?:e|den)|"
    r"thumbs?[^a-z]*down|down[^a-z]*vot|return|refund|remov|delet|negativ|reject|report|complain|cancel|bad(?:$|[^a-z])|-1$)"
)


def sounds_against(kind: str) -> bool:
    """Does the name of a kind of event sound like something that is against an item?"""
    return SOUNDS_AGAINST.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind).lower()) is not None


def give_meaning(
    interactions: Interactions, meanings: Mapping[str, Meaning] | None, notices: Notices
) -> Interactions:
    """Say what each kind of event is: for (a weight, which multiplies the row's), against, or context; and print the counts.

    Adds the columns `weight` and `meaning` ("for", "against", "context"). Rows of a kind that is to be dropped go. Raises `DataError`
    for a kind without a meaning, once any has one.
    """
    frame = interactions.frame
    if "event" not in frame:
        if meanings:
            raise DataError(
                "events is set, but the interactions have no event column; map it or leave events out"
            )
        return interactions
    counts = {str(kind): int(count) for kind, count in frame["event"].value_counts().sort_index().items()}
    found = ", ".join(f"{kind or '(blank)'} {count:,}" for kind, count in counts.items())
    if meanings is None:
        if len(counts) > 1:
            notices.read(f"kinds of events: {found}; all count as likes. prepare.events says what each means")
        sounds = [kind for kind in counts if sounds_against(kind)]
        notices.add(
            "kinds_that_sound_against",
            sum(counts[kind] for kind in sounds),
            f"{sum(counts[kind] for kind in sounds)} events are of a kind that sounds like a dislike ({', '.join(sounds)}), and count as likes; if they "
            f"are not, set prepare.events, for example {{{', '.join(f'{kind}: against' if kind in sounds else f'{kind}: 1.0' for kind in counts)}}}",
        )
        return interactions
    if unsaid := sorted(set(counts) - set(meanings)):
        raise DataError(
            f"prepare.events says nothing of '{unsaid[0]}'; the kinds are: {found}. Give each a weight, or against, context or drop"
        )
    if absent := sorted(set(meanings) - set(counts)):
        raise DataError(f"prepare.events names '{absent[0]}', which does not occur; the kinds are: {found}")
    said = ", ".join(f"{kind or '(blank)'} {count:,} ({meanings[kind]})" for kind, count in counts.items())
    notices.read(f"kinds of events: {said}")
    kept = interactions.keep(frame["event"].map(lambda kind: meanings[kind] != DROP), "events")
    words = kept.frame["event"].map(
        lambda kind: "for" if isinstance(meanings[kind], float) else str(meanings[kind])
    )
    weights = kept.frame["event"].map(
        lambda kind: meanings[kind] if isinstance(meanings[kind], float) else 1.0
    )
    own = kept.frame["weight"] if "weight" in frame else 1.0
    return replace(kept, frame=kept.frame.assign(meaning=words, weight=weights.astype(np.float64) * own))


def keep_repeats(interactions: Interactions, policy: Repeats) -> Interactions:
    """Of a (user, item) pair at several times keep all, the first or the last (of one moment: by the name of the kind)."""
    if policy == "keep":
        return interactions
    frame = interactions.frame
    order = frame.sort_values(
        [name for name in ("timestamp", "rest", "event") if name in frame], kind="stable"
    )
    repeated = order.duplicated(["user_id", "item_id"], keep=policy).loc[frame.index]
    return interactions.keep(~repeated, "repeats")


def meet_catalogue(
    interactions: Interactions,
    catalogue: Catalogue | None,
    policy: UnknownItems,
    notices: Notices,
    least_known: float = 0.0,
) -> Interactions:
    """Apply the policy for items that the items file lacks: refuse, drop, or keep with the id as title.

    At least a share of `least_known` of the interactions' items, and of their rows, must be in the file, whatever the policy.
    """
    if catalogue is None:
        return interactions
    frame = interactions.frame
    unknown = ~frame["item_id"].isin(set(catalogue.item_ids)).to_numpy()
    n_items, n_rows = frame["item_id"][unknown].nunique(), int(unknown.sum())
    problem = None
    if n_rows:
        row = int(unknown.argmax())
        where = interactions.place(int(frame.index[row]))
        problem = f"{where}: item '{frame['item_id'].iloc[row]}' is not in the items file"
    if problem and unknown.all():
        problem += f" (no item is: ids there look like '{catalogue.item_ids[0]}')"
    if problem and policy == "error":
        raise DataError(
            f"{problem}; {n_items} such item(s) in {n_rows} row(s). "
            f"Add them, or set unknown_items: drop or keep"
        )
    total = frame["item_id"].nunique()
    notices.require(
        Coverage("items of the interactions that the items file describes", total - n_items, total, problem),
        least_known,
        "prepare.min_known_items",
        "are the ids of both files of one form, and is item_id mapped to the right column?",
    )
    notices.require(
        Coverage(
            "interactions with an item that the items file describes",
            len(frame) - n_rows,
            len(frame),
            problem,
        ),
        least_known,
        "prepare.min_known_items",
        "which items are missing from the file?",
    )
    if not problem:
        return interactions
    done = "the rows are dropped" if policy == "drop" else "kept, with the id as title"
    notices.add(
        f"unknown_items_{'dropped' if policy == 'drop' else 'kept'}",
        n_rows if policy == "drop" else n_items,
        f"{problem} (first of {n_items} item(s) in {n_rows} row(s)); {done}. Add them to the items file, "
        f"or choose with unknown_items: error, drop or keep",
    )
    return interactions.keep(~unknown, "unknown_items") if policy == "drop" else interactions


def k_core(interactions: Interactions, users: int, items: int) -> Interactions:
    """The largest part in which each user has `users` distinct items and each item `items` distinct users.

    Whoever falls below is dropped until nobody does; the result does not depend on the order. 0 or 1: any.
    """
    if users <= 1 and items <= 1:
        return interactions
    frame = interactions.frame
    user_codes, item_codes = (codes_of(frame[name])[0].astype(np.int64) for name in ("user_id", "item_id"))
    pairs = pd.unique(user_codes * (item_codes.max() + 1) + item_codes)
    pair_users, pair_items = np.divmod(pairs, item_codes.max() + 1)
    while pair_users.size:
        stay = np.bincount(pair_users)[pair_users] >= users
        stay &= np.bincount(pair_items)[pair_items] >= items
        if stay.all():
            break
        pair_users, pair_items = pair_users[stay], pair_items[stay]
    return interactions.keep(np.isin(user_codes, pair_users) & np.isin(item_codes, pair_items), "k_core")

"""What is left out after the door: disliked items, repeats, unknown items, and all outside the k-core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from recsys.data.catalogue import Catalogue
from recsys.data.interactions import Interactions, Notices
from recsys.data.tables import DataError

Repeats = Literal["keep", "first", "last"]
UnknownItems = Literal["error", "drop", "keep"]


def keep_rated(interactions: Interactions, min_rating: float | None) -> Interactions:
    """Only rows with a rating of at least `min_rating`; a row without a rating goes too."""
    if min_rating is None:
        return interactions
    if "rating" not in interactions.frame:
        raise DataError(
            "min_rating is set, but the interactions have no rating column; map it or leave min_rating out"
        )
    return interactions.keep(interactions.frame["rating"] >= min_rating)


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
    return interactions.keep(interactions.frame["event"].isin(kinds))


def keep_repeats(interactions: Interactions, policy: Repeats) -> Interactions:
    """Of a (user, item) pair at several times keep all, the first or the last (ties: in the file's order)."""
    if policy == "keep":
        return interactions
    frame = interactions.frame.sort_values("timestamp", kind="stable")
    repeated = frame.duplicated(["user_id", "item_id"], keep=policy).sort_index()
    return interactions.keep(~repeated.loc[interactions.frame.index])


def meet_catalogue(
    interactions: Interactions, catalogue: Catalogue | None, policy: UnknownItems, notices: Notices
) -> Interactions:
    """Apply the policy for items that the items file lacks: refuse, drop, or keep with the id as title."""
    if catalogue is None:
        return interactions
    frame = interactions.frame
    unknown = ~frame["item_id"].isin(set(catalogue.item_ids)).to_numpy()
    if not unknown.any():
        return interactions
    row = int(unknown.argmax())
    where = interactions.place(int(frame.index[row]))
    n_items, n_rows = frame["item_id"][unknown].nunique(), int(unknown.sum())
    problem = f"{where}: item '{frame['item_id'].iloc[row]}' is not in the items file"
    if unknown.all():
        problem += f" (no item is: ids there look like '{catalogue.item_ids[0]}')"
    if policy == "error":
        raise DataError(
            f"{problem}; {n_items} such item(s) in {n_rows} row(s). "
            f"Add them, or set unknown_items: drop or keep"
        )
    done = "the rows are dropped" if policy == "drop" else "kept, with the id as title"
    notices.add(
        f"unknown_items_{'dropped' if policy == 'drop' else 'kept'}",
        n_rows if policy == "drop" else n_items,
        f"{problem} (first of {n_items} item(s) in {n_rows} row(s)); {done}. Add them to the items file, "
        f"or choose with unknown_items: error, drop or keep",
    )
    return interactions.keep(~unknown) if policy == "drop" else interactions


def k_core(interactions: Interactions, users: int, items: int) -> Interactions:
    """The largest part in which each user has `users` distinct items and each item `items` distinct users.

    Whoever falls below is dropped until nobody does; the result does not depend on the order. 0 or 1: any.
    """
    if users <= 1 and items <= 1:
        return interactions
    frame = interactions.frame
    user_codes, item_codes = pd.factorize(frame["user_id"])[0], pd.factorize(frame["item_id"])[0]
    pairs = pd.unique(user_codes * (item_codes.max() + 1) + item_codes)
    pair_users, pair_items = np.divmod(pairs, item_codes.max() + 1)
    while pair_users.size:
        stay = np.bincount(pair_users)[pair_users] >= users
        stay &= np.bincount(pair_items)[pair_items] >= items
        if stay.all():
            break
        pair_users, pair_items = pair_users[stay], pair_items[stay]
    return interactions.keep(np.isin(user_codes, pair_users) & np.isin(item_codes, pair_items))

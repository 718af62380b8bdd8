"""From checked rows to a `Dataset`: ids become integers, events get their order, their roles and their weights.

Nothing here depends on the order of the file's rows: ids are numbered by their names (or as a published file lists them), and events
of one user and moment stand in an order that is drawn by the user's, the item's and the kind's names.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from recsys.data import loaders
from recsys.data.catalogue import Catalogue
from recsys.data.config import PrepareConfig
from recsys.data.dataset import Against, Dataset
from recsys.data.interactions import Interactions, codes_of
from recsys.data.splits import FIT, PERSONALIZE, UNUSED, assign_roles
from recsys.door.notices import Coverage, Notices
from recsys.door.tables import DataError
from recsys.door.values import natural_order
from recsys.seeds import derive, rng, uniforms_at

TIE_SEED = 0  # of the order of events of one moment: a constant, so that two runs on one file agree
EVEN_SHARES = 10  # a user may be this many times an even share of training, whatever `user_cap` says


def build(
    interactions: Interactions, source: loaders.Source, config: PrepareConfig, notices: Notices
) -> Dataset:
    """The data set of `interactions`. Raises `DataError` where too few queries meet known users or items."""
    against, frame = _apart(interactions.frame)
    user_ids = _numbered(pd.concat([frame["user_id"], against["user_id"]]), source.as_listed)
    catalogue = _catalogue(
        pd.concat([frame["item_id"], against["item_id"]]), source, config.k_core_items == 0
    )
    users, items = integers(user_ids, frame["user_id"]), integers(catalogue.item_ids, frame["item_id"])
    times = frame["timestamp"].to_numpy()
    kinds = (
        frame["event"].to_numpy(dtype=object) if "event" in frame else np.full(len(frame), "", dtype=object)
    )
    tie = tie_break(user_ids, catalogue.item_ids, users, items, kinds)
    rest = frame["rest"].to_numpy() if "rest" in frame else np.zeros(len(frame), np.int64)
    keys = (times, users) if source.as_listed else (tie, rest, times, users)
    order = np.lexsort(keys)
    users, times = users[order].astype(np.int64), times[order]
    positive = (
        frame["meaning"].to_numpy()[order] == "for" if "meaning" in frame else np.ones(len(frame), bool)
    )
    roles = np.full(len(frame), UNUSED, np.int8)
    roles[positive] = assign_roles(users[positive], times[positive], config.split)
    weights = _weights(interactions, frame)
    return Dataset(
        user_ids=user_ids,
        catalogue=catalogue,
        users=users,
        items=items[order].astype(np.int64),
        times=times,
        weights=weights[order],
        roles=_capped(users, user_ids, roles, config, notices),
        queries=_queries(source.queries, user_ids, catalogue, config, notices),
        ratings=frame["rating"].to_numpy()[order].astype(np.float32) if "rating" in frame else None,
        kinds=kinds[order] if "event" in frame else None,
        against=_against(against, user_ids, catalogue),
        held_out_queries=config.held_out_queries,
        exclude_seen=config.exclude_seen,
        exclude_against=config.exclude_against,
    )


def _weights(interactions: Interactions, frame: pd.DataFrame) -> np.ndarray:
    """[E] float32, all above 0 and finite; a kind's weight of `prepare.events` is in them. Raises `DataError` naming the first that is not."""
    if "weight" not in frame:
        return np.ones(len(frame), np.float32)
    given = frame["weight"].to_numpy()
    with np.errstate(over="ignore", under="ignore"):
        weights = given.astype(np.float32)
    bad = np.flatnonzero(~((weights > 0) & np.isfinite(weights)))
    if len(bad):
        raise DataError(
            f"{interactions.place(int(frame.index[bad[0]]))}: weight {given[bad[0]]:g} (the row's, times that of its kind in prepare.events) is "
            "not between 1e-38 and 3e38; leave out what should not count, or call its kind context or drop"
        )
    return weights


def _apart(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that are against, and the others."""
    if "meaning" not in frame:
        return frame[:0], frame
    against = (frame["meaning"] == "against").to_numpy()
    return frame[against], frame[~against]


def _numbered(ids: pd.Series, as_listed: bool) -> np.ndarray:
    names = _present(ids)
    return np.array(names if as_listed else [names[place] for place in natural_order(names)], dtype=object)


def _present(ids: pd.Series) -> list[str]:
    """The ids that occur, each once, in the order in which they do."""
    codes, names = codes_of(ids)
    return names.take(pd.unique(codes)).to_list()


def _catalogue(item_ids: pd.Series, source: loaders.Source, all_of_them: bool) -> Catalogue:
    """The items that occur (and, of the items file, `all_of_them`), by name or as the items file lists them."""
    listed = source.catalogue or Catalogue(np.zeros(0, dtype=object), [], {})
    present = dict.fromkeys(_present(item_ids))
    names = [item_id for item_id in listed.item_ids if all_of_them or item_id in present]
    known = set(names)
    names += [item_id for item_id in present if item_id not in known]
    return listed.select(names if source.as_listed else [names[place] for place in natural_order(names)])


def tie_break(
    user_ids: np.ndarray, item_ids: np.ndarray, users: np.ndarray, items: np.ndarray, kinds: np.ndarray
) -> np.ndarray:
    """Numbers [E] in [0, 1) by which events of one user and moment are ordered: drawn by the names of user, item and kind."""
    user_keys = np.array([derive(TIE_SEED, "tie", "user", user) for user in user_ids], np.uint64)
    item_keys = np.array([derive(TIE_SEED, "tie", "item", item) for item in item_ids], np.uint64)
    names, of = np.unique(kinds.astype(str), return_inverse=True)
    kind_keys = np.array([derive(TIE_SEED, "tie", "kind", str(kind)) for kind in names], np.uint64)
    return uniforms_at(user_keys[users] ^ kind_keys[of], item_keys[items])


def _capped(
    users: np.ndarray, user_ids: np.ndarray, roles: np.ndarray, config: PrepareConfig, notices: Notices
) -> np.ndarray:
    """The roles, where no user is more than the allowed share of the training events (FIT, PERSONALIZE): the rest becomes UNUSED."""
    training = np.flatnonzero(np.isin(roles, (FIT, PERSONALIZE)))
    counts = np.bincount(users[training], minlength=len(user_ids))
    share = max(config.user_cap, EVEN_SHARES / max(int((counts > 0).sum()), 1))
    roles = roles.copy()
    for user in np.flatnonzero(counts > share * len(training)).tolist():
        rest = len(training) - int(counts[user])
        most = max(1, int(share / (1 - share) * rest)) if share < 1 else int(counts[user])
        mine = training[users[training] == user]
        gone = rng(config.split.seed, "user cap", str(user_ids[user])).permutation(mine)[most:]
        roles[gone] = UNUSED
        notices.add(
            "user_capped",
            len(gone),
            f"user '{user_ids[user]}' has {counts[user]:,} of {len(training):,} training events ({counts[user] / len(training):.0%}); is it a "
            f"person? {most:,} of them, drawn by seed, are learned from ({share:.0%} of training at most: prepare.user_cap)",
        )
    return roles


def _against(frame: pd.DataFrame, user_ids: np.ndarray, catalogue: Catalogue) -> Against | None:
    if not len(frame):
        return None
    found = Against(
        integers(user_ids, frame["user_id"]).astype(np.int64),
        integers(catalogue.item_ids, frame["item_id"]).astype(np.int64),
        frame["timestamp"].to_numpy().astype(np.int64),
    )
    order = np.lexsort((found.items, found.times, found.users))
    return Against(found.users[order], found.items[order], found.times[order])


def _queries(
    queries: pd.DataFrame | None,
    user_ids: np.ndarray,
    catalogue: Catalogue,
    config: PrepareConfig,
    notices: Notices,
) -> pd.DataFrame:
    """Queries with integers for ids, in an order of their own; those for an item outside the catalogue are dropped and counted."""
    if queries is None:
        return pd.DataFrame({"user": [], "item": [], "timestamp": [], "query": []}).astype(
            {"user": "int64", "item": "int64", "timestamp": "int64", "query": "str"}
        )
    items, users = integers(catalogue.item_ids, queries["item_id"]), integers(user_ids, queries["user_id"])
    named = queries["user_id"].notna().to_numpy()
    _require_queries(queries, named, users, "user_id", config, notices)
    if config.source == "files":
        _require_queries(queries, np.ones(len(queries), bool), items, "item_id", config, notices)
    table = pd.DataFrame(
        {
            "user": users,
            "item": items,
            "timestamp": queries["timestamp"].to_numpy(),
            "query": queries["query"].to_numpy(),
        }
    ).astype({"user": "int64", "item": "int64", "query": "str"})
    gone = int((items < 0).sum())
    notices.add(
        "queries_for_unknown_items", gone, f"{gone} queries are for items outside the catalogue; dropped"
    )
    return table[items >= 0].reset_index(drop=True)


def _require_queries(
    queries: pd.DataFrame,
    asked: np.ndarray,
    found: np.ndarray,
    column: str,
    config: PrepareConfig,
    notices: Notices,
) -> None:
    lacking = np.flatnonzero(asked & (found < 0))
    example = f"{column} '{queries[column].iloc[lacking[0]]}'" if len(lacking) else None
    matched = int((found[asked] >= 0).sum())
    notices.require(
        Coverage(f"queries whose {column} is known", matched, int(asked.sum()), example),
        config.min_known_queries,
        "prepare.min_known_queries",
        "are the ids of the queries and of the interactions of one form?",
    )


def integers(ids: np.ndarray, values: pd.Series) -> np.ndarray:
    """The position in `ids` of each value; −1 where there is none."""
    index = pd.Index(ids)
    if not isinstance(values.dtype, pd.CategoricalDtype):
        return index.get_indexer(pd.Index(values.to_numpy(dtype=object)))
    codes, names = codes_of(values)
    return np.append(index.get_indexer(names.to_numpy(dtype=object)), -1).astype(np.int32)[codes]

"""From checked rows to a `Dataset`: ids become integers, events get their order, their roles and their weights.

Nothing here depends on the order of the file's rows: ids are numbered by their names (or as a published file lists them), and events
of one user and moment stand in an order that is drawn by the user's, the item's and the kind's names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from recsys.data import loaders
from recsys.data.catalogue import Catalogue
from recsys.data.config import PrepareConfig
from recsys.data.dataset import Against, Dataset
from recsys.data.interactions import Interactions, codes_of
from recsys.data.splits import FIT, PERSONALIZE, UNUSED, assign_roles, blocks_of
from recsys.door.notices import Coverage, Notices
from recsys.door.tables import DataError
from recsys.door.values import natural_order
from recsys.seeds import derive, rng, uniforms_at

TIE_SEED = 0  # of the order of events of one moment: a constant, so that two runs on one file agree
EVEN_SHARES = 10  # a user may be this many times an even share of training, whatever `user_cap` says


@dataclass
class Rows:
    """What a `Dataset` is built from, the rows in the order of the file: all that is kept of `Interactions`, at some 16 bytes a row.

    users, items [E] (int32 or int64) are places in `user_ids` and the catalogue; times int64, weights float32, positive bool [E]; rest,
    ratings, kinds [E] or None; `against` stands apart from the E.
    """

    user_ids: np.ndarray
    catalogue: Catalogue
    users: np.ndarray
    items: np.ndarray
    times: np.ndarray
    rest: np.ndarray | None
    weights: np.ndarray
    positive: np.ndarray
    ratings: np.ndarray | None
    kinds: np.ndarray | None
    against: Against | None


def rows_of(interactions: Interactions, source: loaders.Source, config: PrepareConfig) -> Rows:
    """The rows with integers for ids. Raises `DataError` naming a weight that is none."""
    against, frame = _apart(interactions.frame)
    user_ids = _numbered(_both(frame, against, "user_id"), source.as_listed)
    catalogue = _catalogue(_both(frame, against, "item_id"), source, config.k_core_items == 0)
    return Rows(
        user_ids,
        catalogue,
        integers(user_ids, frame["user_id"]),
        integers(catalogue.item_ids, frame["item_id"]),
        frame["timestamp"].to_numpy(),
        frame["rest"].to_numpy() if "rest" in frame else None,
        _weights(interactions, frame),
        frame["meaning"].to_numpy() == "for" if "meaning" in frame else _same(True, len(frame)),
        frame["rating"].to_numpy().astype(np.float32) if "rating" in frame else None,
        frame["event"].to_numpy(dtype=object) if "event" in frame else None,
        _against(against, user_ids, catalogue),
    )


def build(
    interactions: Interactions, source: loaders.Source, config: PrepareConfig, notices: Notices
) -> Dataset:
    """The data set of `interactions`. Raises `DataError` for a weight that is none, and where too few queries meet known users or items."""
    return built_of(rows_of(interactions, source, config), source, config, notices)


def built_of(rows: Rows, source: loaders.Source, config: PrepareConfig, notices: Notices) -> Dataset:
    """`build` of rows, which are used up by it: a column goes as its place in the data set is filled."""
    order, none = _order(rows, source.as_listed), np.zeros(0, np.int64)
    ordered: dict[str, Any] = {"items": rows.items[order].astype(np.int64)}
    rows.items = none
    ordered["times"] = rows.times[order]
    rows.times = none
    ordered["users"] = users = rows.users[order].astype(np.int64)
    rows.users = none
    ordered["weights"], positive = rows.weights[order], rows.positive[order]
    ordered["ratings"] = None if rows.ratings is None else rows.ratings[order]
    ordered["kinds"] = None if rows.kinds is None else rows.kinds[order]
    del order
    if positive.all():  # no copies of what is all of it
        roles = assign_roles(users, ordered["times"], config.split)
    else:
        roles = np.full(len(users), UNUSED, np.int8)
        roles[positive] = assign_roles(users[positive], ordered["times"][positive], config.split)
    return Dataset(
        user_ids=rows.user_ids,
        catalogue=rows.catalogue,
        roles=_capped(users, rows.user_ids, roles, config, notices),
        queries=_queries(source.queries, rows.user_ids, rows.catalogue, config, notices),
        against=rows.against,
        held_out_queries=config.held_out_queries,
        exclude_seen=config.exclude_seen,
        exclude_against=config.exclude_against,
        one_clock=config.split.kind == "global_time",
        **ordered,
    )


def _order(rows: Rows, as_listed: bool) -> np.ndarray:
    """The places of the rows [E] by user, moment, rest of the second and `TieBreak` (`as_listed`: by user and moment, then as they stand).

    Some users at a time, so that what is beside the rows is 8 bytes each.
    """
    by_user = np.argsort(rows.users, kind="stable")
    tie = None if as_listed else TieBreak.of(rows.user_ids, rows.catalogue.item_ids, rows.kinds)
    ends = np.cumsum(np.bincount(rows.users, minlength=len(rows.user_ids)))
    for start, stop in blocks_of(ends):
        some = by_user[start:stop]
        keys = [rows.times[some], rows.users[some]]
        if tie is not None:
            kinds = None if rows.kinds is None else rows.kinds[some]
            rest = [] if rows.rest is None else [rows.rest[some]]
            keys = [tie(rows.users[some], rows.items[some], kinds), *rest, *keys]
        by_user[start:stop] = some[np.lexsort(keys)]
    return by_user


def _same(value: Any, count: int) -> np.ndarray:
    """One value [n], in no memory."""
    return np.broadcast_to(np.asarray(value), count)


def _weights(interactions: Interactions, frame: pd.DataFrame) -> np.ndarray:
    """[E] float32, all above 0 and finite; a kind's weight of `prepare.events` is in them. Raises `DataError` naming the first that is not."""
    if "weight" not in frame:
        return _same(np.float32(1), len(frame))
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


def _both(frame: pd.DataFrame, against: pd.DataFrame, column: str) -> pd.Series:
    return pd.concat([frame[column], against[column]]) if len(against) else frame[column]


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


@dataclass(frozen=True)
class TieBreak:
    """Numbers in [0, 1) by which events of one user and moment are ordered: drawn by the names of user, item and kind."""

    user_keys: np.ndarray
    item_keys: np.ndarray
    kind_keys: dict[str, np.uint64]  # of an event without a kind: that of ""

    @classmethod
    def of(cls, user_ids: np.ndarray, item_ids: np.ndarray, kinds: np.ndarray | None) -> TieBreak:
        def keys(what: str, names: Iterable[str]) -> np.ndarray:
            return np.fromiter((derive(TIE_SEED, "tie", what, name) for name in names), np.uint64)

        names = [""] if kinds is None else sorted(set(map(str, kinds)))
        return cls(
            keys("user", user_ids), keys("item", item_ids), dict(zip(names, keys("kind", names), strict=True))
        )

    def __call__(self, users: np.ndarray, items: np.ndarray, kinds: np.ndarray | None) -> np.ndarray:
        """The numbers [n] of events."""
        of = self.kind_keys[""] if kinds is None else np.array([self.kind_keys[str(kind)] for kind in kinds])
        return uniforms_at(self.user_keys[users] ^ of, self.item_keys[items])


def _capped(
    users: np.ndarray, user_ids: np.ndarray, roles: np.ndarray, config: PrepareConfig, notices: Notices
) -> np.ndarray:
    """The roles, where no user is more than the allowed share of the training events (FIT, PERSONALIZE): the rest becomes UNUSED."""
    learned = (roles == FIT) | (roles == PERSONALIZE)
    counts = np.bincount(users[learned], minlength=len(user_ids))
    share = max(config.user_cap, EVEN_SHARES / max(int((counts > 0).sum()), 1))
    over = np.flatnonzero(counts > share * counts.sum()).tolist()
    if not over:
        return roles
    training, roles = np.flatnonzero(learned), roles.copy()
    for user in over:
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

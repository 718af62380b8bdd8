"""Stage `prepare`: files in, a `Dataset` out. Everything later reads `Dataset.load(run)` and nothing else."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from recsys.artifacts.rewrite import write_text_atomically
from recsys.data import filters, loaders
from recsys.data.catalogue import Catalogue
from recsys.data.config import PrepareConfig
from recsys.data.dataset import Dataset
from recsys.data.interactions import Interactions, Notices
from recsys.data.splits import FIT, ROLE_NAMES, TEST, WARM, assign_roles
from recsys.data.tables import DataError
from recsys.data.user_splits import split_users
from recsys.run import Run, RunError, sha256_of


def prepare(config: PrepareConfig, run: Run) -> None:
    """Read, check, filter and split the data; write a `Dataset`, and prepare.json about it.

    Does nothing when the configuration and the files have not changed. Raises `DataError` for bad input, and
    `RunError` where a person was deleted from the run, whom the files may still hold.
    """
    hashes = _hash_files(config)
    stage = run.stage("prepare", config, outside=hashes)
    if stage.is_done():
        print(f"prepare: up to date ({run.path / 'prepare'})")
        return
    if run.deletions():
        raise RunError(
            f"{len(run.deletions())} deletion(s) of persons are recorded in {run.path}/manifest.json; preparing again "
            "would bring back whoever is still in the source files. Take them out of the files, and prepare a new run "
            "directory"
        )
    with stage.writing() as folder:
        notices = Notices()
        source = _load(config, notices)
        interactions, dropped = _filter(source, config, notices)
        dataset = _build(interactions, source, config, notices)
        held_out = split_users(dataset, config.user_split) if config.user_split.is_on else None
        _check_roles(dataset, config, notices)
        report = _report(dataset, config, source, dropped, notices, hashes)
        if held_out:
            report["user_split"] = config.user_split.model_dump(mode="json") | held_out
        dataset.save(folder)
        write_text_atomically(folder / "prepare.json", json.dumps(report, indent=1))
    counts = report["counts"]
    print(
        f"prepare: {counts['events']:,} events of {counts['users']:,} users and {counts['items']:,} items; "
        + ", ".join(f"{name} {n:,}" for name, n in report["roles"].items() if n)
        + (
            f"; users: {', '.join(f'{name} {n:,}' for name, n in held_out['users'].items() if n)}"
            if held_out
            else ""
        )
    )


def _hash_files(config: PrepareConfig) -> dict[str, str]:
    hashes = {}
    for name, path in config.files().items():
        if not path.exists():
            raise DataError(f"{path} does not exist; give the path of the {name} in the config")
        if path.is_dir():
            raise DataError(f"{path} is a directory; give the path of the {name} file")
        try:
            hashes[name] = sha256_of(path)
        except OSError as error:
            raise DataError(
                f"{path} cannot be read ({error.strerror}); are you allowed to read it?"
            ) from None
    return hashes


def _load(config: PrepareConfig, notices: Notices) -> loaders.Source:
    if config.source == "files":
        return loaders.load_files(config.files(), config.columns, config.text_columns, notices)
    load = {
        "ml-latest-small": loaders.load_movielens,
        "amazon": loaders.load_amazon,
        "lastfm": loaders.load_lastfm,
    }[config.source]
    return load(config.files(), config.text_columns, notices)


def _filter(
    source: loaders.Source, config: PrepareConfig, notices: Notices
) -> tuple[Interactions, dict[str, int]]:
    """What is left after every filter (two users and two items at least), and what each one dropped."""
    steps = {
        "keep_events": lambda rows: filters.keep_kinds(rows, config.keep_events),
        "min_rating": lambda rows: filters.keep_rated(rows, config.min_rating),
        "repeats": lambda rows: filters.keep_repeats(rows, config.repeats),
        "unknown_items": lambda rows: filters.meet_catalogue(
            rows, source.catalogue, config.unknown_items, notices
        ),
        "k_core": lambda rows: filters.k_core(rows, config.k_core_users, config.k_core_items),
    }
    interactions, dropped = source.interactions, {}
    path = config.files()["interactions"]
    for kind in ("user", "item"):
        ids = interactions.frame[f"{kind}_id"]
        if ids.nunique() < 2:
            raise DataError(
                f"{path} has one {kind} ('{ids.iloc[0]}'), and nothing collaborative can be learned from "
                f"fewer than two; is {kind}_id mapped to the right column?"
            )
    for name, step in steps.items():
        before = interactions.frame
        interactions = step(interactions)
        dropped[name] = len(before) - len(interactions.frame)
        users, items = (interactions.frame[column].nunique() for column in ("user_id", "item_id"))
        if min(users, items) < 2:
            raise DataError(
                f"{path}: {name} leaves {users} user(s) and {items} item(s) of {before['user_id'].nunique()} "
                f"and {before['item_id'].nunique()}; two of each are needed: relax that setting"
            )
    return interactions, {name: count for name, count in dropped.items() if count}


def _build(
    interactions: Interactions, source: loaders.Source, config: PrepareConfig, notices: Notices
) -> Dataset:
    """Raw ids become integers: users by first appearance, items by the order of the items file."""
    frame = interactions.frame
    users, user_ids = pd.factorize(frame["user_id"])
    items, item_ids = pd.factorize(frame["item_id"])
    listed = source.catalogue or Catalogue(np.zeros(0, dtype=object), [], {})
    present = dict.fromkeys(item_ids)
    known = dict.fromkeys(item_id for item_id in listed.item_ids if item_id in present)
    catalogue = listed.select([*known, *(item_id for item_id in present if item_id not in known)])
    items = _integers(catalogue.item_ids, item_ids.to_series())[items]
    times = frame["timestamp"].to_numpy()
    order = np.lexsort((times, users))  # stable: ties stay in the order of the file
    users, times = users[order].astype(np.int64), times[order]
    roles = assign_roles(users, times, config.split)
    weights = frame["weight"].to_numpy() if "weight" in frame else np.ones(len(frame))
    return Dataset(
        user_ids=np.array(user_ids, dtype=object),
        catalogue=catalogue,
        users=users,
        items=items[order].astype(np.int64),
        times=times,
        weights=weights[order].astype(np.float32),
        roles=roles,
        queries=_queries(source.queries, user_ids, catalogue, notices),
        ratings=frame["rating"].to_numpy()[order].astype(np.float32) if "rating" in frame else None,
        kinds=frame["event"].to_numpy(dtype=object)[order] if "event" in frame else None,
        held_out_queries=config.held_out_queries,
    )


def _check_roles(dataset: Dataset, config: PrepareConfig, notices: Notices) -> None:
    users, roles = dataset.users, dataset.roles
    counts = np.bincount(roles, minlength=len(ROLE_NAMES))
    for role in (FIT, TEST):
        if counts[role] == 0:
            raise DataError(
                f"the {config.split.kind} split of {len(roles)} events leaves none to "
                f"{'learn from' if role == FIT else 'test on'}; leave_last_out needs users with 3 events, "
                f"last_fraction with 5, global_time cutoffs inside the data's range; change split or filters"
            )
    for role in range(FIT + 1, TEST):
        if counts[role] == 0:
            name = ROLE_NAMES[role]
            notices.add(
                f"no_{name}_events", 1, f"the split has no {name} events; stages that need them will refuse"
            )
    warm = dataset.user_groups == WARM
    untested = int(warm.sum()) - int(warm[np.unique(users[roles == TEST])].sum())
    notices.add(
        "users_without_test_event",
        untested,
        f"{untested} user(s) have no test event ({config.split.kind}); they are learned from, not measured",
    )


def _queries(
    queries: pd.DataFrame | None, user_ids: pd.Index, catalogue: Catalogue, notices: Notices
) -> pd.DataFrame:
    """Queries with integers for ids; those for an item outside the catalogue are dropped and counted."""
    if queries is None:
        return pd.DataFrame({"user": [], "item": [], "timestamp": [], "query": []}).astype(
            {"user": "int64", "item": "int64", "timestamp": "int64", "query": "str"}
        )
    items = _integers(catalogue.item_ids, queries["item_id"])
    users = _integers(np.array(user_ids, dtype=object), queries["user_id"])
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


def _integers(ids: np.ndarray, values: pd.Series) -> np.ndarray:
    """The position in `ids` of each value; −1 where there is none."""
    return pd.Index(ids).get_indexer(pd.Index(values.to_numpy(dtype=object)))


def _report(
    dataset: Dataset,
    config: PrepareConfig,
    source: loaders.Source,
    dropped: dict[str, int],
    notices: Notices,
    hashes: dict[str, str],
) -> dict[str, Any]:
    return {
        "source": config.source,
        "time": "unix_seconds" if source.has_clock else "ordinal",
        **dataset.facts(),
        "time_range": [int(dataset.times.min()), int(dataset.times.max())],
        "exclude_seen": config.exclude_seen,
        "held_out_queries": config.held_out_queries,
        "split": config.split.model_dump(mode="json"),
        "dropped_rows": {
            **{
                notice.reason: notice.count for notice in notices.entries if notice.reason == "duplicate_rows"
            },
            **dropped,
        },
        "warnings": [notice.__dict__ for notice in notices.entries],
        "files": {name: {"path": str(path), "sha256": hashes[name]} for name, path in config.files().items()},
    }

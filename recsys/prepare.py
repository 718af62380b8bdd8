"""Stage `prepare`: files in, a `Dataset` out. Everything later reads `Dataset.load(run)` and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from recsys import filters, loaders
from recsys.catalogue import Catalogue
from recsys.config import StageConfig
from recsys.dataset import Dataset
from recsys.interactions import DataError, Interactions, Notices
from recsys.run import Run, sha256_of, write_text_atomically
from recsys.splits import FIT, ROLE_NAMES, TEST, VALIDATION, SplitConfig, assign_roles

__all__ = ["Dataset", "PrepareConfig", "prepare"]

K_CORE_ITEMS = {
    "ml-latest-small": 5,
    "lastfm": 5,
}  # users; the others stay as they are (amazon is 5-core already)


class PrepareConfig(StageConfig):
    """What to read, what to leave out, and how to split it."""

    source: Literal["ml-latest-small", "amazon", "lastfm", "files"] = (
        "ml-latest-small"  # who knows the format
    )
    path: Path | None = None  # folder of a known data set; None: the MovieLens copy that ships with Prelude
    interactions: Path | None = None  # source files: .csv .tsv .jsonl .json (each also .gz) or .parquet
    items: Path | None = None  # source files: optional, so that items have titles and text
    queries: Path | None = None  # source files: optional, what users asked for and found
    # Our column name → yours, e.g. {user_id: uid}. `items.item_id: sku` speaks of the items file alone.
    columns: dict[str, str] = Field(default_factory=dict)
    text_columns: list[str] | None = None  # columns that describe an item; None: all that are not numbers
    min_rating: float | None = (
        None  # stars or the like; None: every rating is an interaction, as in the sketch
    )
    keep_events: list[str] | None = None  # kinds in the `event` column that count; None: all
    repeats: filters.Repeats = (
        "keep"  # a (user, item) pair at several times: listening repeats, and time tells
    )
    unknown_items: filters.UnknownItems = (
        "keep"  # items that the items file lacks: kept with their id as title
    )
    k_core_users: int = Field(1, ge=0)  # distinct items a user needs; 0 or 1: any
    # Distinct users an item needs: one that few have touched has no collaborative vector. The default is 5 for
    # ml-latest-small and lastfm, and 1 (any) elsewhere.
    k_core_items: int = Field(1, ge=0)
    split: SplitConfig = Field(default_factory=SplitConfig)

    @model_validator(mode="before")
    @classmethod
    def _default_core(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "k_core_items" not in values:
            source = values.get("source", "ml-latest-small")
            values = {**values, "k_core_items": K_CORE_ITEMS.get(source, 1) if isinstance(source, str) else 1}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> PrepareConfig:
        own = [name for name in ("interactions", "items", "queries", "columns") if getattr(self, name)]
        if self.source == "files":
            if self.interactions is None:
                raise ValueError("source: files needs interactions: the path of a file")
            if self.path is not None:
                raise ValueError(
                    "source: files takes interactions, items and queries; path is for known data sets"
                )
        elif own:
            raise ValueError(f"{own[0]} belongs to source: files, not to {self.source}")
        elif self.source != "ml-latest-small" and self.path is None:
            raise ValueError(f"source: {self.source} needs path: the folder that holds {self._file_names()}")
        if self.source == "amazon" and self.split.kind == "global_time":
            raise ValueError(
                "amazon has order but no time; split.kind must be leave_last_out or last_fraction"
            )
        known = {"user_id", "item_id", "timestamp", "rating", "weight", "event", "title", "query"}
        for name in self.columns:
            if name.removeprefix("interactions.").removeprefix("items.").removeprefix(
                "queries."
            ) not in known | set(self.text_columns or ()):
                raise ValueError(f"columns maps '{name}', which is none of ours: {', '.join(sorted(known))}")
        return self

    def _file_names(self) -> str:
        return ", ".join(loaders.FILES[self.source].values())

    def files(self) -> dict[str, Path]:
        """The files that are read, by what they are."""
        if self.source == "files":
            given = {"interactions": self.interactions, "items": self.items, "queries": self.queries}
            return {name: path for name, path in given.items() if path is not None}
        folder = self.path or loaders.EMBEDDED
        return {name: folder / file for name, file in loaders.FILES[self.source].items()}


def prepare(config: PrepareConfig, run: Run) -> None:
    """Read, check, filter and split the data; write events, users, items and queries as Parquet, and prepare.json.

    Does nothing when the configuration and the files have not changed. Raises `DataError` for bad input.
    """
    hashes = _hash_files(config)
    stage = run.stage("prepare", config, outside=hashes)
    if stage.is_done():
        print(f"prepare: up to date ({run.path / 'prepare'})")
        return
    notices = Notices()
    source = _load(config, notices)
    interactions, dropped = _filter(source, config, notices)
    dataset = _build(interactions, source, config, notices)
    report = _report(dataset, config, source, dropped, notices, hashes)
    with stage.writing() as folder:
        _write(dataset, folder)
        write_text_atomically(folder / "prepare.json", json.dumps(report, indent=1))
    counts = report["counts"]
    print(
        f"prepare: {counts['events']:,} events of {counts['users']:,} users and {counts['items']:,} items; "
        + ", ".join(f"{name} {n:,}" for name, n in report["roles"].items() if n)
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
    """What is left after every filter, and how many rows each one dropped."""
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
    if interactions.frame["user_id"].nunique() < 2:
        raise DataError(
            f"{path} has one user ({interactions.frame['user_id'].iloc[0]!r}); there is nothing "
            f"collaborative to learn from fewer than two: is user_id mapped to the right column?"
        )
    for name, step in steps.items():
        before = len(interactions.frame)
        interactions = step(interactions)
        dropped[name] = before - len(interactions.frame)
        left = interactions.frame["user_id"].nunique()
        if left < 2:
            raise DataError(
                f"{path}: after {name} {left} user(s) with {len(interactions.frame)} event(s) are left of "
                f"{before} events; relax that setting, there must be at least two users"
            )
    return interactions, {name: count for name, count in dropped.items() if count}


def _build(
    interactions: Interactions, source: loaders.Source, config: PrepareConfig, notices: Notices
) -> Dataset:
    """Raw ids become integers: users by first appearance, items by the order of the items file."""
    frame = interactions.frame
    users, user_ids = pd.factorize(frame["user_id"])
    catalogue = source.catalogue or Catalogue(np.zeros(0, dtype=object), [], {})
    present = set(frame["item_id"])
    known = [item_id for item_id in catalogue.item_ids if item_id in present]
    extra = frame["item_id"][~frame["item_id"].isin(set(known))].drop_duplicates().to_list()
    catalogue = catalogue.select(known + extra)
    items = pd.Index(catalogue.item_ids).get_indexer(pd.Index(frame["item_id"].to_numpy(dtype=object)))
    times = frame["timestamp"].to_numpy()
    order = np.lexsort((times, users))  # stable: ties stay in the order of the file
    users, times = users[order].astype(np.int64), times[order]
    roles = assign_roles(users, times, config.split)
    _check_roles(roles, config, notices)
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
    )


def _check_roles(roles: np.ndarray, config: PrepareConfig, notices: Notices) -> None:
    counts = np.bincount(roles, minlength=len(ROLE_NAMES))
    for role in (FIT, TEST):
        if counts[role] == 0:
            raise DataError(
                f"the {config.split.kind} split leaves no event to {'learn from' if role == FIT else 'test on'} "
                f"({len(roles)} events in all); leave_last_out needs users with 3 events, last_fraction with 5, "
                f"global_time cutoffs inside the data's range: change split, or the filters before it"
            )
    for role in range(FIT + 1, TEST):
        if counts[role] == 0:
            name = ROLE_NAMES[role]
            notices.add(
                f"no_{name}_events", 1, f"the split has no {name} events; stages that need them will refuse"
            )


def _queries(
    queries: pd.DataFrame | None, user_ids: pd.Index, catalogue: Catalogue, notices: Notices
) -> pd.DataFrame:
    """Queries with integers for ids; those for an item outside the catalogue are dropped and counted."""
    if queries is None:
        return pd.DataFrame({"user": [], "item": [], "timestamp": [], "query": []}).astype(
            {"user": "int64", "item": "int64", "timestamp": "int64", "query": "str"}
        )
    items = pd.Index(catalogue.item_ids).get_indexer(pd.Index(queries["item_id"].to_numpy(dtype=object)))
    users = pd.Index(np.array(user_ids, dtype=object)).get_indexer(
        pd.Index(queries["user_id"].to_numpy(dtype=object))
    )
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


def _write(dataset: Dataset, folder: Path) -> None:
    events = {
        "user": dataset.users,
        "item": dataset.items,
        "time": dataset.times,
        "weight": dataset.weights,
        "role": dataset.roles,
    }
    if dataset.ratings is not None:
        events["rating"] = dataset.ratings
    if dataset.kinds is not None:
        events["event"] = pa.array(dataset.kinds, pa.string())
    pq.write_table(pa.table(events), folder / "events.parquet")
    pq.write_table(pa.table({"user_id": pa.array(dataset.user_ids, pa.string())}), folder / "users.parquet")
    queries = pa.Table.from_pandas(dataset.queries, preserve_index=False).replace_schema_metadata(None)
    pq.write_table(queries, folder / "queries.parquet")
    dataset.catalogue.save(folder)


def _report(
    dataset: Dataset,
    config: PrepareConfig,
    source: loaders.Source,
    dropped: dict[str, int],
    notices: Notices,
    hashes: dict[str, str],
) -> dict[str, Any]:
    by_role = np.bincount(dataset.roles, minlength=len(ROLE_NAMES))
    return {
        "source": config.source,
        "time": "unix_seconds" if source.has_clock else "ordinal",
        "counts": {
            "events": len(dataset.users),
            "users": dataset.n_users,
            "items": dataset.n_items,
            "queries": len(dataset.queries),
            "users_without_test_event": dataset.n_users - len(np.unique(dataset.users[dataset.events(TEST)])),
        },
        "roles": {name: int(n) for name, n in zip(ROLE_NAMES, by_role, strict=True)},
        "held_out": {ROLE_NAMES[role]: held_out_facts(dataset, role) for role in (VALIDATION, TEST)},
        "time_range": [int(dataset.times.min()), int(dataset.times.max())],
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


def held_out_facts(dataset: Dataset, role: int) -> dict[str, Any]:
    """What the reader of a result must know about the targets of one role."""
    events = dataset.events(role)
    pair = dataset.users * dataset.n_items + dataset.items
    first_time = pd.Series(dataset.times).groupby(pair).transform("min").to_numpy()
    same_second = (
        pd.Series(dataset.times).groupby([dataset.users, dataset.times]).transform("size").to_numpy()
    )
    tied = int((same_second[events] > 1).sum())
    return {
        "events": len(events),
        "users": len(np.unique(dataset.users[events])),
        "already_in_history": int((first_time[events] < dataset.times[events]).sum()),
        "without_history": int((dataset.history_end[events] == dataset.offsets[dataset.users[events]]).sum()),
        "tied_in_time": tied,
        "tied_share": round(tied / len(events), 4) if len(events) else None,
    }

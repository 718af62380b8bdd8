"""Stage `prepare`: files in, a `Dataset` out. Everything later reads `Dataset.load(run)` and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from recsys.artifacts.paths import RunError
from recsys.artifacts.rewrite import write_text_atomically
from recsys.data import filters, loaders
from recsys.data.build import built_of, rows_of
from recsys.data.card import card, check_roles, facts
from recsys.data.config import PrepareConfig
from recsys.data.dataset import Dataset
from recsys.data.interactions import Interactions
from recsys.data.user_splits import split_users
from recsys.door.notices import Notices
from recsys.door.sources import source_hash
from recsys.door.tables import DataError
from recsys.elsewhere import Elsewhere, Workers, elsewhere
from recsys.run import Run
from recsys.terminal import escaped


def prepare(config: PrepareConfig, run: Run, workers: Workers | None = None) -> None:
    """Read, check, filter and split the data; write a `Dataset`, and prepare.json about it.

    Ids of interactions in Parquet files are made integers by `workers`, where there are any; the bytes are the same. Does nothing when the configuration and the files have not changed. Raises `DataError` for bad input, and
    `RunError` where a person was deleted from the run, whom the files may still hold.
    """
    hashes = _hash_files(config)
    stage = run.stage("prepare", config, outside=hashes)
    if stage.is_done():
        print(escaped(f"prepare: up to date ({run.path / 'prepare'})"))
        return
    if run.deletions():
        raise RunError(
            f"{len(run.deletions())} deletion(s) of persons are recorded in {run.path}/manifest.json; preparing again "
            "would bring back whoever is still in the source files. Take them out of the files, and prepare a new run "
            "directory"
        )
    notices = Notices()
    with elsewhere(workers, run.inside(".prepare-elsewhere")) as others:
        source = _load(config, notices, others)
    interactions = _filter(source, config, notices)
    source = replace(source, interactions=interactions)  # what was filtered out is let go of
    rows, interactions = rows_of(interactions, source, config), interactions.without_rows()
    source = replace(source, interactions=interactions)
    dataset = built_of(rows, source, config, notices)
    held_out = split_users(dataset, config.user_split) if config.user_split.is_on else None
    check_roles(dataset, config, notices)
    report = _report(dataset, config, source, interactions, notices, hashes)
    if held_out:
        report["user_split"] = config.user_split.model_dump(mode="json") | held_out
    with stage.writing() as folder:  # what is refused has left nothing behind
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
    """The sha256 of each source: of the file, or of its parts' names and hashes."""
    hashes = {}
    for name, path in config.files().items():
        if not path.exists():
            raise DataError(f"{path} does not exist; give the path of the {name} in the config")
        if path.is_dir() and config.source != "files":
            raise DataError(f"{path} is a directory; give the path of the {name} file")
        try:
            hashes[name] = source_hash(path)
        except OSError as error:
            raise DataError(
                f"{error.filename or path} cannot be read ({error.strerror}); are you allowed to read it?"
            ) from None
    return hashes


def _load(config: PrepareConfig, notices: Notices, others: Elsewhere | None) -> loaders.Source:
    if config.source == "files":
        return loaders.load_files(
            config.files(),
            config.columns,
            config.text_columns,
            notices,
            config.time,
            config.missing_ids == "drop",
            others,
        )
    load = {
        "ml-latest-small": loaders.load_movielens,
        "amazon": loaders.load_amazon,
        "lastfm": loaders.load_lastfm,
    }[config.source]
    return load(config.files(), config.text_columns, notices)


def _filter(source: loaders.Source, config: PrepareConfig, notices: Notices) -> Interactions:
    """What is left after every filter (two users and two items at least)."""
    steps = {
        "keep_events": lambda rows: filters.keep_kinds(rows, config.keep_events),
        "corrected_rows": lambda rows: filters.last_of_ties(rows, notices),
        "min_rating": lambda rows: filters.keep_rated(rows, config.min_rating),
        "events": lambda rows: filters.give_meaning(rows, config.events, notices),
        "repeats": lambda rows: filters.keep_repeats(rows, config.repeats),
        "unknown_items": lambda rows: filters.meet_catalogue(
            rows, source.catalogue, config.unknown_items, notices, config.min_known_items
        ),
        "k_core": lambda rows: filters.k_core(rows, config.k_core_users, config.k_core_items),
    }
    interactions = source.interactions
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
        if (
            name == "events"
            and "meaning" in interactions.frame
            and not (interactions.frame["meaning"] == "for").any()
        ):
            raise DataError(
                f"{path}: prepare.events calls no kind of event for an item, so nothing could be learned; give one a weight"
            )
        users, items = (interactions.frame[column].nunique() for column in ("user_id", "item_id"))
        if min(users, items) < 2:
            raise DataError(
                f"{path}: {name} leaves {users} user(s) and {items} item(s) of {before['user_id'].nunique()} "
                f"and {before['item_id'].nunique()}; two of each are needed: relax that setting"
            )
    return interactions


def _report(
    dataset: Dataset,
    config: PrepareConfig,
    source: loaders.Source,
    interactions: Interactions,
    notices: Notices,
    hashes: dict[str, str],
) -> dict[str, Any]:
    return {
        "source": config.source,
        "time": "unix_seconds" if source.has_clock else "ordinal",
        **facts(dataset),
        "time_range": [int(dataset.times.min()), int(dataset.times.max())],
        "exclude_seen": config.exclude_seen,
        **({} if dataset.against is None else {"exclude_against": config.exclude_against}),
        "held_out_queries": config.held_out_queries,
        "split": config.split.model_dump(mode="json"),
        "rows_read": interactions.rows_read,
        "rows_kept": interactions.rows_kept,
        "dropped_rows": interactions.dropped,
        "card": card(dataset, interactions, notices),
        "warnings": [notice.__dict__ for notice in notices.entries],
        "files": {name: {"path": str(path), "sha256": hashes[name]} for name, path in config.files().items()},
    }

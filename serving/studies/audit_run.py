"""The audit of a finished run: the lists of all its rows for its test users, looked at beyond accuracy (`evaluation.audit`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.audit import groups
from evaluation.audit.audit import Population, audit_lists
from evaluation.audit.pictures import by_group, exposure_of_items, figures_of_rows
from evaluation.audit.tables import as_csv, print_audit
from evaluation.metrics import pad_lists
from evaluation.report.style import saved
from evaluation.softmax import SoftmaxOver
from llm.decoding.recommender import SidRecommender
from recsys.artifacts.rewrite import write_text_atomically
from recsys.data.dataset import Dataset
from recsys.data.splits import FIT, PERSONALIZE, TEST, WARM
from recsys.door.sources import read_table
from recsys.door.tables import find_columns
from recsys.door.values import ids
from recsys.embeddings.embed import load_item_vectors
from recsys.progress import Progress
from recsys.recommender import Recommender, Request
from recsys.seeds import rng, sample
from serving.answering.methods import Methods

FOLDER = "audit"  # in RUN/analyses
# any items; as many of a person's own; and what people went on to have, a list of one
RANDOM, OWN, NEXT = "Random", "own history", "had next"
MOST_KINDS = 200  # distinct values of a column that may be the kinds of calibration; more are no kinds


def audit_run(
    methods: Methods,
    rows: Sequence[str] | None = None,
    n: int = 10,
    temperature: float = 1.0,
    instances: int = 5000,
    users_file: Path | None = None,
    users_by: str | None = None,
    items_by: str | None = None,
    kinds: str | None = None,
) -> dict[str, Any]:
    """Write `RUN/analyses/audit/` (audit.json, audit.csv, pictures), print the table, and return the figures.

    Lists are made for one test instance of each user, the first, at most `instances` of them (a seeded sample): as ranked, and of rows
    that draw also at `temperature`. `rows` are keys of methods; None: all. `users_by` is a column of `users_file`, `items_by` and
    `kinds` (of calibration; None: the first with at most `MOST_KINDS` values) are columns of the catalogue. Raises `ValueError`
    naming what is not there.
    """
    data = methods.dataset
    keys = _keys(methods, rows)
    requests, targets, users = _asked(data, instances)
    people = population(
        methods,
        requests,
        targets,
        users,
        kinds_column(data, kinds),
        items_by,
        (users_file, users_by) if users_by else None,
    )
    lists = _lists(methods, keys, requests, n, temperature)
    lists[RANDOM] = random_lists(requests, data.n_items, n)
    lists[OWN] = own_lists(requests, n)
    lists[NEXT] = targets[:, None]
    found: dict[str, Any] = {
        "n": n,
        "temperature": temperature,
        "people": len(users),
        "kinds": kinds_column(data, kinds),
        "ranked": [methods.name(key) for key in keys],
        "rows": [audit_lists(name, some, people) for name, some in lists.items()],
    }
    for measure in ("hit", "miscalibration"):  # of one item, that itself: nothing to hold others against
        found["rows"][-1]["figures"].pop(measure, None)
    folder = methods.run.path / "analyses" / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(folder / "audit.json", json.dumps(found, indent=1))
    write_text_atomically(folder / "audit.csv", as_csv(found["rows"]))
    draw(found["rows"], folder)
    print_audit(found)
    return found


def draw(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """The pictures, each as SVG and PNG: all figures, lift by taste, miscalibration by activity, exposure of each group of items."""
    shown = [row for row in rows if row["name"] not in (NEXT, OWN)]
    pictures = {
        "audit": figures_of_rows(rows),
        "lift": by_group(shown, "taste", "lift"),
        "miscalibration": by_group(shown, "activity", "miscalibration"),
    }
    pictures |= {
        f"exposure-{number}": exposure_of_items(shown, grouping)
        for number, grouping in enumerate(rows[0]["items"])
    }
    for stem, figure in pictures.items():
        if figure is not None:
            saved(figure, folder, stem)


# -- who is asked ----------------------------------------------------------------------------------------------------


def _keys(methods: Methods, rows: Sequence[str] | None) -> list[str]:
    """Keys of the methods that are audited; those that answer queries alone are not."""
    asked = (
        {"text_search", *methods.products.for_queries()} if methods.products is not None else {"text_search"}
    )
    there = [key for key in methods.available() if key not in asked]
    for key in rows or ():
        if key not in there:
            raise ValueError(f"this run has no row {key!r}; it has {', '.join(there)}")
    return list(rows or there)


def _asked(data: Dataset, at_most: int) -> tuple[list[Request], np.ndarray, np.ndarray]:
    """The first test instance of each user: requests, targets [R], users [R]."""
    events = data.instances(TEST)
    users, first = np.unique(data.users[events], return_index=True)
    if not len(users):
        raise ValueError("this run has no test instance: nobody's lists can be looked at")
    events = events[sample(first, at_most, 0, "audit", "instances")]
    return data.block(events, data.exclude_seen), data.items[events], data.users[events]


def kinds_column(data: Dataset, name: str | None) -> str | None:
    """The column whose values are the kinds of calibration; None: the catalogue has none. Raises `ValueError` for an unknown one."""
    columns = data.catalogue.columns
    if name is not None:
        if name not in columns:
            raise ValueError(f"the catalogue has no column {name!r}; it has {', '.join(columns) or 'none'}")
        return name
    for column, cells in columns.items():
        if 1 < len({value for some in cells for value in some}) <= MOST_KINDS:
            return column
    return None


def population(
    methods: Methods,
    requests: Sequence[Request],
    targets: np.ndarray,
    users: np.ndarray,
    kinds: str | None,
    items_by: str | None = None,
    users_by: tuple[Path | None, str] | None = None,
) -> Population:
    """What the audit knows of these people and of the catalogue."""
    from scipy import sparse

    data = methods.dataset
    lengths = np.array([len(request.history) for request in requests])
    rows = np.repeat(np.arange(len(requests)), lengths)
    items = np.concatenate([*(request.history for request in requests), np.zeros(0, np.int64)]).astype(int)
    had = sparse.csr_array((np.ones(len(rows)), (rows, items)), shape=(len(requests), data.n_items))
    training = np.isin(data.roles, (FIT, PERSONALIZE))
    pairs = np.unique(np.stack([data.users[training], data.items[training]], 1), axis=0)
    counts = np.bincount(data.items[training], minlength=data.n_items)
    vectors = load_item_vectors(methods.run)
    first = Population(
        targets,
        had,
        counts,
        np.bincount(pairs[:, 1], minlength=data.n_items),
        len(np.unique(pairs[:, 0])),
        vectors["text" if "text" in vectors else "collaborative"],
        None if kinds is None else groups.shares_of_values(data.catalogue.columns[kinds])[1],
    )
    of_users = {
        "activity": groups.by_activity(lengths),
        "taste": groups.by_taste(first.profile_popularity),
    }
    if (data.user_groups[users] != WARM).any():
        of_users["user split"] = data.user_groups[users]
    if users_by is not None:
        of_users[users_by[1]] = _column_of_users(data, users, *users_by)
    of_items = {"popularity": groups.shares_of_labels(groups.by_popularity(counts))}
    for column in dict.fromkeys(one for one in (items_by, kinds) if one is not None):
        known = kinds_column(data, column)
        assert known is not None  # it is named
        of_items[column] = groups.shares_of_values(data.catalogue.columns[known], counts)
    return replace(first, user_groups=of_users, item_groups=of_items)


def _column_of_users(data: Dataset, users: np.ndarray, path: Path | None, column: str) -> np.ndarray:
    """What a users file says of each user in a column, as text; raises `ValueError` where file or column are not there."""
    if path is None:
        raise ValueError(
            f"--users-by {column} needs the file that has the column: --users FILE (user_id and {column})"
        )
    table = read_table(path)
    names = find_columns(table, "users", ("user_id",), (), {})
    if column not in table.columns:
        raise ValueError(f"{path} has no column {column!r}; it has {', '.join(table.columns)}")
    values = ["" if value is None else str(value).strip() for value in table.raw(column)]
    said = dict(zip(ids(table, names["user_id"], "user_id").to_list(), values, strict=True))
    return np.array([said.get(str(data.user_ids[user])) or groups.NOBODY for user in users], dtype=object)


# -- their lists -----------------------------------------------------------------------------------------------------


def asked_as_measured(methods: Methods, key: str) -> Recommender:
    """A method's recommender, where the run measures generators by their whole distribution that (`evaluate.whole_catalogue`)."""
    built = methods.build(key)
    if isinstance(built, SidRecommender) and methods.config.evaluate.whole_catalogue:
        return SoftmaxOver(methods.scorer(key), 1.0, built.name, methods.dataset.n_items)
    return built


def _lists(
    methods: Methods, keys: Sequence[str], requests: Sequence[Request], n: int, temperature: float
) -> dict[str, np.ndarray]:
    """Name -> lists [R, n]: of every method as ranked, of those that draw at `temperature` too. A block of requests at a time, so that
    methods that share what they read are asked about it together.
    """
    asked = [asked_as_measured(methods, key) for key in keys]
    found: dict[str, list[np.ndarray]] = {}
    size = methods.config.evaluate.batch_size
    for start in Progress(range(0, len(requests), size), unit="block", mininterval=1.0):
        block = list(requests[start : start + size])
        for one in asked:
            for at in (0.0, temperature) if one.draws and temperature > 0 else (0.0,):
                name = one.name if at == 0 else f"{one.name}, t = {at:g}"
                ranked = one.recommend(block, n, at, 0)
                found.setdefault(name, []).append(pad_lists([some.items for some in ranked], n))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def random_lists(requests: Sequence[Request], n_items: int, n: int, seed: int = 0) -> np.ndarray:
    """Items drawn alike from all that each request may get [R, n], without replacement."""
    lists = np.full((len(requests), n), -1, np.int64)
    for row, request in zip(lists, requests, strict=True):
        stream = rng(seed, "random lists", request.user or 0, request.time)
        drawn = stream.permutation(n_items)
        drawn = drawn[request.available(drawn)][:n]
        row[: len(drawn)] = drawn
    return lists


def own_lists(requests: Sequence[Request], n: int, seed: int = 0) -> np.ndarray:
    """Items that each person has had, drawn at random [R, n]: how calibrated a list of n can be expected to be."""
    lists = np.full((len(requests), n), -1, np.int64)
    for row, request in zip(lists, requests, strict=True):
        had = np.unique(request.history)
        drawn = rng(seed, "own lists", request.user or 0, request.time).permutation(had)[:n]
        row[: len(drawn)] = drawn
    return lists

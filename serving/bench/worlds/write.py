"""A made world as files, written in streams: interactions, items and queries in parts, and the truth beside them.

FOLDER/interactions/part-00000.parquet …   user_id, item_id, timestamp; in the order of time
FOLDER/items/part-00000.parquet …          item_id, title, genres, with --text description
FOLDER/queries/part-00000.parquet …        user_id, item_id, timestamp, query (where --queries is above 0)
FOLDER/truth/users/…, truth/items/…        first and second taste, share of the events; cluster and place
FOLDER/truth.json, README.md               the settings, from which `World.open` gives every probability
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.artifacts.rewrite import write_text_atomically
from recsys.progress import Progress
from recsys.seeds import derive, uniforms_at
from serving.bench.worlds.planted import START_UNIX_S, TRUTH, Settings, World
from serving.bench.worlds.words import item_rows, name

BLOCK = 131_072  # events in memory at once; changes no byte
PART = 131_072  # events, users or items of a file, which is one row group


def write_world(
    settings: Settings,
    folder: Path,
    text: bool = False,
    queries: int = 0,
    requests: int = 0,
    part: int = PART,
    block: int = BLOCK,
    quiet: bool = False,
) -> World:
    """Write a world into a folder that is new or empty. Memory: `World`'s, and some hundred bytes for each of `part` rows.

    The same settings give the same bytes, whatever `block` is. `queries` is how many events, in expectation, come with a query: the
    name of their item's cluster. `requests` are of users drawn alike, every other one with a cluster's name. Raises `ValueError` for a folder with anything in it; what is not finished is removed.
    """
    if part < 1 or block < 1:
        raise ValueError(f"part is {part} and block {block}; both are at least 1")
    if not 0 <= queries <= settings.events:
        raise ValueError(f"queries is {queries}; of {settings.events:,} events at most all have one")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there and not an empty folder; give a new one")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    world = World(settings)
    rows = settings.events + 2 * settings.items + settings.users + requests
    try:
        with Progress(total=rows, unit="row", unit_scale=True, desc=f"world {folder}", disable=quiet) as bar:
            _write_events(world, partial, queries, part, block, bar)
            _write_parts(partial / "items", settings.items, part, lambda a, b: _items(world, a, b, text), bar)
            _write_parts(partial / "requests", requests, part, lambda a, b: _requests(world, a, b), bar)
            _write_parts(
                partial / "truth/items", settings.items, part, lambda a, b: _clusters(world, a, b), bar
            )
            _write_parts(
                partial / "truth/users", settings.users, part, lambda a, b: _tastes(world, a, b), bar
            )
        (partial / "README.md").write_text(_readme(settings, queries), encoding="utf-8")
        write_text_atomically(partial / TRUTH, json.dumps(world.truth(), indent=1, ensure_ascii=False))
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return world


def named(letter: str, numbers: np.ndarray) -> pa.Array:
    """Ids as texts: u0, u1 …"""
    return pc.binary_join_element_wise(letter, pa.array(numbers).cast(pa.string()), "")


def _write_events(world: World, folder: Path, queries: int, part: int, block: int, bar: Progress) -> None:
    last, settings = world.nothing_yet(), world.settings
    asked = np.array(derive(settings.seed, "worlds", "query"), np.uint64)
    names = pa.array([name(cluster).lower() for cluster in range(settings.clusters)], pa.string())
    for number, start in enumerate(range(0, settings.events, part)):
        stop = min(start + part, settings.events)
        blocks = [
            world.events(low, min(low + block, stop), last) for low in range(start, stop, min(block, part))
        ]
        users, items, times = (
            np.concatenate([getattr(one, column) for one in blocks]) for column in ("users", "items", "times")
        )
        table = pa.table(
            {"user_id": named("u", users), "item_id": named("i", items), "timestamp": pa.array(times)}
        )
        _write(folder / "interactions", number, table)
        chosen = uniforms_at(asked, np.arange(start, stop)) * settings.events < queries
        if queries:
            words = names.take(pa.array(world.clusters_of(items[chosen])))
            _write(folder / "queries", number, table.filter(pa.array(chosen)).append_column("query", words))
        bar.update(stop - start)


def _write_parts(
    folder: Path, count: int, part: int, rows: Callable[[int, int], pa.Table], bar: Progress
) -> None:
    for number, start in enumerate(range(0, count, part)):
        stop = min(start + part, count)
        _write(folder, number, rows(start, stop))
        bar.update(stop - start)


def _write(folder: Path, number: int, table: pa.Table) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / f"part-{number:05}.parquet", row_group_size=max(table.num_rows, 1))


def _items(world: World, start: int, stop: int, text: bool) -> pa.Table:
    return pa.Table.from_pylist(list(item_rows(world, start, stop, text)))


def _requests(world: World, start: int, stop: int) -> pa.Table:
    numbers = np.arange(start, stop)
    key = np.array(derive(world.settings.seed, "worlds", "request"), np.uint64)
    users = (uniforms_at(key, numbers) * world.settings.users).astype(np.int64)
    queries = [
        None if number % 2 else name(cluster).lower()
        for number, cluster in zip(numbers.tolist(), world.tastes[users, 1].tolist(), strict=True)
    ]
    return pa.table(
        {
            "request_id": named("r", numbers),
            "user_id": named("u", users),
            "query": pa.array(queries, pa.string()),
        }
    )


def _clusters(world: World, start: int, stop: int) -> pa.Table:
    items = np.arange(start, stop)
    return pa.table(
        {
            "item_id": named("i", items),
            "cluster": world.clusters_of(items),
            "place": world.places_of(items),
        }
    )


def _tastes(world: World, start: int, stop: int) -> pa.Table:
    users = np.arange(start, stop)
    return pa.table(
        {
            "user_id": named("u", users),
            "first_taste": world.tastes[users, 0],
            "second_taste": world.tastes[users, 1],
            "share_of_events": world.activity[users],
        }
    )


def _readme(settings: Settings, queries: int) -> str:
    s = settings
    lines: Iterator[str] = iter(
        (
            "# A made world\n",
            f"{s.events:,} events of {s.users:,} users and {s.items:,} items in {s.clusters:,} clusters, over {s.days} days from "
            f"{START_UNIX_S} (Unix seconds); seed {s.seed}; queries: {queries:,} expected. Nothing here is of anybody.\n",
            "Made by `python -m serving.bench.worlds`; `truth.json` has every setting and the formula, `truth/` each user's tastes and "
            "each item's cluster and place. In Python:\n",
            "    from pathlib import Path\n    from serving.bench.worlds.planted import World\n"
            "    World.open(Path('this folder')).next_item(user=0, time=1710000000, last=5)   # p of every item\n",
            "To prepare it:\n\n    prelude prepare RUN --interactions interactions --items items\n",
        )
    )
    return "\n".join(lines)

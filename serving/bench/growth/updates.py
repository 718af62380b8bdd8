"""What one update costs after 10, 10⁴ and 10⁶ absorbed events: CPU time of the state, of a run that is loaded and of one that is opened anew."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median

from recsys.data.config import PrepareConfig
from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.run import Run
from serving.answering.live import LiveState, digest_of
from serving.bench.case import Result
from serving.state.events import FEEDBACK
from serving.state.place import file_of

PEOPLE = 10  # events a person, of those that fill a state


def updates(quick: bool) -> list[Result]:
    """An event of somebody new, an event of somebody known, and a state that is opened, asked for one person, and closed."""
    sizes, repeats = ((10, 10_000), 15) if quick else ((10, 10_000, 1_000_000), 60)
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run")
        prepare(PrepareConfig(source="ml-latest-small"), run)
        data = Dataset.load(run)
        took: dict[str, list[list[float]]] = {"new": [], "known": [], "opened": []}
        for size in sizes:
            live = LiveState(run, data)
            _fill(live, data, size)
            for kind, name in (("new", f"new {size} "), ("known", None)):
                took[kind].append(_cpu_ms(_updating(live, data, name), repeats))
            took["opened"].append(_cpu_ms(partial(_opened, run, data), repeats))
    titles = {
        "new": "update of one event, somebody new",
        "known": "update of one event, somebody known",
        "opened": "opening the state, and one person's history",
    }
    return [_result(titles[name], sizes, found) for name, found in took.items()]


def _result(name: str, sizes: tuple[int, ...], found: list[list[float]]) -> Result:
    """Our side: at the largest size; the peer's: at the smallest."""
    ours, peers = median(found[-1]), median(found[0])
    half = len(found[0]) // 2
    ratios = [median(found[-1][part]) / median(found[0][part]) for part in (slice(half), slice(half, None))]
    notes = {f"CPU_ms_at_{size:,}": median(some) for size, some in zip(sizes, found, strict=True)}
    what = f"after {sizes[-1]:,} events | after {sizes[0]:,}"
    spread = (min(ratios), max(ratios))
    return Result(name, what, ours / peers, spread, 1.5, True, ours, peers, "CPU ms", len(found[0]), "SQLAlchemy and two flushes", notes)  # fmt: skip


def _fill(live: LiveState, data: Dataset, size: int) -> None:
    """Events up to so many, of one person for every `PEOPLE`; by SQLite's own bulk insert, as only their number matters."""
    live.writes_into()
    items, there = data.catalogue.item_ids, live.seq
    with closing(sqlite3.connect(file_of(live.run.home))) as state:
        (known,) = state.execute("SELECT COALESCE(MAX(number), 0) FROM people").fetchone()
        new = range(known + 1, known + 1 + -(-(size - there) // PEOPLE))
        state.executemany(
            "INSERT INTO people (number, user_id) VALUES (?, ?)", ((n, f"filled {n}") for n in new)
        )
        state.executemany(
            "INSERT INTO events (event_id, person, item_id, type, time, received) VALUES (?, ?, ?, ?, ?, 0)",
            (
                (
                    f"fill {n}",
                    known + 1 + (n - there) // PEOPLE,
                    str(items[n % len(items)]),
                    FEEDBACK,
                    data.end + n,
                )
                for n in range(there, size)
            ),
        )
        state.commit()
    live.replay()


def _updating(live: LiveState, data: Dataset, name: str | None) -> Callable[[int], None]:
    """An update of the n-th person of the data, or of one of a new `name` and the number."""
    return lambda number: _update(
        live, data, str(data.user_ids[number]) if name is None else f"{name}{number}", number
    )


def _update(live: LiveState, data: Dataset, user_id: str, number: int) -> None:
    """What `Recommender.update` does for one event, in a run without rows of P_u."""
    given = [(user_id, str(data.catalogue.item_ids[number]), data.end + 10_000_000 + live.seq, None)]
    digest = digest_of(given)
    assert not live.find(digest, digest)
    live.replay()
    feedback = live.check(given)
    assert len(feedback) == 1
    live.commit(digest, digest, given, {})


def _opened(run: Run, data: Dataset, number: int) -> None:
    histories = LiveState(run, data).histories
    histories.moment(histories.user_index(str(data.user_ids[number])))


def _cpu_ms(call: Callable[[int], None], repeats: int) -> list[float]:
    """Milliseconds of this process' CPU time, of each call but the first."""
    found = []
    for number in range(repeats + 1):
        start = time.process_time()
        call(number)
        found.append(1e3 * (time.process_time() - start))
    return found[1:]

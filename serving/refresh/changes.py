"""What a day's items file changes of a run's catalogue: items that are new, gone, back again, or called otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.catalogue import Catalogue, read_items
from recsys.data.config import PrepareConfig
from recsys.door.notices import Notices
from recsys.door.sources import read_table
from recsys.door.tables import Table

# what becomes of items that the file does not name: they are gone, or it is of what is new or changed alone
Absent = Literal["retire", "keep"]


@dataclass(frozen=True)
class Changes:
    """A catalogue before and after, and what lies between: integers of `after`, ascending, each [·] int64."""

    before: Catalogue
    after: Catalogue
    new: np.ndarray
    retired: np.ndarray  # served before, and no more
    returned: np.ndarray  # retired before, and served again
    changed: np.ndarray  # whose title or text columns are others than before

    def counts(self) -> dict[str, int]:
        names = ("new", "retired", "returned", "changed")
        return {name: len(getattr(self, name)) for name in names}

    def __bool__(self) -> bool:
        return any(self.counts().values())


def no_changes(catalogue: Catalogue) -> Changes:
    none = np.zeros(0, np.int64)
    return Changes(catalogue, catalogue, none, none, none, none)


def read_changes(path: Path, catalogue: Catalogue, prepare: PrepareConfig, absent: Absent) -> Changes:
    """Hold an items file, read as the run's own was, against a catalogue.

    Items keep their integers, new ones get the next, in the file's order. A column that the run has and the file lacks says nothing,
    one that the run lacks is not read. Raises `DataError` by place for what is no item.
    """
    table = read_table(path)
    wanted = [name for name in catalogue.columns if _theirs(table, name, prepare.columns) is not None]
    columns = {
        ours: theirs for ours, theirs in prepare.columns.items() if theirs in table.columns
    }  # the run's names, where the file has them; else our own
    today = read_items(
        path,
        columns,
        wanted,
        title_required=False,
        table=table,
        notices=Notices(),
        drop_missing_ids=prepare.missing_ids == "drop",
    )
    titled = any(
        name in table.columns for name in ("title", columns.get("title"), columns.get("items.title"))
    )
    return between(catalogue, today, titled, absent)


def _theirs(table: Table, name: str, columns: dict[str, str]) -> str | None:
    """The file's name of a text column of the run; None where it has none."""
    theirs = columns.get(f"items.{name}", columns.get(name, name))
    return next((one for one in (theirs, name) if one in table.columns), None)


def between(before: Catalogue, today: Catalogue, titled: bool, absent: Absent) -> Changes:
    """`today` laid over `before`; `titled`: the file has titles."""
    place = pc.index_in(_texts(today.item_ids), value_set=_texts(before.item_ids))
    known = pc.is_valid(place).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(known)  # of today's, that were known
    items = place.drop_null().to_numpy().astype(np.int64)  # their integers
    fresh = np.flatnonzero(~known)
    theirs_at, fresh_at = rows.tolist(), fresh.tolist()
    n = len(before)
    different = np.zeros(len(rows), bool)
    titles = list(before.titles)
    if titled:
        different |= _differ([titles[item] for item in items], [today.titles[row] for row in theirs_at])
    columns: dict[str, list[Any]] = {}
    for name, values in before.columns.items():
        columns[name] = list(values)
        if name in today.columns:
            theirs = [today.columns[name][row] for row in theirs_at]
            different |= _differ(
                ["\x1f".join(columns[name][item]) for item in items], ["\x1f".join(one) for one in theirs]
            )
    changed = items[different]
    for item, row in zip(changed.tolist(), rows[different].tolist(), strict=True):
        if titled:
            titles[item] = today.titles[row]
        for name in columns:
            if name in today.columns:
                columns[name][item] = today.columns[name][row]
    titles += [today.titles[row] for row in fresh_at]
    for name, values in columns.items():
        values += [today.columns[name][row] if name in today.columns else [] for row in fresh_at]
    gone = np.zeros(n + len(fresh), bool)
    gone[before.retired] = True
    was = gone.copy()
    gone[items] = False
    if absent == "retire":
        named = np.zeros(len(gone), bool)
        named[items] = True
        named[n:] = True
        gone |= ~named
    after = replace(
        before,
        item_ids=np.concatenate([before.item_ids, today.item_ids[fresh]]),
        titles=titles,
        columns=columns,
        retired=np.flatnonzero(gone),
        n_trained=n if before.n_trained is None else before.n_trained,
    )
    return Changes(
        before,
        after,
        new=np.arange(n, n + len(fresh)),
        retired=np.flatnonzero(gone & ~was),
        returned=np.flatnonzero(was & ~gone),
        changed=np.sort(changed),
    )


def _texts(values: Iterable[str]) -> pa.Array:
    return pa.array(list(values), pa.string())


def _differ(one: Sequence[str], other: Sequence[str]) -> np.ndarray:
    """Bool [n]: where two lists of texts are not the same."""
    if not len(one):
        return np.zeros(0, bool)
    return pc.not_equal(_texts(one), _texts(other)).to_numpy(zero_copy_only=False)

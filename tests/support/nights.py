"""A night of the small world: today's items, vectors of another basis, and yesterday's events; and runs to refresh by them."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.embeddings.embed import load_item_vectors
from recsys.run import Run

NEW, RETIRED = ("n0", "n1", "n2"), ("i10", "i11")
LIKE = ("i0", "i1", "i4", "i7")  # whose vectors the new items have, a little moved


def copy_of(run: Run, to: Path) -> Run:
    """Hard links, as a refresh makes them: what wrote into a file would spoil the run that all share."""
    shutil.copytree(run.path, to, copy_function=os.link)
    return Run.open(to)


def items_today(run: Run, path: Path, new: tuple[str, ...] = NEW, retired: tuple[str, ...] = RETIRED) -> Path:
    """The run's catalogue as of today: `new` behind it, without the `retired`."""
    before = pq.read_table(run.path / "prepare" / "items.parquet").to_pandas()
    rows = before[~before["item_id"].isin(retired)][["item_id", "title", "kind"]]
    rows["kind"] = [next(iter(one)) for one in rows["kind"]]
    fresh = pd.DataFrame(
        {
            "item_id": new,
            "title": [f"New {name}" for name in new],
            "kind": ["Even", "Odd", "Even", "Odd"][: len(new)],
        }
    )
    pd.concat([rows, fresh]).to_csv(path, index=False)
    return path


def vectors_today(run: Run, path: Path, seed: int = 0, new: tuple[str, ...] = NEW) -> Path:
    """The run's item vectors in a turned basis, and those of the new items: near those of `LIKE`."""
    names = pq.read_table(run.path / "prepare" / "items.parquet")["item_id"].to_pylist()
    vectors = np.array(load_item_vectors(run)["collaborative"])
    generator = np.random.default_rng(seed)
    turned = np.linalg.qr(generator.normal(size=(vectors.shape[1],) * 2))[0]
    near = vectors[[names.index(name) for name in LIKE[: len(new)]]]
    whole = np.concatenate([vectors, near + 0.01 * generator.normal(size=near.shape)]) @ turned
    table = {
        "item_id": [*names, *new],
        "vector": pa.array(whole.astype(np.float32).tolist(), pa.list_(pa.float32())),
    }
    pq.write_table(pa.table(table), path)
    return path


def events_yesterday(
    path: Path, start: int = 1_100_000, people: int = 30, each: int = 3, more: tuple[str, ...] = ()
) -> Path:
    """`each` events of `people` persons: they go on as their taste has it; `more` items for the first of them."""
    rows = [
        (f"u{user}", f"i{2 * ((7 * user + step) % 30) + user % 2}", start + 10 * step + user)
        for user in range(people)
        for step in range(each)
    ]
    rows += [("u0", item, start + 1000 + place) for place, item in enumerate(more)]
    pd.DataFrame(rows, columns=["uid", "iid", "ts"]).to_csv(path, index=False)
    return path


@dataclass(frozen=True)
class Night:
    run: Run
    folder: Path

    @property
    def files(self) -> dict[str, Path]:
        return {
            "items": self.folder / "items.csv",
            "item_embeddings": self.folder / "vectors.parquet",
            "events": self.folder / "events.csv",
        }


def night_of(run: Run, folder: Path) -> Night:
    copied = copy_of(run, folder / "run")
    items_today(copied, folder / "items.csv")
    vectors_today(copied, folder / "vectors.parquet")
    events_yesterday(folder / "events.csv")
    return Night(copied, folder)

"""The split that all peers get, written as Parquet from a prepared run: events, requests, and targets kept apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data.dataset import Dataset
from recsys.data.splits import FIT, PERSONALIZE, TEST, VALIDATION
from recsys.data.text_vectors import encode_texts
from recsys.recommender import Request
from recsys.run import Run
from recsys.seeds import sample
from serving.bench.peers.contract import whole

TARGETS = "test_targets.parquet"  # beside the folder that peers read, not in it


def write_split(run: Run, folder: Path, validation: int, seed: int) -> str:
    """Write `folder/split` (what peers read) and `folder/test_targets.parquet`; its name, a hash of all that it holds.

    Peers learn from the events before validation (roles FIT and PERSONALIZE). Validation is a seeded sample of at
    most `validation` instances (0: all), test all of them. A history is what the user had strictly before the
    target's moment. Raises `ValueError` for data whose test would not mean the same to everybody: where what a
    user has had may come again, or has been turned down.
    """
    data = Dataset.load(run)
    if not data.exclude_seen:
        raise ValueError(
            f"{run.path} may recommend what a user has had (prepare.exclude_seen: false); peers may not"
        )
    if data.against is not None:
        raise ValueError(
            f"{run.path} has events that are against items, which peers cannot read; leave them out"
        )
    learned = np.isin(data.roles, (FIT, PERSONALIZE))
    held_out, test = data.instances(VALIDATION), data.instances(TEST)
    if not len(held_out) or not len(test):
        raise ValueError(f"{run.path} has no validation or no test instance; prepare it with another split")
    held_out = sample(held_out, validation, seed, "peers", "validation")
    tables = {
        "train.parquet": pa.table({"user": data.users[learned], "item": data.items[learned]}),
        "validation.parquet": _asked(data.requests(held_out, True)).append_column(
            "target", pa.array(data.items[held_out])
        ),
        "test.parquet": _asked(data.requests(test, True)),
    }
    targets = pa.table({"user": data.users[test], "target": data.items[test]})
    split = folder / "split"
    split.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        whole(split / name, lambda path, table=table: pq.write_table(table, path))  # type: ignore[misc]
    whole(folder / TARGETS, lambda path: pq.write_table(targets, path))
    facts = {
        "users": data.n_users,
        "items": data.n_items,
        "training_events": int(learned.sum()),
        "validation_requests": len(held_out),
        "test_requests": len(test),
    }
    files = [*(split / name for name in sorted(tables)), folder / TARGETS]
    name = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()[
        :16
    ]
    whole(split / "split.json", lambda path: path.write_text(json.dumps(facts | {"name": name}, indent=1)))
    return name


def write_vectors(run: Run, folder: Path) -> None:
    """Text vectors of all items [N, d], by the encoder that Prelude has, for peers that read content."""
    path = folder / "split" / "item_vectors.npy"
    if not path.exists():
        vectors = encode_texts(Dataset.load(run).catalogue.texts(), "minilm")
        temporary = path.with_name(".item_vectors.tmp.npy")
        np.save(temporary, vectors.astype(np.float32))
        temporary.replace(path)


def _asked(requests: Sequence[Request]) -> pa.Table:
    histories = pa.array([request.history for request in requests], pa.list_(pa.int64()))
    return pa.table(
        {"user": pa.array([request.user for request in requests], pa.int64()), "history": histories}
    )

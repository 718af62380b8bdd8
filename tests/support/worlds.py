"""The world of two tastes, and a whole small run over it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from rich.console import Console

from recsys.artifacts.manifest import sha256_of
from recsys.run import Run
from serving.config.run import RunConfig
from serving.pipeline import run_all
from tests.support.made_once import made_once


def two_tastes(folder, n_users: int = 40, n_items: int = 60, length: int = 24, seed: int = 0):
    """Interactions of users who like one half of the catalogue each, walking through it in a noisy circle; items with
    a kind; some queries. Returns the paths of the three files.
    """
    generator = np.random.default_rng(seed)
    events, queries = [], []
    for user in range(n_users):
        kind, place = user % 2, int(generator.integers(0, n_items // 2))
        for step in range(length):
            place = (place + 1 + int(generator.random() < 0.2)) % (n_items // 2)
            events.append((f"u{user}", f"i{2 * place + kind}", 1_000_000 + 1000 * step + user))
        queries.append((f"u{user}", "even" if kind == 0 else "odd", 1_000_000, f"i{2 * place + kind}"))
    paths = [folder / name for name in ("events.csv", "items.csv", "queries.csv")]
    pd.DataFrame(events, columns=["uid", "iid", "ts"]).to_csv(paths[0], index=False)
    items = [(f"i{item}", f"Title {item}", ("Even", "Odd")[item % 2]) for item in range(n_items)]
    pd.DataFrame(items, columns=["item_id", "title", "kind"]).to_csv(paths[1], index=False)
    pd.DataFrame(queries, columns=["user_id", "query", "timestamp", "item_id"]).to_csv(paths[2], index=False)
    return paths


SMALL = {"scorer_hidden": 8, "projection_hidden": 8, "length": 2}


OWN = {"learning_rates": [1e-2], "epochs": [1], "pilot_users": 6, "batch": 4}


SMALL_P2P = {
    "encoder": "backbone",
    "hidden": 8,
    "position": 4,
    "profile_tokens": 64,
    "learning_rates": [1e-3],
}


SMALL_METHODS = [
    {"key": "no_context_continued", "learning_rates": [1e-4]},
    {"key": "static_prefix", "bottleneck": 8},
    {"key": "e2p", "bottleneck": 8},
    "prompt_context",
    "rag",
    "pag",
    "full_history",
    {"key": "e2p_prompt", "bottleneck": 8},
    "mt_lora",
    {"key": "oppu_lora", "rank": 2, "memory_mb": 24} | OWN | {"learning_rates": [1e-3, 1e-2]},
    {"key": "oppu_ia3", "base": "mt_lora"} | OWN,
    {"key": "oppu_prompt", "length": 2} | OWN,
    {"key": "oppu_lora_rag", "rank": 2} | OWN,
    {"key": "oppu_lora_pag", "rank": 2} | OWN,
    {"key": "per_pcs", "rank": 2, "sharers": 4, "k": 2, "gate_epochs": 1, "assembly_events": 3} | OWN,
    {"key": "tap_per"} | SMALL,
    {"key": "tap_per_p_q"} | SMALL,
    {"key": "bridge_only"} | SMALL,
    {
        "key": "e2p_p_q",
        "parts": [
            {"key": "e2p", "bottleneck": 8},
            {"method": "tap_per", "user_state": False, "bridge": False} | SMALL,
        ],
    },
    {"key": "p2p"} | SMALL_P2P,
    {"key": "p2p_summary"} | SMALL_P2P,
]


def small_config(folder) -> RunConfig:
    """Every stage, at the size of a test: no text encoder, two random layers, a few dozen steps."""
    events, items, queries = two_tastes(folder)
    return RunConfig.model_validate(
        {
            "prepare": {
                "source": "files",
                "interactions": str(events),
                "items": str(items),
                "queries": str(queries),
                "columns": {
                    "interactions.user_id": "uid",
                    "interactions.item_id": "iid",
                    "interactions.timestamp": "ts",
                },
                "exclude_seen": False,
                "split": {"test_fraction": 0.1, "validation_fraction": 0.1},
            },
            "embed": {
                "lightgcn": {"dim": 16, "epochs": 12, "batch": 256, "negatives": 32},
                "text_encoder": None,
                "sasrec": {
                    "dim": 16,
                    "steps": 60,
                    "batch": 16,
                    "dropout": 0.1,
                    "warmup": 5,
                    "validate_every": 30,
                },
            },
            "tokenize": {"quantizer": "rqvae", "size": 8, "rqvae": {"steps": 60}},
            "adapt": {
                "backbone": {"name": "tiny-random", "device": "cpu"},
                "prompts": {"recent_items": 2},
                "steps": 60,
                "batch": 8,
                "window_items": 6,
                "validate_every": 30,
                "warmup": 5,
            },
            "personalize": {
                "steps": 30,
                "pilot_steps": 5,
                "learning_rates": [1e-3, 1e-2],
                "validate_every": 15,
                "methods": SMALL_METHODS,
            },
            # what answers by default is E2P, whatever this small validation would choose
            "evaluate": {
                "bootstrap_samples": 200,
                "random_permutations": 5,
                "default_instances": 0,
                "query_instances": 0,
            },
            "example": {"query": "even"},
        }
    )


@contextmanager
def the_small_run(factory: pytest.TempPathFactory) -> Iterator[tuple[RunConfig, Run]]:
    """A finished run of every stage on the world of two tastes."""
    with shared_run(factory, "small_run", lambda folder: run_of(small_config(folder), folder)) as found:
        yield found


def alone_with_data_files(config: RunConfig) -> FileLock:
    """For a test that reads the data files of the shared run, or moves them away: no other process does meanwhile."""
    return FileLock(Path(config.prepare.interactions).with_suffix(".lock"))


def run_of(config: RunConfig, folder: Path, until: str | None = None) -> None:
    """Make `folder`/run, and keep its configuration beside it."""
    (folder / "config.json").write_text(config.model_dump_json())
    with open(folder / "printed.txt", "w") as printed:
        run_all(config, Run.create(folder / "run"), until, Console(file=printed, width=200))


@contextmanager
def shared_run(
    factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]
) -> Iterator[tuple[RunConfig, Run]]:
    """The run that `make(folder)` makes by `run_of`: made once for all processes of a test session, each with a copy.

    A copy, as a run is one process's at a time. No test may change it: one that changes a run takes a copy of its own.
    """
    folder = made_once(factory, name, make)
    run = Run.open(shutil.copytree(folder / "run", factory.mktemp(name) / "run"))
    before = hashes_of(run.path)
    yield RunConfig.model_validate_json((folder / "config.json").read_text()), run
    after = hashes_of(run.path)
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    assert not changed, f"a test has changed the {name} that all share: {changed}"


def hashes_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder`, by its path there."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}

"""What several tests share: the tiny random backbone with a small trie, and requests for it."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pandas as pd
import pytest
import torch

from llm.backbone.load import BackboneConfig, load_backbone
from llm.backbone.sid_model import SidModel
from llm.backbone.vocabulary import SidRows
from recsys.recommender import Request
from recsys.run import Run
from semantic_ids.trie import Trie
from serving.config.run import RunConfig
from serving.pipeline import run_all

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
SIZES = (4, 5, 4)


def unique_codes(n: int, sizes=SIZES, seed: int = 0) -> np.ndarray:
    """[n, L] distinct code rows, some subtrees with one leaf and some with many."""
    chosen = np.random.default_rng(seed).choice(np.prod(sizes), n, replace=False)
    return np.stack(np.unravel_index(chosen, sizes), axis=1)


@pytest.fixture(scope="session")
def tiny() -> SidModel:
    """Two random layers, 30 items, rows large enough that the distribution is far from uniform."""
    backbone = load_backbone(BackboneConfig(name="tiny-random", device="cpu"))
    rows = SidRows(SIZES, backbone.hidden_size)
    rows.start_from([None] * 3, norm=1.0, seed=3)
    return SidModel(backbone, rows, Trie(unique_codes(30), SIZES)).eval().requires_grad_(False)


def make_requests(n: int, n_items: int = 30, seed: int = 1, exclude: int = 6) -> list[Request]:
    generator = np.random.default_rng(seed)
    return [
        Request(
            request_id=f"r{index}",
            user=index,
            time=100 + index,
            history=generator.integers(0, n_items, index % 5),
            history_times=np.arange(index % 5),
            exclude=generator.choice(n_items, exclude, replace=False),
        )
        for index in range(n)
    ]


# -- a whole small run ------------------------------------------------------------------------------------------


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
            "evaluate": {"bootstrap_samples": 200, "random_permutations": 5},
            "example": {"query": "even"},
        }
    )


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> tuple[RunConfig, Run]:
    """A finished run of every stage on the world of two tastes."""
    folder = tmp_path_factory.mktemp("world")
    config, run = small_config(folder), Run.create(folder / "run")
    run_all(config, run)
    return config, run


@pytest.fixture(scope="session")
def cluster():
    """A Ray cluster of two nodes on this machine, to which this process is connected."""
    ray = pytest.importorskip("ray")
    from serving.engines.choose import engine

    engine("ray")  # sets Ray's environment: no usage statistics, no noise
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 2, "object_store_memory": 100 << 20}
    nodes = Cluster(initialize_head=True, head_node_args=small | {"include_dashboard": False})
    nodes.add_node(**small)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    yield nodes
    ray.shutdown()
    nodes.shutdown()

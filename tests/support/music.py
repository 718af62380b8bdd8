"""The world of rated items and the run of the music task over it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from recsys.run import Run
from serving.config.run import RunConfig

KINDS = ("even", "odd")


def rated_world(folder, n_users: int = 240, n_items: int = 48, length: int = 30, seed: int = 0):
    """Items have a kind, which queries speak of, and a style, which nobody names. A user mostly watches one style, of both kinds, and
    likes it: 5 stars for their own style, 2 for the other, with some noise.
    """
    generator = np.random.default_rng(seed)
    style = np.arange(n_items) // 2 % 2
    events = []
    for user in range(n_users):
        own = style == user % 2
        weights = np.where(own, 4.0, 1.0)
        items = generator.choice(n_items, length, replace=False, p=weights / weights.sum())
        for step, item in enumerate(items):
            likes = own[item] != (generator.random() < 0.05)
            events.append((f"u{user}", f"i{item}", 1_000_000 + 1000 * step + user, 5 if likes else 2))
    pd.DataFrame(events, columns=["user_id", "item_id", "timestamp", "rating"]).to_csv(
        folder / "events.csv", index=False
    )
    items = [(f"i{item}", f"Title {item}", KINDS[item % 2]) for item in range(n_items)]
    pd.DataFrame(items, columns=["item_id", "title", "kind"]).to_csv(folder / "items.csv", index=False)


def music_config(folder) -> RunConfig:
    rated_world(folder)
    return RunConfig.model_validate(
        {
            "prepare": {
                "source": "files",
                "interactions": str(folder / "events.csv"),
                "items": str(folder / "items.csv"),
                "exclude_seen": False,
                "split": {"test_fraction": 0.2, "validation_fraction": 0.15, "personalize_fraction": 0.5},
            },
            "embed": {
                "lightgcn": {"dim": 16, "epochs": 40, "batch": 256, "negatives": 32},
                "text_encoder": None,
            },
            "tokenize": {"quantizer": "residual_kmeans", "size": 8},
            "adapt": {
                "backbone": {"name": "tiny-random", "device": "cpu"},
                "prompts": {"recent_items": 2},
                "steps": 240,
                "batch": 8,
                "window_items": 6,
                "words_batch": 32,
                "learning_rate": 3e-3,
                "rows_learning_rate": 1e-2,
                "validate_every": 120,
                "warmup": 5,
            },
            "personalize": {
                "steps": 10,
                "learning_rates": [1e-2],
                "methods": [{"key": "e2p", "bottleneck": 8}],
            },
            "evaluate": {
                "bootstrap_samples": 200,
                "max_instances": 40,
                "beam_columns": False,
                "default_instances": 20,
                "query_instances": 20,
            },
            "engagement": {"max_shown": 6},
            "align": {
                "steps": 120,
                "batch": 32,
                "learning_rates": [1e-2],
                "validate_every": 20,
                "watched_requests": 20,
            },
            "music": {
                "n": 5,
                "text_encoder": "backbone",
                "rerank_from": 15,
                "validation_instances": 400,
                "random_permutations": 5,
            },
        }
    )


def table_of(run: Run) -> dict:
    return run.read_json("music", "music.json")["table"]


def row_of(run: Run, name: str) -> dict:
    return next(row for row in table_of(run)["rows"] if row["name"] == name)

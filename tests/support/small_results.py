"""A small real evaluation: people of two tastes, and rows that know them, or do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evaluation.baselines import Popularity
from evaluation.softmax import SoftmaxOver
from evaluation.table.config import EvaluateConfig
from evaluation.table.instances import Question
from evaluation.table.job import evaluate_rows
from evaluation.table.results import Results
from evaluation.table.rows import Row
from recsys.recommender import Request


class Split:
    """Even users like low items, odd ones half as much high items, as far as `gain` tells; `shift` 1: as of the user beside."""

    name = "split"

    def __init__(self, gain: float, shift: int = 0):
        self.gain, self.shift = gain, shift

    def scores(self, requests):
        return np.stack(
            [self.gain * (np.arange(10) < 5) * (1 - 1.5 * ((r.user + self.shift) % 2)) for r in requests]
        )


class Everybody:
    """Low items, a little, whoever asks."""

    name = "everybody"

    def scores(self, requests):
        return np.tile(0.01 * (np.arange(10) < 5), (len(requests), 1))


class Noise:
    """What is different for everybody, and about nobody."""

    name = "noise"

    def __init__(self, seed: int):
        self.seed = seed

    def scores(self, requests):
        return np.stack([np.random.default_rng([self.seed, r.user]).normal(size=10) for r in requests])


def small_results(folder: Path, max_instances: int = 0, personal: bool = True) -> Results:
    """Sixty instances of thirty users. Not `personal`: E2P, its random twin and the static prefix are each noise of their own."""
    requests = [Request(f"r{at}", user=at // 2, time=at) for at in range(60)]
    users = np.array([request.user for request in requests])
    targets = np.where(users % 2 == 0, 1, 7)
    static, own, others = (
        (Everybody(), Split(1.0), Split(1.0, 1)) if personal else (Noise(1), Noise(2), Noise(3))
    )
    rows = [
        Row("Popularity", [Popularity(np.arange(10))], is_baseline=True),
        Row("No Context", [SoftmaxOver(Split(0.0))], matched=1.0),
        Row("Static Prefix", [SoftmaxOver(static)], matched=0.8),
        Row("E2P-Random", [SoftmaxOver(others)], matched=0.7),
        Row(
            "E2P",
            [SoftmaxOver(own)],
            temperature=0.5,
            matched=0.7,
            reads="history <before>",
            trained="9 numbers",
            costs={"per_user_parameters": 1234.0, "seconds_to_admit": 0.125, "latency_ms": 12.25},
        ),
    ]
    config = EvaluateConfig(n_candidates=3, top_k=2, max_instances=max_instances, bootstrap_samples=100)
    facts = {"data": "toy", "users_in_data": 33}
    kinds = ["ood" if user % 3 == 0 else "warm" for user in users]
    groups = {"users": kinds, "activity": [("0", "1-4", "5+")[at % 3] for at in range(60)]}
    question = Question(requests, targets, users)
    return evaluate_rows(config, rows, question, folder, facts, quiet=True, groups=groups)


def whole_page() -> dict:
    """What else a report may be given, for `write_report`: curves, codes, t-SNE, timings, notes, and five people."""
    rng = np.random.default_rng(0)
    return {
        "curves": {
            "adapt": {"losses": [(1, 3.0), (2, 2.0)], "validation": [(2, 0.05)]},
            "empty": {"losses": []},
        },
        "code_counts": [rng.poisson(3, 16), rng.poisson(3, 16)],
        "tsne": {
            "embeddings": rng.normal(size=(12, 5)),
            "prefixes": rng.normal(size=(12, 9)),
            "labels": ["comedy", "drama"] * 6,
        },
        "quality": {"collisions": 2, "perplexity": {"level 1": 14.25}, "codes": list(range(256))},
        "timings": {"adapt": 90.0, "embed": 30.5},
        "extra": {"Notes": "a <b>bold</b> claim"},
        "people": {
            "heading": "Five people",
            "how": "Real users.",
            "people": [
                {
                    "name": f"User {at}",
                    "about": "3 events before",
                    "target": "A film",
                    "columns": [
                        {"name": name, "items": [{"title": "A film", "is_target": True}]}
                        for name in ("had last", "E2P")
                    ],
                }
                for at in range(5)
            ],
        },
    }

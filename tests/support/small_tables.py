"""Small recommenders with known probabilities, and the evaluation job over them."""

from __future__ import annotations

import numpy as np

from evaluation.baselines import Popularity
from evaluation.softmax import SoftmaxOver
from evaluation.table.config import EvaluateConfig
from evaluation.table.instances import Question
from evaluation.table.job import evaluate_rows
from evaluation.table.rows import Row
from recsys.recommender import Request

N = 15


CONFIG = EvaluateConfig(n_candidates=3, top_k=2, batch_size=16, bootstrap_samples=200, seed=5)


class Taste:
    """Scores every item `bias` at random, and those of the user's taste (user mod 3) `gain` higher."""

    name = "taste"

    def __init__(self, gain, seed=0):
        self.gain = gain
        self.bias = np.random.default_rng(seed).normal(size=N)

    def scores(self, requests):
        mine = np.stack([np.arange(N) % 3 == request.user % 3 for request in requests])
        return self.bias + self.gain * mine


def world(users=30, per_user=(1, 4), seed=0):
    """Instances whose targets are of the user's taste two times in three."""
    rng = np.random.default_rng(seed)
    requests, targets = [], []
    for user in range(users):
        for at in range(rng.integers(*per_user)):
            loyal = rng.random() < 2 / 3
            target = int(rng.choice(np.flatnonzero((np.arange(N) % 3 == user % 3) == loyal)))
            exclude = rng.choice(np.setdiff1d(np.arange(N), target), 2, replace=False)
            requests.append(
                Request(f"{user}-{at}", user, 100 + at, np.array([1]), np.array([9]), None, exclude)
            )
            targets.append(target)
    return requests, np.array(targets), np.array([request.user for request in requests])


def soft(gain, seed=0):
    return SoftmaxOver(Taste(gain, seed))


def table():
    return [
        Row("Popularity", [Popularity(np.arange(N))], reads="nothing"),
        Row("No Context", [soft(0.0)]),
        Row("Static Prefix", [soft(0.1, 1), soft(0.1, 2)]),
        Row("E2P-Random", [soft(-0.3, 1)]),
        Row("E2P", [soft(1.2, 1), soft(1.2, 2)], temperature=0.5, reads="history", trained="100 numbers"),
    ]


def run(tmp_path, config=CONFIG, rows=None, data=None, **more):
    question = Question(*(data or world()))
    rows = table() if rows is None else rows
    return evaluate_rows(config, rows, question, tmp_path / "c", {"data": "toy"}, quiet=True, **more)


def plain_user_means(values, users):
    return np.array(
        [np.mean([v for v, u in zip(values, users, strict=True) if u == user]) for user in sorted(set(users))]
    )


def plain_expected(gain, seeds, temperature=1.0):
    """Expected hit-rate@3 of each instance by the formulas alone, averaged over training seeds."""
    requests, targets, _ = world()
    columns = []
    for seed in seeds:
        values = []
        for request, target in zip(requests, targets, strict=True):
            weights = np.exp(Taste(gain, seed).scores([request])[0] / temperature)
            weights[request.exclude] = 0
            values.append(1 - (1 - weights[target] / weights.sum()) ** 3)
        columns.append(values)
    return np.mean(columns, axis=0)

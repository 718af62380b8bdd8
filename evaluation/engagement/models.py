"""The predictors' models, logistic regression, a small network, boosted trees: plain arrays, and their fit.

scikit-learn fits them; what is kept is the numbers that it found, so that a saved model needs no
pickle and gives the same logits to the bit (the trees are read from `_predictors`, which a test
holds against `decision_function`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from recsys.seeds import derive

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

FAMILIES = ("logistic", "network", "boosting")
INVERSE_PENALTIES = (0.0003, 0.003, 0.03, 0.3, 3.0)  # of the logistic regression's L2
WEIGHT_DECAYS = (0.1, 1.0, 10.0)  # of the network, on the sum over a batch of 128
HIDDEN, MOST_EPOCHS, PATIENCE = 32, 40, 5
LEARNING_RATE, MOST_TREES, LEAVES = 0.05, 200, 8  # of boosting

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Examples:
    """Features [S, F] and labels [S] (bool)."""

    features: np.ndarray
    labels: np.ndarray

    def loss(self, logits: np.ndarray) -> float:
        """Mean log loss (nats) of the logits [S]."""
        return float(np.logaddexp(0, np.where(self.labels, -logits, logits)).mean())


def fit(family: str, train: Examples, choosing: Examples, seed: int) -> dict[str, np.ndarray]:
    """Arrays of a fitted model of one of the FAMILIES;
    penalty, epochs or number of trees are those with the least log loss on `choosing`.
    """
    if family == "boosting":
        return _fit_boosting(train, choosing, seed)
    mean, scale = _standard(train.features)
    train, choosing = (Examples((part.features - mean) / scale, part.labels) for part in (train, choosing))
    fitted = _fit_logistic(train, choosing) if family == "logistic" else _fit_network(train, choosing, seed)
    return fitted | {"mean": mean, "scale": scale}


def logits(family: str, arrays: Arrays, features: np.ndarray) -> np.ndarray:
    """Log-odds [S] of engagement, before calibration."""
    if family == "boosting":
        return _tree_logits(arrays, features)
    return _dense_logits(arrays, (features - arrays["mean"]) / arrays["scale"])


def probability(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -50, 50)))


def _standard(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scale [F]. A column that never varies gets an infinite scale:
    nothing was learned of it, so it says nothing.
    """
    scale = features.std(axis=0)
    return features.mean(axis=0), np.where(scale > 1e-9, scale, np.inf)


# -- logistic regression and the network: dense layers, the first one on standardised features ---------------


def _fit_logistic(train: Examples, choosing: Examples) -> dict[str, np.ndarray]:
    from sklearn.linear_model import LogisticRegression

    tried = []
    for penalty in INVERSE_PENALTIES:
        model = LogisticRegression(C=penalty, max_iter=500).fit(train.features, train.labels)
        tried.append({"weights.0": model.coef_.T, "bias.0": model.intercept_})
    return min(tried, key=lambda arrays: choosing.loss(_dense_logits(arrays, choosing.features)))


def _fit_network(train: Examples, choosing: Examples, seed: int) -> dict[str, np.ndarray]:
    tried = [_trained_network(train, choosing, decay, seed) for decay in WEIGHT_DECAYS]
    return min(tried, key=lambda arrays: choosing.loss(_dense_logits(arrays, choosing.features)))


def _trained_network(train: Examples, choosing: Examples, decay: float, seed: int) -> dict[str, np.ndarray]:
    """One hidden layer, kept as it was after the epoch that is best on `choosing`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier(
        (HIDDEN,), alpha=decay, batch_size=128, random_state=derive(seed, "network", bits=31)
    )
    best: dict[str, np.ndarray] = {}
    best_loss, best_epoch = np.inf, 0
    for epoch in range(MOST_EPOCHS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.partial_fit(train.features, train.labels, classes=[False, True])
        arrays = {f"weights.{at}": weights.copy() for at, weights in enumerate(model.coefs_)}
        arrays |= {f"bias.{at}": bias.copy() for at, bias in enumerate(model.intercepts_)}
        loss = choosing.loss(_dense_logits(arrays, choosing.features))
        if loss < best_loss:
            best, best_loss, best_epoch = arrays, loss, epoch
        if epoch - best_epoch >= PATIENCE:
            break
    return best


def _dense_logits(arrays: Arrays, values: np.ndarray) -> np.ndarray:
    depth = sum(name.startswith("weights.") for name in arrays)
    for at in range(depth):
        values = values @ arrays[f"weights.{at}"] + arrays[f"bias.{at}"]
        if at < depth - 1:
            values = np.maximum(values, 0)
    return values[:, 0]


# -- boosted trees as flat arrays [trees, nodes] -------------------------------------------------------------


def _fit_boosting(train: Examples, choosing: Examples, seed: int) -> dict[str, np.ndarray]:
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        learning_rate=LEARNING_RATE,
        max_iter=MOST_TREES,
        max_leaf_nodes=LEAVES,
        min_samples_leaf=40,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=derive(seed, "boosting", bits=31),
    ).fit(train.features, train.labels)
    losses = [choosing.loss(raw.ravel()) for raw in model.staged_decision_function(choosing.features)]
    return tree_arrays(model, 1 + int(np.argmin(losses)))


def tree_arrays(model: HistGradientBoostingClassifier, trees: int) -> dict[str, np.ndarray]:
    """The first `trees` trees of a fitted binary classifier. A leaf's children are itself;
    columns hold no missing values.
    """
    nodes = [predictor.nodes for (predictor,) in model._predictors[:trees]]
    most = max(map(len, nodes))
    feature, left, right = (np.zeros((trees, most), np.int64) for _ in range(3))
    threshold, value = np.zeros((trees, most)), np.zeros((trees, most))
    for tree, found in enumerate(nodes):
        some, own = slice(len(found)), np.arange(len(found))
        leaf = found["is_leaf"].astype(bool)
        feature[tree, some] = np.where(leaf, 0, found["feature_idx"])
        threshold[tree, some] = np.where(leaf, 0.0, found["num_threshold"])
        left[tree, some] = np.where(leaf, own, found["left"])
        right[tree, some] = np.where(leaf, own, found["right"])
        value[tree, some] = found["value"]
    depth = max(int(found["depth"].max()) for found in nodes)
    base = np.asarray(model._baseline_prediction, dtype=float).ravel()
    return {
        "feature": feature, "threshold": threshold, "left": left, "right": right, "value": value,
        "depth": np.array([depth]), "base": base,
    }  # fmt: skip


def _tree_logits(arrays: Arrays, features: np.ndarray) -> np.ndarray:
    total = np.full(len(features), arrays["base"][0])
    rows = np.arange(len(features))
    for feature, threshold, left, right, value in zip(
        *(arrays[name] for name in ("feature", "threshold", "left", "right", "value")), strict=True
    ):
        node = np.zeros(len(features), np.int64)
        for _ in range(int(arrays["depth"][0])):
            goes_left = features[rows, feature[node]] <= threshold[node]
            node = np.where(goes_left, left[node], right[node])
        total += value[node]
    return total

"""The predictor's models as arrays against scikit-learn, and their calibration."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from evaluation.engagement import models as models
from evaluation.engagement.predictor import (
    platt,
)

# -- models as arrays -------------------------------------------------------------------------------------------------


def examples(seed: int = 0) -> models.Examples:
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(600, 7))
    odds = 2 * features[:, 0] + features[:, 1] * features[:, 2]
    return models.Examples(features, generator.random(600) < 1 / (1 + np.exp(-odds)))


def test_trees_as_arrays_give_sklearns_logits_to_the_bit():
    data = examples()
    model = HistGradientBoostingClassifier(
        max_iter=25, max_leaf_nodes=9, early_stopping=False, random_state=0
    )
    model.fit(data.features, data.labels)
    for trees, raw in enumerate(model.staged_decision_function(data.features), start=1):
        found = models.logits("boosting", models.tree_arrays(model, trees), data.features)
        np.testing.assert_array_equal(found, raw.ravel())


def test_the_networks_arrays_give_sklearns_probabilities():
    data = examples()
    model = MLPClassifier((models.HIDDEN,), random_state=0, max_iter=20, early_stopping=False)
    with pytest.warns(match="converged"):
        model.fit(data.features, data.labels)
    arrays = {f"weights.{at}": weights for at, weights in enumerate(model.coefs_)}
    arrays |= {f"bias.{at}": bias for at, bias in enumerate(model.intercepts_)}
    arrays |= {"mean": np.zeros(7), "scale": np.ones(7)}
    p = models.probability(models.logits("network", arrays, data.features))
    np.testing.assert_allclose(p, model.predict_proba(data.features)[:, 1], atol=1e-12)


def test_logistic_arrays_are_a_penalty_of_the_grid_on_standardised_features():
    data, choosing = examples(), examples(1)
    found = models.logits("logistic", models.fit("logistic", data, choosing, 0), choosing.features)
    mean, scale = data.features.mean(0), data.features.std(0)
    losses = {}
    for penalty in models.INVERSE_PENALTIES:
        model = LogisticRegression(C=penalty, max_iter=500).fit((data.features - mean) / scale, data.labels)
        losses[penalty] = model.decision_function((choosing.features - mean) / scale)
    best = min(losses.values(), key=choosing.loss)
    np.testing.assert_allclose(found, best, atol=1e-6)


def test_a_column_that_never_varied_says_nothing_when_it_does():
    data, choosing = examples(), examples(1)
    for part in (data, choosing):
        part.features[:, 3] = 1.0
    for family in models.FAMILIES:
        arrays = models.fit(family, data, choosing, 0)
        other = choosing.features.copy()
        other[:, 3] = -50.0
        np.testing.assert_array_equal(
            models.logits(family, arrays, other), models.logits(family, arrays, choosing.features)
        )


def test_platt_equals_sklearns_sigmoid_calibration():
    data, calibrating = examples(), examples(1)
    model = LogisticRegression(C=100).fit(data.features[:60], data.labels[:60])  # overconfident
    theirs = CalibratedClassifierCV(FrozenEstimator(model), method="sigmoid").fit(
        calibrating.features, calibrating.labels
    )
    slope, intercept = platt(model.decision_function(calibrating.features), calibrating.labels)
    assert slope < 0.95
    p = models.probability(slope * model.decision_function(data.features) + intercept)
    # Platt's targets are drawn in by one engaged and one other example of 600
    np.testing.assert_allclose(p, theirs.predict_proba(data.features)[:, 1], atol=0.01)


def test_calibration_never_turns_the_order_round():
    data = examples()
    slope, intercept = platt(-data.features[:, 0], data.labels)
    assert slope == 0
    assert models.probability(np.array([intercept]))[0] == pytest.approx(data.labels.mean())

"""Quality of the engagement predictor: scikit-learn and plain loops as witnesses, and one whole report in a small world."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from evaluation.engagement import models as models
from evaluation.engagement import quality as quality
from evaluation.engagement.baselines import PRIOR_WEIGHT, baseline_predictions
from evaluation.engagement.features import FeatureMaker, ItemSpace, Shown
from evaluation.engagement.plots import reliability_plot
from evaluation.engagement.predictor import EngagementPredictor, FittedPredictors, fit_predictors, loss_saved
from evaluation.engagement.tables import describe_predictor, predictor_tables
from recsys.engagement.shown_lists import PREDICTOR, PREDICTOR_VALIDATION, TEST_LISTS
from tests.support.engagement_worlds import World


def shown_lists(
    users: list[int], lists: list[list[int]], labels: list[list[int]], known: list[bool] | None = None
) -> Shown:
    n = len(users)
    return Shown(
        user_vectors=np.eye(4)[np.maximum(users, 0) % 4],
        known=np.ones(n, bool) if known is None else np.array(known),
        query_vectors=np.ones((n, 3)),
        offsets=np.concatenate([[0], np.cumsum(list(map(len, lists)))]),
        items=np.concatenate(lists),
        users=np.array(users),
        labels=np.concatenate(labels).astype(bool),
    )


def random_lists(seed: int = 0, users: int = 30, each: int = 4, length: int = 5) -> tuple[Shown, np.ndarray]:
    """Lists, and a calibrated p of coarse steps, so that there are ties."""
    generator = np.random.default_rng(seed)
    n = users * each
    p = generator.integers(1, 20, n * length) / 20
    labels = generator.random(n * length) < p
    return (
        Shown(
            np.zeros((n, 2)), np.ones(n, bool), np.zeros((n, 2)), np.arange(n + 1) * length,
            generator.integers(0, 9, n * length), np.repeat(np.arange(users), each), labels,
        ),
        p,
    )  # fmt: skip


def test_auc_by_hand_and_by_sklearn():
    labels = np.array([True, False, True, False])
    assert quality.auc(np.array([0.9, 0.1, 0.5, 0.5]), labels) == (1 + 1 + 1 + 0.5) / 4
    shown, p = random_lists()
    assert quality.auc(p, shown.labels) == pytest.approx(roc_auc_score(shown.labels, p))
    assert np.isnan(quality.auc(p[:2], np.array([True, True])))
    assert quality.scores(p[:2], np.array([True, True]))["auc"] is None


def test_scores_equal_sklearns():
    shown, p = random_lists()
    found = quality.scores(p, shown.labels)
    assert found["log_loss"] == pytest.approx(log_loss(shown.labels, p))
    assert found["brier"] == pytest.approx(brier_score_loss(shown.labels, p))


def test_bootstrap_aucs_are_those_of_lists_written_out_as_often_as_drawn():
    shown, p = random_lists(users=8)
    weights = quality.bootstrap_weights(shown, 3, samples=20)
    assert (weights.sum(axis=1) == 8).all()
    user = shown.users[shown.list_of_item()]
    for drawn, found in zip(weights, quality.auc_samples(p, shown, weights), strict=True):
        rows = np.concatenate([np.flatnonzero(user == who) for who in range(8) for _ in range(drawn[who])])
        assert found == pytest.approx(roc_auc_score(shown.labels[rows], p[rows]))


def test_auc_interval_over_users_is_wider_where_users_are_alike_in_themselves():
    """Lists of one user that all have one outcome are not so many lists."""
    shown, p = random_lists(users=40, each=6)
    weights = quality.bootstrap_weights(shown, 0)
    spread = np.std(quality.auc_samples(p, shown, weights))
    alike = np.repeat(shown.labels.reshape(40, 6, 5)[:, :1], 6, axis=1).ravel()
    same_p = np.repeat(p.reshape(40, 6, 5)[:, :1], 6, axis=1).ravel()
    copied = np.std(quality.auc_samples(same_p, dataclasses.replace(shown, labels=alike), weights))
    assert copied > 1.8 * spread  # six copies: √6 = 2.4


def test_quantile_bins_by_hand_and_ties_stay_together():
    p = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert quality.quantile_bins(p, 3).tolist() == [0, 0, 1, 1, 2, 2]
    assert quality.quantile_bins(np.full(5, 0.3)).tolist() == [0] * 5
    _, p = random_lists()
    place = quality.quantile_bins(p)
    for value in np.unique(p):
        assert len(np.unique(place[p == value])) == 1


def test_reliability_equals_sklearns_calibration_curve():
    shown, _ = random_lists(users=50)
    p = np.random.default_rng(1).random(len(shown.labels))  # no ties, so the bins are the same
    table = quality.reliability(p, shown, quality.bootstrap_weights(shown, 0))
    observed, predicted = calibration_curve(shown.labels, p, n_bins=10, strategy="quantile")
    np.testing.assert_allclose([row["observed"] for row in table], observed)
    np.testing.assert_allclose([row["predicted"] for row in table], predicted)
    assert sum(row["n"] for row in table) == len(p)
    assert all(low <= row["observed"] <= high for row in table for low, high in [row["observed_ci95"]])
    ece = sum(row["n"] * abs(row["observed"] - row["predicted"]) for row in table) / len(p)
    assert quality.calibration_error(p, shown.labels) == pytest.approx(ece)


def test_a_calibrated_p_has_the_error_of_chance_and_an_overconfident_one_more():
    generator = np.random.default_rng(2)
    p = generator.random(4000)
    labels = generator.random(4000) < p
    chance = quality.chance_calibration_error(p, np.random.default_rng(0))
    assert 0.005 < chance < 0.03
    assert quality.calibration_error(p, labels) < 1.8 * chance
    assert quality.calibration_error(np.clip(3 * p - 1, 0, 1), labels) > 5 * chance


def test_auc_within_lists_by_hand():
    shown = shown_lists([0, 0, 1, 1], [[1, 2, 3], [4, 5], [6, 7], [8]], [[1, 0, 0], [0, 0], [1, 0], [1]])
    p = np.array([0.5, 0.1, 0.5, 0.9, 0.9, 0.2, 0.8, 0.5])
    np.testing.assert_array_equal(quality.list_aucs(p, shown), [0.75, np.nan, 0.0, np.nan])
    found = quality.within_list(p, shown)
    assert (found["auc"], found["n_lists"]) == (0.375, 2)


def test_what_a_list_shares_raises_auc_but_not_the_auc_within_lists():
    shown, _ = random_lists(users=60)
    generator = np.random.default_rng(0)
    of_list = np.repeat(generator.random(len(shown)), 5)
    shown = dataclasses.replace(shown, labels=generator.random(len(of_list)) < of_list)
    assert quality.auc(of_list, shown.labels) > 0.7
    assert quality.within_list(of_list, shown)["auc"] == 0.5


def test_log_loss_saved_by_hand():
    shown = shown_lists([0, 0, 1], [[1], [2], [3]], [[1], [0], [1]])
    p, q = np.array([0.8, 0.4, 0.5]), np.array([0.5, 0.5, 0.5])
    first = np.mean([np.log(0.8 / 0.5), np.log(0.6 / 0.5)])
    assert loss_saved(p, q, shown)["log_loss_saved"] == pytest.approx(first / 2)


def test_baselines_by_hand():
    space = ItemSpace(np.eye(6, 4), np.ones((6, 3)), np.arange(6))
    train = shown_lists([0, 0, 1, -1], [[1, 2], [1], [3, 1], [4]], [[1, 1], [1], [0, 0], [1]])
    asked = shown_lists([0, 1, 5, -1], [[1], [2], [5], [3]], [[0], [0], [0], [0]])
    found = baseline_predictions(train, asked, space)
    base, m = 4 / 6, PRIOR_WEIGHT
    assert found["base rate"] == pytest.approx(np.full(4, base))
    of_users = [(3 + m * base) / (3 + m), m * base / (2 + m), base, base]
    assert found["the user's own rate"] == pytest.approx(of_users)
    of_items = [(2 + m * base) / (3 + m), (1 + m * base) / (1 + m), base, m * base / (1 + m)]
    assert found["the item's own rate"] == pytest.approx(of_items)
    other = baseline_predictions(train, dataclasses.replace(asked, labels=~asked.labels), space)
    for name, p in found.items():
        np.testing.assert_array_equal(p, other[name])


def by_cosine(weight: float, space: ItemSpace) -> EngagementPredictor:
    """A predictor by hand: the log-odds are weight · (user · item), and nothing else."""
    maker = FeatureMaker.of(space)
    names = maker.names(False)
    weights = np.zeros((len(names), 1))
    weights[names.index("user · item")] = weight
    arrays = {
        "weights.0": weights,
        "bias.0": np.zeros(1),
        "mean": np.zeros(len(names)),
        "scale": np.ones(len(names)),
    }
    return EngagementPredictor("logistic", False, maker, arrays, 1.0, 0.0)


def test_shuffled_leaves_lists_without_a_vector_out_and_never_gives_ones_own():
    """User k likes item k alone: with one's own vector the AUC is 1, with another's 0."""
    space = ItemSpace(np.eye(4), np.ones((4, 3)), np.ones(4))
    test = shown_lists(
        [0, 1, 2, 3, 9], [[0, 1, 2, 3]] * 5, [*np.eye(4).tolist(), [1, 0, 0, 0]], [True] * 4 + [False]
    )
    weights = quality.bootstrap_weights(test, 0, 50)
    found = quality.shuffled(by_cosine(5.0, space), test, space, weights, 0)
    assert (found["n_lists"], found["auc_own"], found["within_list_own"]) == (4, 1.0, 1.0)
    # the item of the other user is above, the two that neither likes are level with one's own
    one = (0.5 * 2 + 0 * 1) / 3
    assert found["auc_shuffled_each"] == pytest.approx([one] * quality.PERMUTATIONS)
    assert found["within_list_shuffled"] == pytest.approx(one)
    assert found["lost"] == pytest.approx(1 - one)
    alone = test.take(np.array([0, 4]))
    assert quality.shuffled(by_cosine(5.0, space), alone, space, weights[:, :2], 0) is None


@pytest.fixture(scope="module")
def report() -> tuple[World, FittedPredictors, dict]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "MOST_TREES", 60)
        patch.setattr(models, "MOST_EPOCHS", 10)
        world = World(
            lambda about: 4 * about["user·item"] + 3 * about["query·text"] + 3 * about["previous"],
            users=120, length=5,
        )  # fmt: skip
        world.known[::9] = False
        train, validation, test = (
            world.shown(part) for part in (PREDICTOR, PREDICTOR_VALIDATION, TEST_LISTS)
        )
        fitted = fit_predictors(train, validation, world.space, 0)
        groups = {"no vector": ~test.known, "nobody": np.zeros(len(test), bool)}
    return world, fitted, quality.predictor_quality(fitted, train, test, world.space, 0, groups)


def test_the_whole_report_goes_into_json_and_is_the_same_again(report):
    world, fitted, found = report
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    parts = (world.shown(part) for part in (PREDICTOR, TEST_LISTS))
    groups = {"no vector": ~world.shown(TEST_LISTS).known}
    assert quality.predictor_quality(fitted, *parts, world.space, 0, groups) == found


def test_the_report_says_what_it_should_of_this_world(report):
    world, _, found = report
    low, high = found["auc_ci95"]
    assert low < found["auc"] < high
    assert found["n_lists_of_unknown_users"] == (~world.shown(TEST_LISTS).known).sum() > 0
    assert found["n_lists_of_training_users"] == 0
    assert found["order"]["log_loss_saved_ci95"][0] > 0  # this world has an order
    assert found["shuffled"]["lost_ci95"][0] > 0.05  # and persons
    assert [row["name"] for row in found["groups"]] == ["no vector"]
    for row in found["baselines"]:
        assert row["log_loss_saved_ci95"][0] > 0, row["name"]
    assert found["chosen"] == found["order"]["order_aware"]
    assert [row["log_loss"] for row in found["variants"]] == sorted(
        row["log_loss"] for row in found["variants"]
    )


def test_every_table_prints_and_the_picture_is_one(report):
    found = report[2]
    for title, columns, rows in predictor_tables(found):
        cells = [[show(row[key]) for _, key, show in columns] for row in rows]
        assert cells, title
        assert all(cell for line in cells for cell in line), title
    words = " ".join(describe_predictor(found))
    assert f"{found['auc']:.4f}"[1:] in words
    assert f"{found['shuffled']['auc_shuffled']:.4f}"[1:] in words
    assert reliability_plot(found)[:4] == b"\x89PNG"


def test_one_user_and_no_vectors_are_said_rather_than_made_up(report):
    world, fitted, _ = report
    test = world.shown(TEST_LISTS)
    alone = test.take(np.flatnonzero(test.users == test.users[0]))
    found = quality.predictor_quality(fitted, world.shown(PREDICTOR), alone, world.space, 0)
    assert found["shuffled"] is None
    assert found["within_list"]["auc_ci95"] is None
    json.dumps(found, allow_nan=False)
    for _, columns, rows in predictor_tables(found):
        assert [[show(row[key]) for _, key, show in columns] for row in rows]
    assert "permutations" not in " ".join(describe_predictor(found))
    assert reliability_plot(found)[:4] == b"\x89PNG"

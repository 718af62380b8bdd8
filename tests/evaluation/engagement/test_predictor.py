"""The engagement predictor in made worlds whose truth is known; leaks; the file."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.engagement import models as models
from evaluation.engagement.features import AskedLists
from evaluation.engagement.predictor import (
    EngagementPredictor,
    FittedPredictors,
    fit_predictors,
    halves_by_user,
    with_anonymous_copies,
)
from evaluation.engagement.quality import bootstrap_weights, shuffled
from recsys.door.tables import DataError
from recsys.engagement.shown_lists import GENERATOR, PREDICTOR, PREDICTOR_VALIDATION, TEST_LISTS
from tests.support.engagement_worlds import World

WORLDS = {
    "personal": lambda about: 8 * about["user·item"],
    "query": lambda about: 6 * about["query·text"],
    "item": lambda about: 1.5 * (about["popularity"] - 3.5),
    "order": lambda about: 8 * about["previous"],
    "mixed": lambda about: 3 * about["user·item"] + 4 * about["query·text"] + 0.5 * (about["popularity"] - 3.5),
}  # fmt: skip


@cache
def fitted(name: str) -> tuple[World, FittedPredictors]:
    world = World(WORLDS[name])
    return world, fit(world)


def fit(world: World, labels: np.ndarray | None = None, seed: int = 0) -> FittedPredictors:
    parts = (world.shown(part, labels) for part in (PREDICTOR, PREDICTOR_VALIDATION))
    return fit_predictors(*parts, world.space, seed)


def on_test(name: str) -> tuple[World, FittedPredictors, np.ndarray, np.ndarray]:
    """World, predictors, predictions of the chosen one, and the true probabilities, of test items."""
    world, found = fitted(name)
    p = found.chosen.predict(world.shown(TEST_LISTS), world.space)
    return world, found, p, world.p[world.of_part(TEST_LISTS)]


# -- worlds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_is_learned_nearly_as_well_as_its_own_law(name):
    world, _, p, truth = on_test(name)
    labels = world.shown(TEST_LISTS).labels
    assert roc_auc_score(labels, truth) > 0.75
    assert roc_auc_score(labels, p) > roc_auc_score(labels, truth) - 0.02
    assert np.abs(p - truth).mean() < 0.06  # calibrated, not only well ordered


def personal(name: str) -> dict:
    world, found = fitted(name)
    test = world.shown(TEST_LISTS)
    value = shuffled(found.chosen, test, world.space, bootstrap_weights(test, 0, 200), 0)
    assert value is not None
    return value


def test_with_another_users_vector_a_personal_world_falls_to_chance():
    value = personal("personal")
    assert value["auc_own"] > 0.9
    assert abs(value["auc_shuffled"] - 0.5) < 0.02
    assert value["lost_ci95"][0] > 0.35
    assert abs(value["within_list_shuffled"] - 0.5) < 0.03


@pytest.mark.parametrize("name", ["query", "item"])
def test_with_another_users_vector_a_world_of_queries_or_of_items_stays(name):
    value = personal(name)
    assert value["auc_own"] > 0.73
    assert abs(value["lost"]) < 0.01


def test_order_is_seen_by_the_order_aware_alone():
    world, found, _, _ = on_test("order")
    assert found.chosen.order_aware
    test = world.shown(TEST_LISTS)
    aucs = {
        name: roc_auc_score(test.labels, one.predict(test, world.space))
        for name, one in found.variants.items()
    }
    for family in models.FAMILIES:
        assert abs(aucs[f"{family}, order-free"] - 0.5) < 0.04
        assert aucs[f"{family}, order-aware"] > 0.8


def test_order_free_is_the_rule_where_order_says_nothing():
    for name in ("personal", "query", "item", "mixed"):
        assert not fitted(name)[1].chosen.order_aware, name


def test_probabilities_are_those_of_a_logistic_world():
    """In each tenth of the predictions the mean true probability is the predicted one."""
    _, _, p, truth = on_test("mixed")
    for rows_of_bin in np.array_split(np.argsort(p), 10):
        assert p[rows_of_bin].mean() == pytest.approx(truth[rows_of_bin].mean(), abs=0.05)


def test_a_user_without_a_vector_is_not_taken_for_one_who_likes_nothing():
    """Where all users and items point roughly one way, u·v = 0 is far out; such lists are predicted at their rate."""
    world = World(lambda about: 8 * (about["user·item"] - 0.8), users=180, shift=2.0)
    found = fit(world)
    test = world.shown(TEST_LISTS)
    unknown = test.with_user_vectors(test.user_vectors, np.zeros(len(test), bool))
    for one in found.variants.values():
        p = one.predict(unknown, world.space)
        assert p.mean() == pytest.approx(test.labels.mean(), abs=0.12), one.name
        loss = -np.log(np.where(test.labels, p, 1 - p)).mean()
        assert loss < 0.77, (
            one.name
        )  # log 2 = .69; without the anonymous copies 1.2 to 3.9, and p from .00 to .11


def test_an_unknown_users_vector_is_not_read():
    world, found = fitted("personal")
    test = world.shown(TEST_LISTS)
    nobody = np.zeros(len(test), bool)
    one, other = (
        found.chosen.predict(test.with_user_vectors(vectors, nobody), world.space)
        for vectors in (test.user_vectors, 0 * test.user_vectors)
    )
    np.testing.assert_array_equal(one, other)


# -- leaks and randomness ---------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch) -> tuple[World, FittedPredictors]:
    """A world that is fitted several times: fewer trees, epochs and decays."""
    monkeypatch.setattr(models, "MOST_TREES", 20)
    monkeypatch.setattr(models, "MOST_EPOCHS", 5)
    monkeypatch.setattr(models, "WEIGHT_DECAYS", (1.0,))
    world = World(WORLDS["mixed"], users=60, lists_each=4, length=5)
    return world, fit(world)


def same(one: FittedPredictors, other: FittedPredictors) -> bool:
    if one.comparison != other.comparison:
        return False
    pairs = [(one.variants[name], other.variants[name]) for name in one.variants]
    return all(
        (a.slope, a.intercept) == (b.slope, b.intercept)
        and all(np.array_equal(a.arrays[name], b.arrays[name]) for name in a.arrays)
        for a, b in pairs
    )


def test_labels_of_other_parts_change_nothing_and_ones_own_do(small):
    world, found = small
    own = world.of_part(PREDICTOR) | world.of_part(PREDICTOR_VALIDATION)
    assert {GENERATOR, TEST_LISTS} <= set(world.lists.parts.tolist())
    flipped = np.where(own, world.lists.labels, ~world.lists.labels)
    assert same(found, fit(world, flipped))
    for part in (PREDICTOR, PREDICTOR_VALIDATION):
        changed = world.lists.labels.copy()
        changed[np.flatnonzero(world.of_part(part))[:20]] ^= True
        assert not same(found, fit(world, changed)), part


def test_the_same_seed_gives_the_same_predictor_and_another_seed_another(small):
    world, found = small
    assert same(found, fit(world))
    assert not same(found, fit(world, seed=1))


def test_halves_share_no_user_and_hold_every_list_once():
    shown = fitted("mixed")[0].shown(PREDICTOR_VALIDATION)
    shown = dataclasses.replace(shown, users=np.where(shown.users % 10 == 2, -1, shown.users))
    one, other = halves_by_user(shown, 0)
    assert not (set(one.users.tolist()) & set(other.users.tolist())) - {-1}
    assert len(one) + len(other) == len(shown)
    assert abs(len(one) - len(other)) < 0.1 * len(shown)
    # queries tell the lists apart
    both = np.concatenate([one.query_vectors, other.query_vectors])
    np.testing.assert_array_equal(np.unique(both, axis=0), np.unique(shown.query_vectors, axis=0))


def test_too_little_to_learn_from_is_refused_with_the_place():
    world = fitted("mixed")[0]
    train, validation = world.shown(PREDICTOR), world.shown(PREDICTOR_VALIDATION)
    alone = validation.take(np.flatnonzero(validation.users == validation.users[0]))
    with pytest.raises(DataError, match="at least two"):
        fit_predictors(train, alone, world.space, 0)
    liked = dataclasses.replace(train, labels=np.ones(len(train.labels), bool))
    with pytest.raises(DataError, match=r"training has 3456 engaged of 3456 shown"):
        fit_predictors(liked, validation, world.space, 0)


def test_lists_taken_by_index_keep_their_items():
    shown = fitted("mixed")[0].shown(PREDICTOR)
    chosen = np.array([5, 0, 5])
    taken = shown.take(chosen)
    for row, index in enumerate(chosen):
        mine = slice(shown.offsets[index], shown.offsets[index + 1])
        theirs = slice(taken.offsets[row], taken.offsets[row + 1])
        np.testing.assert_array_equal(taken.items[theirs], shown.items[mine])
        np.testing.assert_array_equal(taken.labels[theirs], shown.labels[mine])
    np.testing.assert_array_equal(taken.user_vectors, shown.user_vectors[chosen])


def test_anonymous_copies_are_added_and_nothing_is_lost():
    shown = fitted("mixed")[0].shown(PREDICTOR)
    doubled = with_anonymous_copies(shown, 0)
    n = len(shown)
    assert 0.2 * n < len(doubled) - n < 0.4 * n
    assert doubled.known.tolist() == [True] * n + [False] * (len(doubled) - n)
    np.testing.assert_array_equal(doubled.items[: len(shown.items)], shown.items)


# -- generated lists and the file -------------------------------------------------------------------------------------


def test_a_lists_engagement_is_the_mean_over_its_items():
    world, found = fitted("order")
    test = world.shown(TEST_LISTS).take(np.arange(3))
    lists = np.array([[4, 9, 2, -1], [-1, -1, -1, -1], [7, -1, -1, -1]])
    one = found.chosen
    value = one.predict_lists(test.user_vectors, test.known, test.query_vectors, lists, world.space)
    by_hand = []
    for row, items in ((0, [4, 9, 2]), (2, [7])):
        alone = test.take(np.array([row]))
        asked = AskedLists(
            alone.user_vectors, alone.known, alone.query_vectors, np.array([0, len(items)]), np.array(items)
        )
        by_hand.append(one.predict(asked, world.space).mean())
    assert value[[0, 2]] == pytest.approx(by_hand, abs=1e-12)
    assert np.isnan(value[1])


def test_order_matters_to_an_order_aware_judge_of_generated_lists():
    world, found = fitted("order")
    test = world.shown(TEST_LISTS).take(np.arange(20))
    generator = np.random.default_rng(0)
    lists = np.stack([generator.permutation(len(world.space.popularity))[:6] for _ in range(20)])
    args = test.user_vectors, test.known, test.query_vectors
    one, other = (found.chosen.predict_lists(*args, some, world.space) for some in (lists, lists[:, ::-1]))
    assert np.abs(one - other).max() > 0.01
    free = found.variants["logistic, order-free"]
    one, other = (free.predict_lists(*args, some, world.space) for some in (lists, lists[:, ::-1]))
    np.testing.assert_allclose(one, other, atol=1e-12)


def test_chunks_of_features_change_no_prediction(monkeypatch):
    world, found = fitted("order")
    test = world.shown(TEST_LISTS)
    whole = found.chosen.predict(test, world.space)
    monkeypatch.setattr("evaluation.engagement.predictor.ROWS_AT_ONCE", 50)
    np.testing.assert_allclose(found.chosen.predict(test, world.space), whole, atol=1e-12)


@pytest.mark.parametrize("family", models.FAMILIES)
def test_a_saved_predictor_predicts_the_same_to_the_bit(family, tmp_path):
    world, found = fitted("mixed")
    one = found.variants[f"{family}, order-aware"]
    one.save(tmp_path / "one.safetensors")
    one.save(tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    loaded = EngagementPredictor.load(tmp_path / "one.safetensors")
    test = world.shown(TEST_LISTS)
    np.testing.assert_array_equal(loaded.predict(test, world.space), one.predict(test, world.space))
    assert loaded.name == one.name


def test_another_file_is_refused_with_the_remedy(tmp_path):
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(2)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(DataError, match=r"other\.safetensors is not an engagement predictor"):
        EngagementPredictor.load(tmp_path / "other.safetensors")

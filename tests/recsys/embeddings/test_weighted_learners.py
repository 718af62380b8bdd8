"""Learners by weight, each against a plain loop or against the draws it should make."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from recsys.embeddings.item_knn import similarities
from recsys.embeddings.lightgcn import (
    LightGCN,
    LightGCNConfig,
    message_scales,
    normalised_adjacency,
    step_of_training,
    train_lightgcn,
)
from recsys.embeddings.sasrec import SasRec, SasRecConfig, sequence_loss
from recsys.embeddings.sequences import Batches, windows_of_epoch
from recsys.embeddings.user_vectors import HistoryVectors

# user 0 has items 0 and 1; user 1 has items 1 and 2, item 2 twice: it is as strong as the stronger
USERS, ITEMS = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 2, 2])
WEIGHTS = np.array([2.0, 0.5, 1.0, 0.25, 4.0])
STRONGEST = {(0, 0): 2.0, (0, 1): 0.5, (1, 1): 1.0, (1, 2): 4.0}


def plain_propagation(x: np.ndarray) -> np.ndarray:
    """Rows 0, 1: users; 2, 3, 4: items. e_u ← Σ_i w_ui / sqrt(d_u d_i) e_i, and back; d: sums of weights."""
    degree = np.zeros(5)
    for (user, item), weight in STRONGEST.items():
        degree[user] += weight
        degree[2 + item] += weight
    out = np.zeros_like(x)
    for (user, item), weight in STRONGEST.items():
        share = weight / math.sqrt(degree[user] * degree[2 + item])
        out[user] += share * x[2 + item]
        out[2 + item] += share * x[user]
    return out


# -- LightGCN -------------------------------------------------------------------------------------------------------


def test_a_weighted_propagation_on_two_users_and_three_items():
    adjacency = normalised_adjacency(USERS, ITEMS, 2, 3, WEIGHTS)
    x = np.array([[1.0], [10.0], [100.0], [1000.0], [10000.0]])
    found = (adjacency @ torch.from_numpy(x).float()).numpy()
    np.testing.assert_allclose(found, plain_propagation(x), rtol=1e-5)
    scaled = normalised_adjacency(USERS, ITEMS, 2, 3, 1000 * WEIGHTS)  # only ratios matter
    np.testing.assert_allclose(scaled.to_dense().numpy(), adjacency.to_dense().numpy(), rtol=1e-5)
    ones = normalised_adjacency(USERS, ITEMS, 2, 3, np.ones(5))
    plain = normalised_adjacency(USERS, ITEMS, 2, 3)
    np.testing.assert_array_equal(ones.to_dense().numpy(), plain.to_dense().numpy())


def test_messages_of_weighted_edges():
    """w̄_i / sqrt(d_i): item 0 has one edge of 2, item 1 edges of .5 and 1, item 2 one of 4; item 3 has none."""
    scales = message_scales(USERS, ITEMS, 4, WEIGHTS).numpy()
    np.testing.assert_allclose(scales, [math.sqrt(2), 0.75 / math.sqrt(1.5), 2.0, 0.0], rtol=1e-6)
    ones = message_scales(USERS, ITEMS, 4, np.ones(5)).numpy()
    np.testing.assert_allclose(ones, [1, 1 / math.sqrt(2), 1, 0], rtol=1e-6)
    config = LightGCNConfig(dim=4, layers=2)
    model = LightGCN(
        normalised_adjacency(USERS, ITEMS, 2, 4, WEIGHTS), 2, config, 0, torch.from_numpy(scales)
    )
    with torch.no_grad():
        x = model.embedding.numpy().astype(float)
    first = plain_propagation(x[:5])[2:]  # of items 0, 1 and 2
    expected = (x[2:5] + first) * scales[:3, None] / 3
    found = model.message_table().numpy()
    np.testing.assert_allclose(found[:3], expected, rtol=1e-5, atol=1e-7)
    assert (found[3] == 0).all()


def test_a_user_all_of_whose_edges_weigh_their_items_mean_has_the_vector_of_the_graph():
    """The message table is eq. 3 and 4 for a new user node whose edges weigh what their items' edges weigh."""
    generator = np.random.default_rng(0)
    users, items = (
        np.repeat(np.arange(12), 5),
        np.concatenate([generator.permutation(9)[:5] for _ in range(12)]),
    )
    by_item = generator.uniform(0.1, 5, 9)
    weights = by_item[items]  # each item has one weight
    model = LightGCN(
        normalised_adjacency(users, items, 12, 9, weights), 12, LightGCNConfig(dim=6, layers=3), 1,
        message_scales(users, items, 9, weights),
    )  # fmt: skip
    with torch.no_grad():
        model.embedding[:12] = 0
        known = model()[:12].numpy()
        model.embedding[0] = 0
    histories = [items[users == user] for user in range(12)]
    inductive, _ = HistoryVectors(model.message_table().numpy(), None, "").of_histories(histories)
    known = known / np.linalg.norm(known, axis=1, keepdims=True)
    np.testing.assert_allclose((inductive * known).sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("loss", ["bpr", "sampled_softmax"])
def test_edges_are_drawn_in_proportion_to_their_weights(loss, monkeypatch):
    users, items = np.repeat(np.arange(20), 5), np.tile(np.arange(5), 20)
    weights = np.where(items == 3, 40.0, 1.0)
    config = LightGCNConfig(dim=4, layers=1, batch=16, negatives=4, loss=loss)
    model = LightGCN(normalised_adjacency(users, items, 20, 5, weights), 20, config, 0)
    counts, honest = np.zeros(25), torch.bincount

    def watched(nodes, minlength):  # of a step's users and positive items
        counts[:] += np.bincount(nodes.numpy(), minlength=25)
        return honest(nodes, minlength=minlength)

    step = step_of_training(model, users, items, 0, weights)
    monkeypatch.setattr(torch, "bincount", watched)
    for index in range(20 * 7):  # twenty epochs of ⌈100 / 16⌉ steps
        step(index)
    assert counts[20:].sum() == 20 * 100
    shares = counts[20:] / counts[20:].sum()
    np.testing.assert_allclose(shares, [1 / 44, 1 / 44, 1 / 44, 40 / 44, 1 / 44], atol=0.006)


def test_weights_change_what_is_learned_and_their_scale_does_not(tmp_path):
    generator = np.random.default_rng(0)
    users, items = np.repeat(np.arange(30), 6), generator.integers(0, 40, 180)
    weights = np.exp(generator.normal(size=180))
    config = LightGCNConfig(dim=8, epochs=3, batch=64, negatives=16)
    tables = [
        train_lightgcn(users, items, 30, 40, config, 7, tmp_path / str(at), lambda model: 0.0, weights=some)[
            0
        ]
        for at, some in enumerate((None, weights, 1024 * weights))
    ]
    plain, weighed, scaled = (model().detach().numpy() for model in tables)
    assert np.abs(plain - weighed).max() > 1e-3
    np.testing.assert_allclose(scaled, weighed, atol=1e-4)


# -- item-kNN ---------------------------------------------------------------------------------------------------------


def plain_similarities(users, items, weights, n: int, shrink: float) -> np.ndarray:
    """c_ij = Σ_u w_uj over users with i and j, n_i a number of users; of a pair that occurs twice the larger weight."""
    strongest: dict[tuple[int, int], float] = {}
    for user, item, weight in zip(users.tolist(), items.tolist(), weights.tolist(), strict=True):
        strongest[user, item] = max(weight, strongest.get((user, item), 0.0))
    found = np.zeros((n, n))
    had = [{user for user, item in strongest if item == i} for i in range(n)]
    for i in range(n):
        for j in range(n):
            both = sum(strongest[user, j] for user in had[i] & had[j])
            if i != j and both:
                found[i, j] = both / (math.sqrt(len(had[i]) * len(had[j])) + shrink)
    return found


@pytest.mark.parametrize("shrink", [0.0, 3.0])
def test_weighted_similarities_equal_a_plain_loop(shrink):
    generator = np.random.default_rng(2)
    users, items = generator.integers(0, 15, 120), generator.integers(0, 12, 120)
    weights = np.exp(generator.normal(size=120))
    found = similarities(users, items, 12, shrink, 12, weights).toarray()
    np.testing.assert_allclose(found, plain_similarities(users, items, weights, 12, shrink), rtol=1e-5)
    ones = similarities(users, items, 12, shrink, 12, np.ones(120)).toarray()
    np.testing.assert_allclose(ones, similarities(users, items, 12, shrink, 12).toarray(), rtol=1e-6)


def test_what_all_events_of_an_item_weigh_is_not_cancelled():
    """Purchases, which weigh ten, are ten times as near to all that stands in histories, and no nearer as part of one."""
    users, items = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 0, 2, 1, 2])
    plain = similarities(users, items, 3, 1.0, 3).toarray()
    heavy = similarities(users, items, 3, 1.0, 3, np.where(items == 2, 10.0, 1.0)).toarray()
    np.testing.assert_allclose(heavy[:, 2], 10 * plain[:, 2], rtol=1e-6)
    np.testing.assert_allclose(heavy[:, :2], plain[:, :2], rtol=1e-6)


# -- SASRec -----------------------------------------------------------------------------------------------------------


def events(people: int = 24, length: int = 7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    users = np.repeat(np.arange(people), length)
    return users, np.arange(people * length), np.tile(np.arange(length), people)  # an item names its event


def test_a_targets_share_of_the_losses_is_its_share_of_the_weights():
    users, items, times = events()
    weights = np.exp(np.random.default_rng(0).normal(size=len(items)) * 0.7)
    total = np.zeros(len(items))
    for epoch in range(1500):
        windows = windows_of_epoch(users, items, times, 3, 0, epoch, weights)
        assert windows.weights is not None
        for targets, shares, n in zip(
            windows.targets, windows.weights, windows.lengths.tolist(), strict=True
        ):
            assert shares[:n].mean() == pytest.approx(1)
            np.add.at(total, targets[:n], shares[:n])
    is_target = times > 0
    assert (total[~is_target] == 0).all()
    expected = weights * is_target / (weights * is_target).sum()
    found = total / total.sum()
    np.testing.assert_allclose(found[is_target], expected[is_target], rtol=0.12)


def test_the_weighted_loss_is_the_mean_of_weighted_cross_entropies():
    users, items, times = events(people=5)
    weights = np.linspace(0.2, 4, len(items))
    config = SasRecConfig(dim=8, heads=2, layers=1, max_items=6, dropout=0.0, label_smoothing=0.1)
    model = SasRec(len(items), config, seed=0).eval()
    pieces = Batches((users, items, times), 6, 5, 0, 2, weights)[0]
    found = float(sequence_loss(model, pieces).detach())
    losses, shares = [], []
    with torch.no_grad():
        table = model.item_table()
        for piece in pieces:
            states = model(table, torch.from_numpy(piece.items), torch.from_numpy(piece.lengths))
            for place, target, share in zip(piece.places, piece.targets, piece.weights, strict=True):
                logits = states.flatten(0, 1)[place] @ table.T
                one = functional.cross_entropy(logits[None], torch.tensor([target]), label_smoothing=0.1)
                losses.append(float(one))
                shares.append(share)
    assert found == pytest.approx(float(np.dot(losses, shares) / len(losses)), rel=1e-5)
    assert abs(found - float(np.mean(losses))) > 5e-4  # and not of plain ones

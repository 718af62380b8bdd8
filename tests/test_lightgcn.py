"""LightGCN against a graph worked by hand and against PyG's own layer; inductive vectors against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_geometric.nn import LGConv

from recsys.lightgcn import (
    LightGCN,
    LightGCNConfig,
    SymmetricProduct,
    bpr_loss,
    normalised_adjacency,
    sampled_softmax_loss,
    train_lightgcn,
)
from recsys.user_vectors import HistoryVectors

# user 0 has items 0 and 1; user 1 has items 1 and 2
USERS, ITEMS = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 2, 2])  # one edge twice: it counts once


def test_one_propagation_on_two_users_and_three_items_by_hand():
    """e_u0 = i0 / √(2·1) + i1 / √(2·2);  e_i1 = u0 / √(2·2) + u1 / √(2·2)."""
    adjacency = normalised_adjacency(USERS, ITEMS, 2, 3)
    x = torch.tensor([[1.0], [10.0], [100.0], [1000.0], [10000.0]])  # u0 u1 i0 i1 i2
    half, root = 0.5, 2**-0.5
    expected = [
        100 * root + 1000 * half,
        1000 * half + 10000 * root,
        1 * root,
        1 * half + 10 * half,
        10 * root,
    ]
    np.testing.assert_allclose((adjacency @ x)[:, 0].numpy(), expected, rtol=1e-6)


def test_two_layers_and_their_gradient_equal_pyg_lgconv():
    generator = np.random.default_rng(0)
    pairs = np.unique(np.stack([generator.integers(0, 20, 150), generator.integers(0, 30, 150)]), axis=1)
    model = LightGCN(normalised_adjacency(*pairs, 20, 30), 20, LightGCNConfig(dim=8, layers=2), seed=0)
    edges = torch.from_numpy(pairs).clone()
    edges[1] += 20
    edges = torch.cat([edges, edges.flip(0)], 1)
    conv = LGConv(normalize=True)
    start = model.embedding.detach().clone().requires_grad_()
    theirs = (start + conv(start, edges) + conv(conv(start, edges), edges)) / 3
    ours = model()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    torch.testing.assert_close(model.embedding.grad, start.grad, rtol=1e-5, atol=1e-6)


def test_symmetric_product_passes_gradcheck():
    adjacency = normalised_adjacency(USERS, ITEMS, 2, 3).double()
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: SymmetricProduct.apply(adjacency, value), (x,))


def test_losses_by_hand():
    users, positive, negative = (
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([[2.0, 0.0]]),
        torch.tensor([[0.0, 5.0]]),
    )
    assert bpr_loss(users, positive, negative).item() == pytest.approx(np.log1p(np.exp(-2.0)), rel=1e-6)
    # cosines 1 with the positive and 0 with the negative, at temperature 0.5
    loss = sampled_softmax_loss(users, positive, negative, 0.5).item()
    assert loss == pytest.approx(-np.log(np.exp(2) / (np.exp(2) + 1)), rel=1e-5)


def test_an_inductive_vector_is_lightgcn_for_a_user_without_a_row_of_their_own():
    """Put user 1's layer-0 row to zero: LightGCN's own vector for them must be what the message table gives."""
    model = LightGCN(normalised_adjacency(USERS, ITEMS, 2, 3), 2, LightGCNConfig(dim=6, layers=3), seed=3)
    with torch.no_grad():
        model.embedding[1] = 0
    messages = model.message_table().numpy()
    # user 1's higher layers reach them through items whose layers hold u1's own echo; the table holds the same
    expected = model()[1].detach().numpy()
    vectors, known = HistoryVectors(messages, None, "x").of_histories([np.array([1, 2])])
    assert known.all()
    np.testing.assert_allclose(vectors[0], expected / np.linalg.norm(expected), rtol=1e-4, atol=1e-6)


def test_items_without_an_edge_send_nothing():
    model = LightGCN(
        normalised_adjacency(np.array([0, 1]), np.array([0, 0]), 2, 2), 2, LightGCNConfig(dim=4), seed=0
    )
    messages = model.message_table().numpy()
    assert (messages[1] == 0).all()
    assert (messages[0] != 0).any()
    vectors, known = HistoryVectors(messages, None, "x").of_histories(
        [np.array([1]), np.array([0]), np.zeros(0, int)]
    )
    assert known.tolist() == [False, True, False]
    assert (vectors[[0, 2]] == 0).all()


@pytest.mark.parametrize("loss", ["bpr", "sampled_softmax"])
def test_two_tastes_are_learned(tmp_path, loss):
    """Users of the even items and users of the odd items: the held-out item of each is the one of their own kind."""
    users = np.repeat(np.arange(20), 9)
    held_out = 2 * (np.arange(20) % 10) + np.arange(20) % 2  # user u skips one item of their parity
    items = np.concatenate(
        [[item for item in range(20) if item % 2 == u % 2 and item != held_out[u]] for u in range(20)]
    )
    config = LightGCNConfig(dim=8, loss=loss, epochs=60, batch=64, negatives=16, patience=0)
    model, curves = train_lightgcn(users, items, 20, 20, config, 0, tmp_path, lambda model: 0.0)
    histories = [items[users == u] for u in range(20)]
    vectors, _ = HistoryVectors(model.message_table().numpy(), None, "x").of_histories(histories)
    scores = vectors @ model()[20:].detach().numpy().T
    for user, history in enumerate(histories):
        scores[user, history] = -np.inf
    assert (scores.argmax(1) == held_out).all()
    assert curves.losses[-1][1] < curves.losses[0][1]

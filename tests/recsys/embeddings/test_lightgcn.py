"""LightGCN against a graph worked by hand and against PyG's own layer; inductive vectors against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_geometric.nn import LGConv
from torch_geometric.nn.models import LightGCN as PyGLightGCN

from recsys.embeddings.lightgcn import (
    LightGCN,
    LightGCNConfig,
    MeanOfLayers,
    WeightedSquares,
    bpr_loss,
    edges_of_step,
    normalised_adjacency,
    sampled_softmax_loss,
    step_of_training,
    steps_of_epoch,
    train_lightgcn,
)
from recsys.embeddings.user_vectors import HistoryVectors
from recsys.seeds import torch_generator
from recsys.training import loop

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


def test_the_gradients_of_our_own_functions_pass_gradcheck():
    adjacency = normalised_adjacency(USERS, ITEMS, 2, 3).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    weights = torch.rand(5, dtype=torch.float64, generator=generator)
    for layers in (1, 3):
        assert torch.autograd.gradcheck(lambda value, k=layers: MeanOfLayers.apply(adjacency, value, k), (x,))
    assert torch.autograd.gradcheck(lambda value: WeightedSquares.apply(value, weights), (x,))
    squares = WeightedSquares.apply(x.detach(), weights)
    assert float(squares) == pytest.approx(float((x.detach().square().sum(1) * weights).sum()))


def test_a_bpr_step_has_the_loss_and_the_gradient_of_pygs_module():
    """`LightGCN.recommendation_loss` of torch-geometric, on the edges and negatives that our step drew."""
    generator = np.random.default_rng(1)
    users, items = np.unique(np.stack([generator.integers(0, 9, 60), generator.integers(0, 14, 60)]), axis=1)
    config = LightGCNConfig(dim=6, layers=3, loss="bpr", batch=16, l2=0.05)
    model = LightGCN(normalised_adjacency(users, items, 9, 14), 9, config, seed=0)
    step, steps = step_of_training(model, users, items, seed=5), steps_of_epoch(len(users), config)
    theirs = PyGLightGCN(9 + 14, 6, 3)
    theirs.embedding.weight.data.copy_(model.embedding.data)
    edges = torch.from_numpy(np.stack([users, items + 9]))
    order = torch.randperm(len(users), generator=torch_generator(5, "edges", 1))
    batch = edges[:, order[-(len(users) % 16) :]]  # the last, shorter batch of the second epoch
    negatives = torch.randint(
        9, 23, (batch.shape[1],), generator=torch_generator(5, "negatives", 2 * steps - 1)
    )
    label = torch.cat([batch, torch.stack([batch[0], negatives])], dim=1)
    positive, negative = theirs(torch.cat([edges, edges.flip(0)], 1), label).chunk(2)
    expected = theirs.recommendation_loss(positive, negative, node_id=batch.reshape(-1), lambda_reg=0.05)
    loss = step(2 * steps - 1)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(model.embedding.grad, theirs.embedding.weight.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("loss", ["bpr", "sampled_softmax"])
def test_a_killed_training_resumes_to_the_same_bytes(tmp_path, loss, monkeypatch):
    users, items = np.repeat(np.arange(30), 6), np.random.default_rng(0).integers(0, 40, 180)
    config = LightGCNConfig(dim=8, loss=loss, epochs=6, batch=64, negatives=16, patience=0)
    fit = loop.fit

    def often(*args, **kwargs):  # a checkpoint after every epoch
        return fit(*args, **kwargs | {"checkpoint_every_s": -1.0, "quiet": True})

    monkeypatch.setattr(loop, "fit", often)

    def train(folder, epochs_to_live=100):
        seen = []

        def validate(model):
            seen.append(0)
            if len(seen) == epochs_to_live:
                raise KeyboardInterrupt
            return float(model().sum())

        every = config.model_copy(update={"validate_every_epochs": 1})
        return train_lightgcn(users, items, 30, 40, every, 7, tmp_path / folder, validate)

    whole, curves = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("killed", epochs_to_live=4)
    resumed, resumed_curves = train("killed")
    assert torch.equal(whole.embedding, resumed.embedding)
    assert curves == resumed_curves


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


def test_an_epoch_has_its_most_of_steps_and_still_every_edge_once(monkeypatch):
    """Where edges are more than so many batches, batches grow; the default leaves small graphs as they were."""
    config = LightGCNConfig(batch=8)
    assert (edges_of_step(64 * 8, config), steps_of_epoch(64 * 8, config)) == (8, 64)
    assert (edges_of_step(64 * 8 + 1, config), steps_of_epoch(64 * 8 + 1, config)) == (9, 57)
    few = LightGCNConfig(batch=8, steps_per_epoch=3, dim=1, layers=1, loss="bpr")
    users, items = np.divmod(np.arange(40), 8)
    model = LightGCN(normalised_adjacency(users, items, 5, 8), 5, few, seed=0)
    with torch.no_grad():
        model.embedding.copy_(torch.arange(13.0)[:, None])  # a node's vector is its number
    monkeypatch.setattr(model, "forward", lambda: model.embedding)
    drawn: list[np.ndarray] = []

    def seen(user: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        drawn.append(torch.cat([user, positive - 5], 1).detach().numpy())
        return negative.sum() * 0

    monkeypatch.setattr("recsys.embeddings.lightgcn.bpr_loss", seen)
    step = step_of_training(model, users, items, seed=1)
    for index in range(steps_of_epoch(40, few)):
        step(index)
    assert [len(rows) for rows in drawn] == [14, 14, 12]
    assert sorted(map(tuple, np.concatenate(drawn).tolist())) == list(zip(users, items, strict=True))


def test_a_batch_that_has_grown_is_read_in_parts_with_the_loss_and_gradient_of_the_whole():
    generator = np.random.default_rng(0)
    users, items = generator.integers(0, 20, 90), generator.integers(0, 15, 90)
    graph = normalised_adjacency(users, items, 20, 15)
    found = []
    for batch in (90, 32):  # one step an epoch: of one part, or of three, the last one smaller
        config = LightGCNConfig(batch=batch, steps_per_epoch=1, dim=8, negatives=6, device="cpu")
        model = LightGCN(graph, 20, config, seed=1)
        loss = step_of_training(model, users, items, seed=2)(0)
        loss.backward()
        found.append((loss.detach(), model.embedding.grad))
    torch.testing.assert_close(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-7)

"""Rows that learn a distribution: the estimate against the whole sum, where they stand, what they may not know, and whom the weights fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from llm.backbone.vocabulary import PREFIX
from llm.prompts.builder import PromptBuilder, PromptConfig
from llm.stage1 import taught
from llm.stage1.soft import new_phi
from llm.stage1.taught import TaughtRows, Teacher, cross_entropies, ends_of_training, last
from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset
from recsys.data.splits import FIT, PERSONALIZE, UNUSED, VALIDATION
from recsys.embeddings.user_vectors import HistoryVectors
from tests.support.models import tiny_model
from tests.support.requests import make_requests

N, USERS, PAST = 30, 12, 6
VECTORS = np.random.default_rng(1).normal(size=(N, 5)).astype(np.float32)


def data(later: int = 0) -> Dataset:
    """Six FIT events of each user and two later ones, whose items `later` moves; user 3 has no FIT event."""
    users = np.repeat(np.arange(USERS), PAST + 2)
    items = np.random.default_rng(0).integers(0, N, len(users))
    roles = np.tile([FIT] * PAST + [PERSONALIZE, VALIDATION], USERS).astype(np.int8)
    roles[users == 3] = VALIDATION
    items = np.where(roles == FIT, items, (items + later) % N)
    catalogue = Catalogue(
        np.array([f"i{item}" for item in range(N)], object), [f"T{item}" for item in range(N)], {}
    )
    names = np.array([f"u{user}" for user in range(USERS)], object)
    times = np.tile(np.arange(PAST + 2), USERS)
    queries = pd.DataFrame(columns=["user", "item", "timestamp", "query"])
    return Dataset(names, catalogue, users, items, times, np.ones(len(users), np.float32), roles, queries)


def teacher() -> Teacher:
    return Teacher({"one": (HistoryVectors(VECTORS, 2.0, "one"), VECTORS)})


def rows(dataset: Dataset, model, batch: int = 8, left_out: tuple[int, ...] = ()) -> TaughtRows:
    settings = PromptConfig(recent_items=50, header="")
    builder = PromptBuilder(settings, dataset.catalogue, model.encode, 256, model.item_tokens)
    return TaughtRows(dataset, builder, teacher(), 3, batch, 4, 2, np.array(left_out, np.int64))


@pytest.mark.parametrize("form", ["vector, depth", "codes, depth"])
def test_over_all_draws_the_estimate_is_the_cross_entropy_of_the_whole_catalogue(form):
    model, generator = tiny_model(form), torch.Generator().manual_seed(0)
    states = torch.randn(3, model.hidden_size, generator=generator)
    wanted = torch.randn(3, N, generator=generator).mul(2).softmax(1)
    wanted[0, 5:20] = 0  # excluded
    wanted = wanted / wanted.sum(1, keepdim=True)
    log_p = model.path_log_probs(states.repeat_interleave(N, 0)[:, None], torch.arange(N).repeat(3)).view(
        3, N
    )
    everywhere = (torch.arange(20_000) + 0.5).div(20_000).repeat(3, 1)
    found = cross_entropies(model, states, wanted, everywhere)
    torch.testing.assert_close(found, -(wanted * log_p).sum(1), atol=2e-3, rtol=0)


def test_the_root_is_asked_whole_and_what_is_drawn_is_what_stands_at_its_share():
    """One draw for each of two items that halve the mass: each way is asked once, so nothing is left to chance."""
    model = tiny_model("codes, depth")
    states = torch.randn(1, model.hidden_size, generator=torch.Generator().manual_seed(4))
    order = model.trie.leaf_item[torch.tensor([2, 25])]  # as the leaves lie
    wanted = torch.zeros(1, N)
    wanted[0, order] = 0.5
    log_p = model.path_log_probs(states.expand(2, -1)[:, None], order)
    found = cross_entropies(model, states, wanted, torch.tensor([[0.25, 0.75]]))
    torch.testing.assert_close(found, -log_p.mean()[None])


def test_rows_stand_where_training_ends():
    dataset = data()
    events = ends_of_training(dataset)
    assert dataset.users[events].tolist() == [user for user in range(USERS) if user != 3]
    for event in events:
        request = dataset.request(int(event), True)
        own = dataset.items[(dataset.users == dataset.users[event]) & (dataset.roles == FIT)]
        assert request.history.tolist() == own.tolist()


def test_no_row_stands_before_an_event_that_the_retrievers_have_learned():
    """An event for histories alone, or above a user's cap, stands between FIT ones (user 1); of user 2 what follows is of one moment with the last."""
    dataset = data()
    roles, times = dataset.roles.copy(), dataset.times.copy()
    roles[(dataset.users == 1) & (times == 3)] = UNUSED
    times[(dataset.users == 2) & (times == PAST)] = PAST - 1
    dataset = replace(dataset, roles=roles, times=times)
    events = ends_of_training(dataset)
    assert dataset.users[events].tolist() == [user for user in range(USERS) if user not in (2, 3)]
    for event in events:
        own = np.flatnonzero((dataset.users == dataset.users[event]) & (dataset.roles == FIT))
        assert dataset.history_end[event] > own.max()


def test_processes_that_share_a_batch_learn_what_one_would(monkeypatch):
    """Also where the first has an odd number of rows."""
    model = tiny_model("vector, depth")
    prefix = new_phi(model, HistoryVectors(VECTORS, 4.0, "space"), 6, seed=2)
    made = rows(data(), model, batch=6)
    whole = made.loss(model, prefix, 0).item()
    parts = []
    for share in (slice(0, 3), slice(3, 6)):
        monkeypatch.setattr(taught.distributed, "share", lambda n, share=share: share)
        parts.append(made.loss(model, prefix, 0).item())
    assert np.mean(parts) == pytest.approx(whole, abs=1e-5)


def test_nothing_of_what_came_next_is_read_and_validations_users_are_left_out():
    model = tiny_model("vector, depth")
    found = [rows(dataset, model).loss(model, None, 1).item() for dataset in (data(), data(later=7))]
    assert found[0] == found[1]
    dataset = data()
    left_out = np.flatnonzero((dataset.users == 5) & (dataset.roles == VALIDATION))
    asked = {request.user for request in rows(dataset, model, left_out=tuple(left_out)).requests}
    assert asked == set(range(USERS)) - {3, 5}


def test_every_other_row_stands_behind_its_soft_token_and_shows_few(monkeypatch):
    model, seen = tiny_model("vector, depth"), []
    prefix = new_phi(model, HistoryVectors(VECTORS, 4.0, "space"), 6, seed=2)
    real = type(model).pack
    monkeypatch.setattr(
        type(model), "pack", lambda self, rows, *more: (seen.append(rows), real(self, rows, *more))[1]
    )
    loss = rows(data(), model).loss(model, prefix, 0)
    loss.backward()
    plain, soft = seen
    assert (len(plain), len(soft)) == (4, 4)
    assert all(PREFIX not in row for row in plain)
    assert all(row.count(PREFIX) == 1 and row[0] == PREFIX and len(row) <= 2 + 2 for row in soft)
    assert max(map(len, plain)) == 1 + PAST
    assert sum(parameter.grad.abs().sum() for parameter in prefix.parameters()) > 0


def test_what_a_row_learns_is_the_teacher_of_the_history_that_it_is_about(monkeypatch):
    model, seen = tiny_model("vector, depth"), []
    real = taught.cross_entropies
    monkeypatch.setattr(taught, "cross_entropies", lambda *given: (seen.append(given[2]), real(*given))[1])
    dataset = data()
    rows(dataset, model, batch=11).loss(model, None, 0)
    allowed = []
    for event in ends_of_training(dataset):
        whole = dataset.request(int(event), dataset.exclude_seen)
        histories = [last(whole, count) for count in range(1, PAST + 1)]
        assert all(one.exclude is whole.exclude for one in histories)
        allowed.append(torch.from_numpy(teacher().scores(histories)).softmax(1))
    for row in seen[0]:
        assert any(torch.isclose(row, way, atol=1e-6).all(1).any() for way in allowed)


def test_weights_and_half_lives_are_those_that_made_the_targets():
    generator = np.random.default_rng(2)
    other = generator.normal(size=(N, 4)).astype(np.float32)
    made = Teacher(
        {"a": (HistoryVectors(VECTORS, 1.0, "a"), VECTORS), "b": (HistoryVectors(other, 1.0, "b"), other)}
    )
    made.weights = {"a": 1.5, "b": 0.7}
    requests = [
        replace(make_requests(1)[0], history=generator.integers(0, N, 8), exclude=generator.integers(0, N, 2))
        for _ in range(4000)
    ]
    shares = torch.from_numpy(made.scores(requests)).softmax(1)
    assert all((shares[row, one.exclude] == 0).all() for row, one in enumerate(requests))
    targets = torch.multinomial(shares, 1, generator=torch.Generator().manual_seed(0))[:, 0].numpy()
    learned = Teacher(
        {"a": (HistoryVectors(VECTORS, None, "a"), VECTORS), "b": (HistoryVectors(other, 10.0, "b"), other)}
    )
    nats = learned.fit(requests, targets)
    assert learned.as_dict()["half_life_items"] == {"a": 1.0, "b": 1.0}
    assert learned.weights["a"] == pytest.approx(1.5, abs=0.1)
    assert learned.weights["b"] == pytest.approx(0.7, abs=0.1)
    scores = torch.from_numpy(learned.scores(requests)).log_softmax(1)
    assert nats == pytest.approx(
        -scores[torch.arange(4000), torch.from_numpy(targets)].mean().item(), abs=1e-4
    )


def test_no_history_and_too_many_probabilities_are_refused(monkeypatch):
    model = tiny_model("vector, depth")
    with pytest.raises(ValueError, match="no user has a training history"):
        rows(data(), model, left_out=tuple(range(8 * USERS)))
    monkeypatch.setattr(taught, "MOST", 100)
    with pytest.raises(ValueError, match=r"taught_batch of 8 rows × 30 items"):
        rows(data(), model)
    with pytest.raises(ValueError, match="at least one retriever"):
        Teacher({})

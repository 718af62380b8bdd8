"""Who moves which way: one step of each objective on two items."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llm.align.objectives import engagement_loss, kto_loss
from llm.align.targets import Feedback, Labelled, Reference, target_log_probs
from llm.backbone.load import BackboneConfig, load_backbone, weights_hash
from llm.backbone.sid_model import SidModel
from llm.backbone.vocabulary import SidRows
from llm.prompts.builder import PromptBuilder, PromptConfig
from llm.prompts.prefixes import E2P, UserPrefix
from llm.prompts.reading import Reading
from recsys.data.catalogue import Catalogue
from semantic_ids.trie import Trie
from tests.support.requests import make_requests

# -- a world of two items -----------------------------------------------------------------------------------------


class _Vectors:
    """Two users, two vectors."""

    dim, space = 4, "hand-made"

    def vectors(self, requests):
        users = np.array([request.user for request in requests])
        return np.eye(2, 4, dtype=np.float32)[users], np.ones(len(users), bool)


@pytest.fixture
def two_items():
    """A frozen random model over two items; user 0 likes item 0 and dislikes item 1, user 1 the other way round."""
    backbone = load_backbone(BackboneConfig(name="tiny-random", device="cpu"))
    rows = SidRows((2, 2), backbone.hidden_size)
    rows.start_from([None] * 2, norm=1.0, seed=3)
    model = SidModel(backbone, rows, Trie(np.array([[0, 0], [1, 1]]), (2, 2))).eval().requires_grad_(False)
    builder = PromptBuilder(
        PromptConfig(), Catalogue(["a", "b"], ["A", "B"], {}), model.encode, model.bos_id, model.item_tokens
    )
    empty = [replace(one, history=one.history[:0], history_times=one.history[:0], exclude=one.history[:0])
             for one in make_requests(2)]  # fmt: skip
    instances = SimpleNamespace(
        requests=[empty[0], empty[0], empty[1], empty[1]],
        lists=[np.array([0]), np.array([1]), np.array([1]), np.array([0])],
        labels=np.array([True, False, True, False]),
    )
    return model, builder, instances


@pytest.mark.parametrize("kind", ["engagement", "kto"])
def test_a_liked_item_gains_and_a_disliked_one_loses(two_items, kind, tmp_path):
    """Through the frozen model and a prefix made from the user's vector; and the backbone gets no gradient."""
    model, builder, some = two_items
    prefix = UserPrefix(E2P(4, 6, 64, norm=1.0, seed=0), _Vectors())
    reading, plain = Reading(model, builder, prefix), Reading(model, builder)
    before, hash_before = target_log_probs(reading, some.requests, some.lists).detach(), weights_hash(model)
    known = target_log_probs(plain, some.requests, some.lists)
    reference = Reference(None, lambda seed: plain, lambda seed: "plain", tmp_path, 1)  # type: ignore[arg-type]
    weights = {"alpha": 1.0} if kind == "engagement" else {"desirable": 1.0, "undesirable": 1.0}
    objective = Feedback(None, kind, reference, 0.5, weights)  # type: ignore[arg-type]
    instances = labelled(some)
    optimizer = torch.optim.Adam(prefix.parameters(), lr=3e-3)
    first = None
    for _ in range(30):
        optimizer.zero_grad()
        loss = objective._loss(reading, instances, np.arange(4), slice(0, 4), known, 0, torch.divide)
        loss.backward()
        optimizer.step()
        first = float(loss) if first is None else first
    after = target_log_probs(reading, some.requests, some.lists).detach()
    moved = (after - before).numpy()
    assert (moved[some.labels] > 0.05).all(), moved
    assert (moved[~some.labels] < -0.05).all(), moved
    assert float(loss) < first
    assert all(parameter.grad is None for parameter in model.parameters())
    assert weights_hash(model) == hash_before


def labelled(some) -> Labelled:
    made = Labelled.__new__(Labelled)
    made.requests, made.lists, made.labels, made.left_out = some.requests, some.lists, some.labels, 0
    return made


def test_one_step_pushes_both_ways_at_once(two_items):
    """The gradient with respect to log π is negative (raise it) exactly for what was engaged with."""
    model, builder, some = two_items
    logp = target_log_probs(Reading(model, builder), some.requests, some.lists).requires_grad_()
    engaged = torch.from_numpy(some.labels)
    for loss in (
        engagement_loss(logp, logp.detach(), engaged, 0.1, 1.0),
        kto_loss(logp, logp.detach(), engaged, torch.zeros(()), 0.1, 1.0, 1.0),
    ):
        (gradient,) = torch.autograd.grad(loss, logp)
        assert (torch.sign(gradient) == torch.where(engaged, -1.0, 1.0)).all()

"""int8 weights: the measured divergence against the exact one, and refusals."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from llm.backbone.sid_model import SidModel
from llm.decoding import scoring
from llm.decoding.int8 import quantisable, to_int8
from serving.answering.methods import Methods
from serving.answering.recommender import Recommender


@pytest.fixture
def methods(small_run) -> Methods:
    config, run = small_run
    return Methods(run, config)


def whole_distribution(model: SidModel, prompts) -> np.ndarray:
    n = model.trie.n_items
    return np.stack([scoring.log_probs(model, [prompt] * n, np.arange(n))[:, 0] for prompt in prompts])


def test_the_effect_is_the_divergence_between_the_two_distributions(methods):
    data = methods.dataset
    requests = data.requests(data.events(2)[:20], False)
    recommender = methods.build("no_context")
    model, prompts = methods.model, [methods.world.builder.prompt(request) for request in requests]
    with torch.no_grad():
        for name in quantisable(
            model
        ):  # sharper than two random layers are, so that there is something to measure
            model.inner.get_submodule(name).weight.mul_(3.0)
    before, hashes = whole_distribution(model, prompts), copy.deepcopy(model.rows.state_dict())
    effect = to_int8(recommender, requests)
    after = whole_distribution(model, prompts)
    exact = (np.exp(before) * (before - after)).sum(1).mean()
    assert exact > 0
    assert effect.kl == pytest.approx(exact, abs=4 * effect.kl_error + 1e-4)
    variation = 0.5 * np.abs(np.exp(before) - np.exp(after)).sum(1).mean()
    assert effect.total_variation == pytest.approx(variation, rel=0.3)
    np.testing.assert_allclose(np.exp(after).sum(1), 1, rtol=1e-4)
    assert all(torch.equal(value, model.rows.state_dict()[name]) for name, value in hashes.items())
    assert f"{effect.kl:.4f}" in str(effect)
    with pytest.raises(ValueError, match="quantised already"):
        to_int8(recommender, requests)


def test_requests_are_needed(methods):
    with pytest.raises(ValueError, match="need requests"):
        to_int8(methods.build("no_context"), [])


def test_a_service_can_ask_for_it_and_is_told_what_it_does(small_run, capsys):
    _, run = small_run
    found = Recommender.load(run.path, int8=True).recommend("u3", n=5, method="e2p")
    assert len(found) == 5
    assert "int8 weights" in capsys.readouterr().err

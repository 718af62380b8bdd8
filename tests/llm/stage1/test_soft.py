"""Soft tokens as a trained mode: the rows against scoring them one by one, what conditions them, and where φ starts from."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llm.backbone.conditions import Condition
from llm.backbone.vocabulary import PREFIX
from llm.decoding import scoring
from llm.methods.e2p import E2PConfig, StaticPrefixConfig
from llm.prompts.builder import PromptBuilder, PromptConfig
from llm.stage1.soft import SoftRows, StartingPhi, load_phi, new_phi, save_phi
from recsys.data.phrases import Phrases
from recsys.data.splits import FIT
from recsys.embeddings.user_vectors import HistoryVectors
from tests.support.models import tiny_model
from tests.support.prompts import N, dataset

MESSAGES = np.random.default_rng(1).normal(size=(N, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return tiny_model("vector, depth").eval()


def rows(model, data, batch: int = 40, longest: int = 3, query_share: float = 0.0) -> SoftRows:
    settings = PromptConfig(recent_items=7)
    builder = PromptBuilder(settings, data.catalogue, model.encode, 256, model.item_tokens)
    return SoftRows(data, builder, Phrases(data), FIT, 3, batch, longest, query_share)


def prefix_of(model, half_life: float | None = 4.0):
    return new_phi(model, HistoryVectors(MESSAGES, half_life, "space"), 6, seed=2)


def read_rows(model, soft: SoftRows, step: int, monkeypatch):
    """The prompts, targets and soft tokens of a step, as the model is asked."""
    seen = {}
    real = type(model).item_log_probs

    def asked(self, prompts, items, condition, constraints=None):
        seen.update(prompts=prompts, items=items, prefix=condition.prefix, known=condition.known)
        return real(self, prompts, items, condition, constraints)

    monkeypatch.setattr(type(model), "item_log_probs", asked)
    loss = soft.loss(model, prefix_of(model), step)
    monkeypatch.undo()
    return seen, loss


def test_the_loss_is_the_mean_over_rows_scored_one_by_one(model, monkeypatch):
    seen, loss = read_rows(model, rows(model, dataset()), 0, monkeypatch)
    assert len(seen["items"]) == 40
    values = [
        scoring.log_probs(
            model,
            [prompt],
            np.array([item]),
            Condition(seen["prefix"][at : at + 1].detach()),
        )[0, 0]
        for at, (prompt, item) in enumerate(zip(seen["prompts"], seen["items"], strict=True))
    ]
    assert loss.item() == pytest.approx(-np.mean(values), rel=1e-4)


def test_a_row_is_one_token_a_few_last_items_and_the_vector_of_the_whole_past(model, monkeypatch):
    """And nothing of the target's moment or later, in either."""
    data, lengths = dataset(), []
    soft = rows(model, data)
    seen, _ = read_rows(model, soft, 0, monkeypatch)
    events = {
        (int(data.items[event]), tuple(data.request(int(event), False).history)) for event in soft.events
    }
    phi = prefix_of(model)
    for at, (prompt, item) in enumerate(zip(seen["prompts"], seen["items"], strict=True)):
        assert prompt[0] == PREFIX
        assert PREFIX not in prompt[1:]
        shown = [token - model.text_size for token in prompt if token >= model.text_size]
        lengths.append(len(shown))
        pasts = [
            past
            for target, past in events
            if target == item and list(past[len(past) - len(shown) :]) == shown
        ]
        tokens = [
            phi.phi(torch.from_numpy(HistoryVectors(MESSAGES, 4.0, "").of_histories([np.array(past)])[0]))
            for past in pasts
        ]
        assert any(torch.allclose(seen["prefix"][at], token[0], atol=1e-6) for token in tokens)
    assert set(lengths) == {0, 1, 2, 3}
    assert lengths.count(0) > lengths.count(3)  # log-uniform: .43 and .14 of them


def test_a_step_is_drawn_from_its_number_and_an_epoch_sees_every_event_once(model, monkeypatch):
    soft = rows(model, dataset())
    one, _ = read_rows(model, soft, 1, monkeypatch)
    again, _ = read_rows(model, soft, 1, monkeypatch)
    assert one["prompts"] == again["prompts"]
    assert not np.array_equal(one["items"], read_rows(model, soft, 2, monkeypatch)[0]["items"])
    steps = -(-len(soft.events) // 40)
    items = np.concatenate([read_rows(model, soft, step, monkeypatch)[0]["items"] for step in range(steps)])
    assert sorted(items) == sorted(dataset().items[soft.events])
    starts = dataset().offsets[dataset().users[soft.events]]
    assert (dataset().history_end[soft.events] > starts).all()


def test_some_rows_carry_a_query_about_their_item(model, monkeypatch):
    seen, _ = read_rows(model, rows(model, dataset(), query_share=0.5), 0, monkeypatch)
    texts = [bytes(t for t in prompt if 0 <= t < 256).decode() for prompt in seen["prompts"]]
    asked = [("Query:" in text, item) for text, item in zip(texts, seen["items"], strict=True)]
    assert 8 <= sum(one for one, _ in asked) <= 32
    for text, item in zip(texts, seen["items"], strict=True):
        if "Query:" in text:
            said = text.split("Query: ")[1]
            assert {"Even", "Odd"}.isdisjoint({said}) or said == ("Even", "Odd")[item % 2]


def test_processes_that_share_a_batch_ask_what_one_would(model, monkeypatch):
    made = rows(model, dataset(), query_share=0.5)
    whole, parts = read_rows(model, made, 0, monkeypatch)[0]["prompts"], []
    for share in (slice(0, 13), slice(13, 40)):
        with monkeypatch.context() as m:
            m.setattr("llm.stage1.soft.distributed.share", lambda n, share=share: share)
            parts += read_rows(model, made, 0, m)[0]["prompts"]
    assert parts == whole


def test_no_event_with_a_history_is_refused(model):
    data = dataset()
    alone = replace(
        data, roles=np.where(data.history_end > data.offsets[data.users], 1, data.roles).astype(np.int8)
    )
    with pytest.raises(ValueError, match="no training event has a history"):
        rows(model, alone)


def test_phi_learns_along_and_is_what_stage_2_starts_from(model, tmp_path):
    soft, prefix = rows(model, dataset()), prefix_of(model)
    soft.loss(model, prefix, 0).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in prefix.parameters())
    (tmp_path / "adapt").mkdir()
    save_phi(prefix, tmp_path / "adapt")
    left = StartingPhi("space", 6, {name: value.detach() for name, value in prefix.phi.state_dict().items()})
    world = SimpleNamespace(
        users=HistoryVectors(MESSAGES, 4.0, "space"),
        model=SimpleNamespace(hidden_size=64),
        embedding_norm=1.0,
        phi=left,
    )
    started = E2PConfig(bottleneck=6).new(world, 0)
    static = StaticPrefixConfig(bottleneck=6).new(world, 0)
    for name, value in left.state.items():
        assert torch.equal(started.phi.state_dict()[name], value)
        assert torch.equal(static.phi.phi.state_dict()[name], value)
    elsewhere = SimpleNamespace(**vars(world) | {"users": HistoryVectors(MESSAGES, 4.0, "another")})
    for other in (
        E2PConfig(bottleneck=6).new(elsewhere, 0),
        E2PConfig(bottleneck=6, start="random").new(world, 0),
        E2PConfig(bottleneck=7).new(world, 0),
    ):
        assert not any(
            torch.equal(value, left.state[name])
            for name, value in other.phi.state_dict().items()
            if name in ("w1.weight", "w2.weight")
        )


def test_a_run_without_soft_rows_has_no_phi(tmp_path):
    (tmp_path / "adapt").mkdir()
    assert load_phi(SimpleNamespace(path=tmp_path)) is None

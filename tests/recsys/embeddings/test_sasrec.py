"""SASRec against slow loops and torch's own parts; what it learns in worlds where the answer is known; kills."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from recsys.embeddings.config import EmbedConfig
from recsys.embeddings.retrieval import retrieval_hits
from recsys.embeddings.sasrec import (
    Block,
    Ranking,
    SasRec,
    SasRecConfig,
    ndcg_at,
    sequence_loss,
    train_sasrec,
)
from recsys.embeddings.sequence_vectors import (
    SasRecRetrieval,
    SequenceVectors,
    load_sequence_vectors,
    save_sasrec,
)
from recsys.embeddings.sequences import Windows, padded
from recsys.recommender import Request
from recsys.seeds import torch_draws
from tests.support.contract import check_contract, contract_requests
from tests.support.requests import make_requests

N = 14


SMALL = SasRecConfig(dim=8, layers=2, heads=2, max_items=6, dropout=0.3, device="cpu")


def a_model(config: SasRecConfig = SMALL, n_items: int = N, text: np.ndarray | None = None) -> SasRec:
    """Random, with weights large enough that every part shows."""
    model = SasRec(n_items, config, seed=0, text=text).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model


def states(model: SasRec, items: list[int]) -> torch.Tensor:
    return model(model.item_table(), torch.tensor([items]), torch.tensor([len(items)]))[0]


# -- the network ------------------------------------------------------------------------------------------------


def test_attention_equals_torchs_multihead_attention():
    block = Block(12, 3, 0.0).eval()
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(block.qkv.weight)
        theirs.in_proj_bias.copy_(block.qkv.bias.normal_(generator=torch.Generator().manual_seed(0)))
        theirs.out_proj.weight.copy_(block.out.weight)
        theirs.out_proj.bias.copy_(block.out.bias)
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(2))
    hidden = torch.ones(5, 5, dtype=torch.bool).triu(1)
    expected, _ = theirs(x, x, x, attn_mask=hidden, need_weights=False)
    torch.testing.assert_close(block.out(block.attention(x)), expected, rtol=1e-5, atol=1e-6)


def test_a_block_equals_torchs_encoder_layer():
    """Norms behind, GELU, four times as wide: `nn.TransformerEncoderLayer` with its defaults but for GELU."""
    block = Block(8, 2, 0.0).eval()
    theirs = nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True).eval()
    pairs = {
        "self_attn.in_proj_weight": block.qkv.weight, "self_attn.in_proj_bias": block.qkv.bias,
        "self_attn.out_proj.weight": block.out.weight, "self_attn.out_proj.bias": block.out.bias,
        "linear1.weight": block.widen.weight, "linear1.bias": block.widen.bias,
        "linear2.weight": block.narrow.weight, "linear2.bias": block.narrow.bias,
        "norm1.weight": block.attention_norm.weight, "norm1.bias": block.attention_norm.bias,
        "norm2.weight": block.forward_norm.weight, "norm2.bias": block.forward_norm.bias,
    }  # fmt: skip
    theirs.load_state_dict({name: value.detach() for name, value in pairs.items()})
    x = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(2))
    mask = nn.Transformer.generate_square_subsequent_mask(4)
    torch.testing.assert_close(block(x), theirs(x, src_mask=mask, is_causal=True), rtol=1e-5, atol=1e-6)


def test_no_state_sees_a_later_item_or_padding():
    model = a_model()
    whole, other = states(model, [3, 1, 4, 1]), states(model, [3, 1, 9, 2])
    torch.testing.assert_close(whole[:2], other[:2], rtol=0, atol=0)
    assert (whole[2] - other[2]).abs().max() > 1e-2
    items, lengths = padded([np.array([3, 1]), np.array([5, 6, 7, 8])], 6)
    for filler in (0, 9):
        items[0, 2:] = filler
        batch = model(model.item_table(), torch.from_numpy(items), torch.from_numpy(lengths))
        torch.testing.assert_close(batch[0, :2], states(model, [3, 1]), rtol=1e-5, atol=1e-6)


def test_a_long_history_reads_as_its_last_items_alone():
    """Positions are counted from the end; and the order of what is read matters."""
    vectors = SequenceVectors(a_model(), a_model().item_table().detach(), "x", False)
    long = np.array([9, 8, 7, 1, 2, 3, 4, 5, 6])
    many, known = vectors.of_histories([long, long[-6:], long[-6:][::-1].copy(), long[:0]])
    np.testing.assert_allclose(many[0], many[1], atol=1e-6)
    assert np.abs(many[0] - many[2]).max() > 1e-2
    assert known.tolist() == [True, True, True, False]
    assert (many[3] == 0).all()


@pytest.mark.parametrize("temperature", [None, 0.2])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_equals_a_loop_over_two_sequences(temperature, smoothing):
    model = a_model(SMALL.model_copy(update={"temperature": temperature, "label_smoothing": smoothing}))
    sequences = [[3, 1, 4, 1, 5], [9, 2, 6]]
    table, losses = model.item_table(), []
    for items in sequences:
        for place, state in enumerate(states(model, items[:-1])):
            logits = table @ state
            if temperature is not None:
                logits = functional.cosine_similarity(table, state[None]) / temperature
            losses.append(
                functional.cross_entropy(logits, torch.tensor(items[place + 1]), label_smoothing=smoothing)
            )
    inputs, lengths = padded([np.array(items[:-1]) for items in sequences], 6)
    following, _ = padded([np.array(items[1:]) for items in sequences], 6)
    for pieces in (1, 2):
        loss = sequence_loss(model, Windows(inputs, following, lengths).batch(0, 2, pieces))
        torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=1e-5, atol=1e-6)


def test_with_text_an_item_is_its_row_and_the_projection_of_its_text():
    text = np.random.default_rng(0).normal(size=(N, 5)).astype(np.float32)
    model = a_model(SMALL.model_copy(update={"text": True}), text=text)
    expected = model.free.detach().numpy() + (text - text.mean(0)) @ model.project.weight.detach().numpy().T
    np.testing.assert_allclose(model.item_table().detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"set embed\.text_encoder"):
        SasRec(N, SMALL.model_copy(update={"text": True}), 0)


def test_dropout_is_that_of_the_step_and_of_nothing_else():
    device, drawn = torch.device("cpu"), []
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    for seed, step in ((0, 3), (0, 3), (0, 4), (1, 3)):
        with torch_draws(device, seed, "dropout", step):
            drawn.append(functional.dropout(torch.ones(64), 0.5))
    assert torch.equal(torch.rand(1), expected)  # outside nothing was drawn
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[3])


@pytest.mark.parametrize("temperature", [None, 0.1])
def test_ranks_equal_a_loop(temperature):
    model = a_model(SMALL.model_copy(update={"temperature": temperature}), n_items=30)
    requests = make_requests(40)
    targets = np.array([next(i for i in range(30) if i not in r.exclude) + r.user % 2 for r in requests])
    ranks = Ranking(requests, targets, 6).ranks(model)
    vectors = SequenceVectors(model, model.item_table().detach(), "x", False)
    assert any(target in request.exclude for request, target in zip(requests, targets, strict=True))
    for request, target, rank in zip(requests, targets, ranks, strict=True):
        if len(request.history) and target not in request.exclude:
            scores = vectors.items @ vectors.vectors([request])[0][0]
            assert rank == sum(scores[i] >= scores[target] for i in range(30) if i not in request.exclude)
        else:
            assert rank == 30
    hits = retrieval_hits(vectors.vectors(requests)[0], vectors.items, requests, targets, 7)
    assert (hits == (ranks <= 7)).all()
    assert ndcg_at(np.array([1, 3, 11]), 10) == pytest.approx((1 + 0.5) / 3)


# -- learning ---------------------------------------------------------------------------------------------------


def a_cycle(n_users: int = 24, length: int = 9, n_items: int = 20):
    """Every user walks on in one circle of items; the answer is the item after the last."""
    start = np.arange(n_users) * 7 % n_items
    walks = (start[:, None] + np.arange(length + 1)) % n_items
    users, times = np.repeat(np.arange(n_users), length), np.tile(np.arange(length), n_users)
    requests = [
        Request(f"r{u}", u, length, walk[:-1], np.arange(length), exclude=walk[:1])
        for u, walk in enumerate(walks)
    ]
    return users, walks[:, :-1].reshape(-1), times, requests, walks[:, -1]


def learned(tmp_path, update: dict, text: np.ndarray | None = None):
    users, items, times, requests, targets = a_cycle()
    settings = {"dim": 16, "batch": 8, "steps": 90, "learning_rate": 1e-2, "warmup": 5, "validate_every": 30}
    config = SMALL.model_copy(update=settings | {"dropout": 0.1, "max_items": 20} | update)
    ranking = Ranking(requests, targets, config.max_items)
    return train_sasrec(users, items, times, 20, config, 0, tmp_path, ranking, text), requests, targets


@pytest.mark.parametrize(
    "update", [{}, {"temperature": 0.1}, {"label_smoothing": 0.1, "max_items": 4}, {"text": True}]
)
def test_a_circle_is_learned(tmp_path, update):
    text = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    (model, curves), requests, targets = learned(tmp_path, update, text)
    assert (Ranking(requests, targets, model.config.max_items).ranks(model) == 1).all()
    assert curves.best_value == 1.0
    assert curves.losses[-1][1] < curves.losses[0][1] / 2


def test_text_reaches_an_item_that_nobody_has_had(tmp_path):
    """Two tastes, told apart by texts alone for the two new items: each user's taste finds the one of its kind."""
    generator = np.random.default_rng(0)
    n_users, length = 30, 8
    kinds = np.arange(n_users) % 2
    walks = np.stack([generator.permutation(10)[:length] * 2 + kind for kind in kinds])  # items 0..19
    text = np.stack([1.0 - np.arange(22) % 2, np.arange(22) % 2], 1).astype(np.float32)  # 20 and 21 are new
    requests = [Request(f"r{u}", u, 99, walk, np.arange(length)) for u, walk in enumerate(walks)]
    users, times = np.repeat(np.arange(n_users), length), np.tile(np.arange(length), n_users)
    right = {}
    for with_text in (True, False):
        config = SMALL.model_copy(
            update={
                "text": with_text,
                "dim": 16,
                "steps": 150,
                "batch": 10,
                "learning_rate": 1e-2,
                "warmup": 5,
            }
        )
        held_out = Ranking(requests, walks[:, 0], 6)
        model, _ = train_sasrec(
            users, walks.reshape(-1), times, 22, config, 0, tmp_path / str(with_text), held_out, text
        )
        vectors = SequenceVectors(model, model.item_table(), "x", False)
        scores = vectors.vectors(requests)[0] @ vectors.items.T
        right[with_text] = float(((scores[:, 21] > scores[:, 20]) == (kinds == 1)).mean())
    assert right[True] == 1.0
    assert right[False] < 0.9


def test_a_killed_training_ends_in_the_same_bytes(tmp_path, monkeypatch):
    (whole, curves), _, _ = learned(tmp_path / "whole", {"steps": 60, "validate_every": 20})

    class Killed(Exception):
        pass

    import recsys.embeddings.sasrec

    honest, calls = recsys.embeddings.sasrec.sequence_loss, []

    def dying(*arguments):
        calls.append(1)
        if len(calls) == 47:
            raise Killed
        return honest(*arguments)

    fit = recsys.embeddings.sasrec.loop.fit
    monkeypatch.setattr(recsys.embeddings.sasrec, "sequence_loss", dying)
    monkeypatch.setattr(
        recsys.embeddings.sasrec.loop,
        "fit",
        lambda *a, **k: fit(*a, **k, log_every=5, checkpoint_every_s=0.0),
    )
    with pytest.raises(Killed):
        learned(tmp_path / "killed", {"steps": 60, "validate_every": 20})
    (resumed, again), _, _ = learned(tmp_path / "killed", {"steps": 60, "validate_every": 20})
    assert len(calls) == 47 + 60 - 45  # it went on from step 45
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert again.validation == curves.validation


# -- vectors and recommender ------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [None, 0.3])
def test_what_is_saved_answers_as_what_was_trained(tmp_path, temperature):
    text = np.random.default_rng(0).normal(size=(N, 5)).astype(np.float32)
    model = a_model(SMALL.model_copy(update={"temperature": temperature, "text": True}), text=text)
    save_sasrec(model, tmp_path, "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]
    loaded = load_sequence_vectors(
        tmp_path / "model.safetensors", tmp_path / "model.json", "space", unit_length=False
    )
    histories = [np.array([1, 2, 3]), np.array([4])]
    ours = SequenceVectors(model, model.item_table().detach(), "space", False)
    np.testing.assert_array_equal(loaded.of_histories(histories)[0], ours.of_histories(histories)[0])
    np.testing.assert_array_equal(loaded.items, ours.items)
    logits = model.queries(states(model, [1, 2, 3])[-1:]) @ model.outputs(model.item_table()).T
    np.testing.assert_allclose(
        loaded.of_histories(histories)[0][0] @ loaded.items.T,
        logits[0].detach().numpy(),
        rtol=1e-4,
        atol=1e-5,
    )
    unit = load_sequence_vectors(
        tmp_path / "model.safetensors", tmp_path / "model.json", "space", unit_length=True
    )
    np.testing.assert_allclose(np.linalg.norm(unit.of_histories(histories)[0], axis=1), 1.0, rtol=1e-5)


def test_contract():
    users = SequenceVectors(a_model(), a_model().item_table().detach(), "x", False)
    counts = np.arange(N)[::-1].copy()
    check_contract(SasRecRetrieval(users, counts), contract_requests(N), N, tolerance=1e-5)


def test_settings_that_contradict_are_refused():
    with pytest.raises(ValueError, match="dim 10 is not a multiple of heads 4"):
        SasRecConfig(dim=10, heads=4)
    with pytest.raises(ValueError, match="users_from: sasrec needs a sasrec section"):
        EmbedConfig(users_from="sasrec")
    with pytest.raises(ValueError, match="needs text_encoder"):
        EmbedConfig(sasrec=SasRecConfig(text=True), text_encoder=None)

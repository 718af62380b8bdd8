"""SASRec's chunked and sampled losses against the whole softmax; what they learn; kills."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.embeddings.sasrec import Ranking, SasRec, SasRecConfig, sampled_loss, sequence_loss, train_sasrec
from recsys.embeddings.sequence_vectors import load_sequence_vectors, save_sasrec
from recsys.embeddings.sequences import Windows, padded
from recsys.recommender import Request
from recsys.training import loop

N = 14
SMALL = SasRecConfig(dim=8, layers=2, heads=2, max_items=6, dropout=0.3, device="cpu", temperature=0.3)
FORMS = ["softmax", "chunked_softmax", "sampled_softmax"]


def a_model(**settings) -> SasRec:
    """Random, with texts, and with weights large enough that every part shows; without dropout."""
    text = np.random.default_rng(0).normal(size=(N, 5)).astype(np.float32)
    model = SasRec(N, SMALL.model_copy(update={"text": True} | settings), seed=0, text=text).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model


def windows(weighted: bool) -> Windows:
    sequences = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3], [5, 8, 9]]
    inputs, lengths = padded([np.array(items[:-1]) for items in sequences], 6)
    following, _ = padded([np.array(items[1:]) for items in sequences], 6)
    weights = np.random.default_rng(3).uniform(0.5, 2, inputs.shape) if weighted else None
    return Windows(inputs, following, lengths, weights)


def gradients_of(model: SasRec, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: one.grad.to_dense() for name, one in model.named_parameters()}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("temperature", [None, 0.3])
@pytest.mark.parametrize("form", ["chunked_softmax", "sampled_softmax"])
def test_loss_and_gradients_are_those_of_the_whole_softmax(form, temperature, weighted):
    """Sampled: where all items are drawn. And whatever way a batch is cut."""
    plain = a_model(temperature=temperature)
    expected = sequence_loss(plain, windows(weighted).batch(0, 4, 2))
    wanted = gradients_of(plain, expected)
    model = a_model(temperature=temperature, loss=form)
    for pieces in (1, None):
        batch = windows(weighted).batch(0, 4, pieces)
        if form == "sampled_softmax":
            loss = sampled_loss(model, batch, np.arange(N)[::-1].copy(), np.zeros(N))
        else:
            loss = sequence_loss(model, batch)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
        found = gradients_of(model, loss)
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_smoothing_is_in_the_chunked_loss_and_refused_of_the_sampled():
    plain, chunked = (a_model(label_smoothing=0.2, loss=form) for form in FORMS[:2])
    batch = windows(False).batch(0, 4, 2)
    torch.testing.assert_close(
        sequence_loss(chunked, batch), sequence_loss(plain, batch), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match="sampled_softmax does not read it"):
        SasRecConfig(loss="sampled_softmax", label_smoothing=0.1)


def test_the_sampled_loss_reads_and_moves_the_rows_of_its_items_alone():
    model = a_model(loss="sampled_softmax")
    sampled_loss(model, windows(False).batch(0, 4, None), np.array([7, 12]), np.zeros(2)).backward()
    touched = np.flatnonzero(model.free.grad.to_dense().abs().sum(1).numpy())
    assert touched.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 12]
    assert model.free.grad.is_sparse


# -- learning ---------------------------------------------------------------------------------------------------


def learned(folder, form: str, steps: int = 90, n_items: int = 20):
    """Every user walks on in one circle of items; the answer is the item after the last."""
    n_users, length = 24, 9
    walks = (np.arange(n_users)[:, None] * 7 + np.arange(length + 1)) % n_items
    users, times = np.repeat(np.arange(n_users), length), np.tile(np.arange(length), n_users)
    requests = [
        Request(f"r{u}", u, length, walk[:-1], np.arange(length), exclude=walk[:1])
        for u, walk in enumerate(walks)
    ]
    config = SasRecConfig(
        dim=16, max_items=20, dropout=0.1, batch=8, steps=steps, learning_rate=1e-2, warmup=5, validate_every=30,
        loss=form, negatives=6, device="cpu",
    )  # fmt: skip
    ranking = Ranking(requests, walks[:, -1], 20)
    model, curves = train_sasrec(users, walks[:, :-1].reshape(-1), times, n_items, config, 0, folder, ranking)
    return model, curves, ranking


@pytest.mark.parametrize("form", FORMS)
def test_a_circle_is_learned(tmp_path, form):
    model, curves, ranking = learned(tmp_path, form)
    assert (ranking.ranks(model) == 1).all()
    assert curves.losses[-1][1] < curves.losses[0][1] / 2


@pytest.mark.parametrize("form", FORMS[1:])
def test_a_killed_training_ends_in_the_same_bytes(tmp_path, form, monkeypatch):
    class Killed(Exception):
        pass

    fit = loop.fit

    def often(*arguments, **settings):
        return fit(*arguments, **settings | {"log_every": 5, "checkpoint_every_s": 0.0, "quiet": True})

    monkeypatch.setattr(loop, "fit", often)
    whole, curves, _ = learned(tmp_path / "whole", form, 45)

    def dying(label, steps, state, optimizer, step, *rest, **settings):
        def deadly(index: int):
            if index == 37:
                raise Killed
            return step(index)

        return often(label, steps, state, optimizer, deadly, *rest, **settings)

    monkeypatch.setattr(loop, "fit", dying)
    with pytest.raises(Killed):
        learned(tmp_path / "killed", form, 45)
    monkeypatch.setattr(loop, "fit", often)
    resumed, again, _ = learned(tmp_path / "killed", form, 45)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert again == curves


@pytest.mark.parametrize("form", FORMS)
def test_what_is_saved_says_how_it_was_made_and_the_whole_softmax_as_before(tmp_path, form):
    model = a_model(loss=form, negatives=9)
    save_sasrec(model, tmp_path, "model")
    said = (tmp_path / "model.json").read_text()
    assert ("negatives" in said) == ('"loss"' in said) == (form != "softmax")
    loaded = load_sequence_vectors(tmp_path / "model.safetensors", tmp_path / "model.json", "x", False)
    np.testing.assert_array_equal(loaded.items, model.outputs(model.item_table()).detach().numpy())

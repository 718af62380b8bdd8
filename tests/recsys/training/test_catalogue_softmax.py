"""Cross-entropy over a catalogue against torch's own, and its estimate from a sample against the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from recsys.seeds import torch_generator
from recsys.training import catalogue_softmax
from recsys.training.catalogue_softmax import Negatives, sampled_softmax_losses, softmax_loss

N, D, POSITIONS = 37, 5, 23


def a_batch(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries [n, d] and outputs [N, d] that want gradients, and targets [n]."""
    draw = torch_generator(0, "batch")
    queries = (2 * torch.randn(POSITIONS, D, generator=draw)).to(dtype).requires_grad_()
    outputs = torch.randn(N, D, generator=draw).to(dtype).requires_grad_()
    return queries, outputs, torch.randint(0, N, (POSITIONS,), generator=draw)


@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
def test_in_chunks_it_is_torchs_cross_entropy_with_its_gradients(chunk, smoothing, weighted, monkeypatch):
    monkeypatch.setattr(catalogue_softmax, "MIN_CHUNK", chunk)
    monkeypatch.setattr(catalogue_softmax, "CHUNK_BYTES", 1)
    queries, outputs, targets = a_batch()
    weights = torch.rand(POSITIONS, generator=torch_generator(1)) if weighted else None
    loss = softmax_loss(queries, outputs, targets, weights, smoothing)
    (3 * loss).backward()
    ours = loss.detach(), queries.grad, outputs.grad
    queries, outputs, targets = a_batch(torch.float64)
    each = functional.cross_entropy(queries @ outputs.T, targets, reduction="none", label_smoothing=smoothing)
    expected = (each if weights is None else each * weights).mean()
    (3 * expected).backward()
    for got, want in zip(ours, (expected.detach(), queries.grad, outputs.grad), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-6)


def test_far_logits_neither_overflow_nor_vanish():
    """A target e^(−400) times as likely as the best has a loss of 400 and a gradient of 1."""
    queries = torch.tensor([[200.0]], requires_grad=True)
    outputs = torch.tensor([[1.0], [-1.0]])
    loss = softmax_loss(queries, outputs, torch.tensor([1]))
    loss.backward()
    assert float(loss.detach()) == 400
    assert float(queries.grad) == 2


def sampled(queries, outputs, targets, negatives: Negatives, step: int) -> torch.Tensor:
    drawn = torch.from_numpy(negatives.draw(step))
    log_expected = torch.from_numpy(np.log(negatives.expected)).to(queries)[drawn]
    hits = targets[:, None] == drawn
    return sampled_softmax_losses(queries, outputs[targets], outputs[drawn], log_expected, hits)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_with_all_items_drawn_loss_and_gradients_are_those_of_the_whole_softmax(power):
    queries, outputs, targets = a_batch()
    negatives = Negatives(np.arange(N) ** 2, N + 5, power, seed=0)
    assert sorted(negatives.draw(3).tolist()) == list(range(N))
    sampled(queries, outputs, targets, negatives, 3).mean().backward()
    ours = queries.grad, outputs.grad
    queries, outputs, targets = a_batch()
    functional.cross_entropy(queries @ outputs.T, targets).backward()
    for got, want in zip(ours, (queries.grad, outputs.grad), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "scale", [1, 40]
)  # of logits up to about 10, and far beyond what an exponential holds
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_sampled_losses_and_gradients_are_those_of_the_formula(scale, chunk, monkeypatch):
    monkeypatch.setattr(catalogue_softmax, "MIN_CHUNK", 1)
    monkeypatch.setattr(catalogue_softmax, "CHUNK_BYTES", chunk)
    drawn = torch.from_numpy(Negatives(np.arange(N), 9, 0.5, seed=0).draw(0))
    weights = torch.rand(POSITIONS, generator=torch_generator(1), dtype=torch.float64)
    log_expected = torch.linspace(-3, 0, 9, dtype=torch.float64)
    found = []
    for by_formula in (True, False):
        queries, outputs, targets = a_batch(torch.float64)
        far, hits = scale * queries, targets[:, None] == drawn
        hits[0] = True  # a position without a negative
        if by_formula:
            scores = (far @ outputs[drawn].T - log_expected).masked_fill(hits, -torch.inf)
            own = (far * outputs[targets]).sum(1)
            losses = torch.logsumexp(torch.cat([scores, own[:, None]], 1), 1) - own
        else:
            losses = sampled_softmax_losses(far, outputs[targets], outputs[drawn], log_expected, hits)
        (losses * weights).sum().backward()
        found.append((losses.detach(), queries.grad, outputs.grad))
    for got, want in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_the_estimate_of_the_normaliser_is_right_on_average_and_wrong_without_the_correction(power):
    """E Ẑ = Z whatever the draw; the same draws uncorrected, scaled to the whole, are far off where popularity draws."""
    queries, outputs, targets = (tensor.detach() for tensor in a_batch(torch.float64))
    outputs = outputs / 2
    counts = np.where(np.arange(N) % 2, 40, 1)
    outputs[np.arange(N) % 2 == 1] += 0.4 * queries.mean(0)  # who is popular also scores differently
    negatives = Negatives(counts, 9, power, seed=0)
    whole = torch.exp(queries @ outputs.T).sum(1)
    own = torch.exp((queries * outputs[targets]).sum(1))
    estimates, plain = [], []
    for step in range(6000):
        estimates.append(own * torch.exp(sampled(queries, outputs, targets, negatives, step).double()))
        drawn = torch.from_numpy(negatives.draw(step))
        others = torch.exp(queries @ outputs[drawn].T).masked_fill(targets[:, None] == drawn, 0)
        plain.append(own + others.sum(1) * (N - 1) / len(drawn))
    off = [(torch.stack(side).mean(0) / whole - 1).abs().mean() for side in (estimates, plain)]
    assert off[0] < 0.02
    if power:
        assert off[1] > 4 * off[0]


def test_items_come_as_often_as_they_are_said_to():
    """Weights 5 100 1 10 50 1 3, four drawn: 100, then 50 of 70, then 10 of 20 are worth a draw and more of what is left, so they
    are certain; the last draw is shared by 5, 3, 1 and 1.
    """
    counts = np.array([4, 99, 0, 9, 49, 0, 2])
    negatives = Negatives(counts, 4, 1.0, seed=2)
    np.testing.assert_allclose(negatives.expected, [0.5, 1, 0.1, 1, 1, 0.1, 0.3])
    assert negatives.expected.sum() == pytest.approx(4)
    draws = np.stack([negatives.draw(step) for step in range(8000)])
    assert draws.shape == (8000, 4)
    np.testing.assert_allclose(
        np.bincount(draws.reshape(-1), minlength=7) / 8000, negatives.expected, atol=0.02
    )
    assert (draws[:, :3] == [1, 3, 4]).all()
    assert (Negatives(counts, 4, 1.0, seed=2).draw(5) == draws[5]).all()


def test_uniform_negatives_are_all_alike():
    negatives = Negatives(np.arange(50), 20, 0.0, seed=0)
    np.testing.assert_allclose(negatives.expected, 0.4)
    seen = np.bincount(np.concatenate([negatives.draw(step) for step in range(3000)]), minlength=50)
    np.testing.assert_allclose(seen / 3000, 0.4, atol=0.05)

"""Objectives on log-probabilities by their scalar formulas."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch

from llm.align import objectives
from llm.align.objectives import balanced_weights, engagement_loss, kl_baseline, kto_loss


def sigmoid(z: float) -> float:
    return 1 / (1 + np.exp(-z))


# -- formulas -----------------------------------------------------------------------------------------------------

LOGP, REF = torch.tensor([-3.0, -9.0, -5.5]), torch.tensor([-4.0, -7.0, -5.0])


ENGAGED = torch.tensor([True, False, True])


def test_equation_5_by_hand():
    """r = 1, −2, −.5; β = .5, so p = σ(.5), σ(−1), σ(−.25); α = 2 weighs the disliked one."""
    expected = -(np.log(sigmoid(0.5)) + 2 * np.log(1 - sigmoid(-1)) + np.log(sigmoid(-0.25))) / 3
    assert float(engagement_loss(LOGP, REF, ENGAGED, beta=0.5, alpha=2.0)) == pytest.approx(
        expected, rel=1e-6
    )


def test_kto_by_hand():
    """KL pairs of log-ratio .8 and −.2: z₀ = .3; r − z₀ = .7, −2.3, −.8; β = .5, λ_D = 1.5, λ_U = 2."""
    z0 = kl_baseline(torch.tensor([-4.2, -6.2]), torch.tensor([-5.0, -6.0]))
    assert float(z0) == pytest.approx(0.3, abs=1e-6)
    ours = kto_loss(LOGP, REF, ENGAGED, z0, beta=0.5, desirable=1.5, undesirable=2.0)
    terms = [1.5 * (1 - sigmoid(0.35)), 2 * (1 - sigmoid(1.15)), 1.5 * (1 - sigmoid(-0.4))]
    assert float(ours) == pytest.approx(np.mean(terms), rel=1e-6)


def test_the_baseline_is_never_negative_and_has_no_gradient():
    pairs = torch.tensor([-6.0, -7.0], requires_grad=True)
    assert float(kl_baseline(pairs, torch.tensor([-5.0, -6.0]))) == 0
    assert not kl_baseline(pairs, torch.tensor([-9.0, -9.0])).requires_grad
    assert float(kl_baseline(pairs[:0], torch.zeros(0))) == 0


def test_extreme_ratios_stay_finite():
    far = torch.tensor([2000.0, -2000.0, 2000.0, -2000.0], requires_grad=True)
    labels = torch.tensor([True, True, False, False])
    for loss in (
        engagement_loss(far, torch.zeros(4), labels, 1.0, 1.0),
        kto_loss(far, torch.zeros(4), labels, torch.zeros(()), 1.0, 1.0, 1.0),
    ):
        (gradient,) = torch.autograd.grad(loss, far)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_a_disliked_item_of_probability_1e_4_has_a_gradient():
    """Equation (5) with p of the sequence gives it 1e-4 of a liked item's; the readout gives both the same size."""
    logp = torch.full((2,), 1e-4).log().requires_grad_()
    labels = torch.tensor([True, False])
    p = logp.exp()
    naive = -torch.where(labels, p.log(), (1 - p).log()).mean()
    liked, disliked = torch.autograd.grad(naive, logp)[0].abs().tolist()
    assert disliked / liked == pytest.approx(1e-4, rel=1e-2)
    ours = engagement_loss(logp, logp.detach(), labels, beta=0.1, alpha=1.0)
    liked, disliked = torch.autograd.grad(ours, logp)[0].tolist()
    assert disliked == pytest.approx(-liked)
    assert disliked == pytest.approx(0.5 * 0.1 / 2)  # −β p at p = ½, a mean over two
    assert disliked > 200 * 1e-4 / 2


def test_weights_are_what_the_authors_advise():
    assert doctest.testmod(objectives).failed == 0
    for desirable, undesirable in [(50, 50), (60, 50), (70, 50), (1, 999), (999, 1), (4, 3), (3, 4)]:
        of_d, of_u = balanced_weights(desirable, undesirable)
        assert 1 - 1e-9 <= of_d * desirable / (of_u * undesirable) <= 4 / 3 + 1e-9
        assert min(of_d, of_u) == 1
    assert balanced_weights(60, 50) == (1, 1)
    with pytest.raises(ValueError, match="0 desirable and 3 undesirable"):
        balanced_weights(0, 3)

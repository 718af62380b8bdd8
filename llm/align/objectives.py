"""Learning from engaged / not engaged: E2P's equation (5) and KTO proper, on log-probabilities alone.

Both compare the policy π (the frozen model under a personalizer) with a reference π_ref by the log-ratio
r(x, y) = log π(y | x) − log π_ref(y | x), in nats. A target y is whatever the log-probabilities are of: one
item, or a whole list. Both must come from one normaliser (the same trie, exclusions included), or r is also
about that.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

MOST = 4 / 3  # λ_D n_D / (λ_U n_U) is advised to lie between 1 and this (KTO paper, on choosing λ)


def engagement_loss(
    log_probs: Tensor, reference: Tensor, engaged: Tensor, beta: float, alpha: float
) -> Tensor:
    """E2P eq. (5), a loss: −mean[y log p + α (1 − y) log(1 − p)], p = σ(β (log π(y | x) − log π_ref(y | x))).

    `log_probs` and `reference` [B] of the shown targets, `engaged` [B] (bool); a scalar. The paper's p is
    that of the *label* ("the model's predicted probability of engagement"), and it does not say how a
    generator predicts a label. Read as the probability of the sequence, about 1e-4, it would give a disliked
    target no gradient: d log(1 − p) / d log p = −p / (1 − p). This readout, how much likelier the target is
    than under the reference, is our choice: there the same derivative is −β p with p about a half.
    """
    logits = beta * (log_probs - reference)
    # log(1 − σ(z)) = log σ(−z), which does not cancel where σ(z) is nearly 1
    return -torch.where(engaged, functional.logsigmoid(logits), alpha * functional.logsigmoid(-logits)).mean()


def kl_baseline(
    log_probs: Tensor, reference: Tensor, mean: Callable[[Tensor, int], Tensor] = torch.divide
) -> Tensor:
    """z₀ = max(0, mean(log π − log π_ref)) over mismatched pairs [B] (the KTO paper's biased estimate):
    a scalar without a gradient.

    A pair is a request with the target of another one of the batch. No pairs: 0. `mean` divides the sum by
    the count, where several processes share the batch over all of them (`recsys.training.distributed.mean`).
    """
    if not len(log_probs):
        return log_probs.new_zeros(())
    return mean((log_probs - reference).detach().sum(), len(log_probs)).clamp(min=0)


def kto_loss(
    log_probs: Tensor,
    reference: Tensor,
    engaged: Tensor,
    baseline: Tensor,
    beta: float,
    desirable: float,
    undesirable: float,
) -> Tensor:
    """KTO (Ethayarajh et al. 2024, arXiv 2402.01306), the mean of λ_y − v(x, y), which is

        λ_D (1 − σ(β (r − z₀)))   of a desirable target,
        λ_U (1 − σ(β (z₀ − r)))   of an undesirable one.

    `log_probs` and `reference` [B], `engaged` [B] (bool: desirable), `baseline` z₀ of `kl_baseline`;
    `desirable` λ_D, `undesirable` λ_U.
    """
    gain = beta * (log_probs - reference - baseline)
    # 1 − σ(z) = σ(−z)
    return torch.where(engaged, desirable * torch.sigmoid(-gain), undesirable * torch.sigmoid(gain)).mean()


def balanced_weights(n_desirable: int, n_undesirable: int) -> tuple[float, float]:
    """(λ_D, λ_U) with λ_D n_D / (λ_U n_U) in [1, 4/3], as the KTO authors advise:
    the rarer kind's weight is raised as little as that takes, the other's stays 1.

    Raises `ValueError` where a kind has no example.

    >>> balanced_weights(100, 100), balanced_weights(100, 1000), balanced_weights(1000, 100)
    ((1.0, 1.0), (10.0, 1.0), (1.0, 7.5))
    """
    if n_desirable < 1 or n_undesirable < 1:
        raise ValueError(
            f"there are {n_desirable} desirable and {n_undesirable} undesirable targets; weights can only balance what "
            "there is of both kinds: bring lists with both labels, or give the weights yourself"
        )
    ratio = n_desirable / n_undesirable
    return max(1.0, 1 / ratio), max(1.0, ratio / MOST)

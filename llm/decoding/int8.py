"""Eight-bit weights for inference on CPUs, and what they do to the distribution.

The linear layers' weights become int8 (one scale an output channel), and their inputs are quantised on the
fly (torch's dynamic quantisation, which needs no further library and runs on any x86 with AVX2). Embeddings,
norms, attention, the semantic-ID rows and `down_proj` stay float32: the gated product that it reads has
outliers, and with it quantised SmolLM2's divergence was 30 times as large (LOG.md). It is an option because
it changes what the model believes: `Effect` says by how much, on instances of one's own, and is printed
wherever the option is taken.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from llm.backbone.sid_model import SidModel
from llm.decoding.recommender import SidRecommender
from recsys.recommender import Request

DRAWS = 30  # of each request, on which the divergence is estimated


@dataclass(frozen=True)
class Effect:
    """What int8 weights changed. KL is D(float32 ‖ int8) in nats, estimated on draws from the float32 model.

    `kl_error` is its standard error over requests; `total_variation` estimates ½ Σ |p − q| on the same draws.
    """

    requests: int
    kl: float
    kl_error: float
    total_variation: float
    float32_mib: float
    int8_mib: float

    def __str__(self) -> str:
        return (
            f"int8 weights: {self.float32_mib:.0f} MiB of linear layers became {self.int8_mib:.0f}; divergence from "
            f"float32 {self.kl:.4f} ± {1.96 * self.kl_error:.4f} nats a request, total variation "
            f"{self.total_variation:.3f} ({self.requests} requests, {DRAWS} draws each)"
        )


def to_int8(recommender: SidRecommender, requests: list[Request], seed: int = 0) -> Effect:
    """Quantise the recommender's model in place, and measure what that did to its answers to `requests`.

    Raises `ValueError` off CPU, without requests, or when the model is quantised already.
    """
    model = recommender.model
    if model.device.type != "cpu":
        raise ValueError(f"int8 weights are for CPUs; the model is on {model.device} (use bfloat16 there)")
    if not requests:
        raise ValueError("int8 weights need requests to measure their effect on")
    names = quantisable(model)
    if not names:
        raise ValueError("the model has no float32 linear layer; it is quantised already")
    items, before = recommender.draw(requests, DRAWS, 1.0, seed)
    weights = sum(model.inner.get_submodule(name).weight.numel() for name in names)
    quantise(model)
    after = np.stack([recommender.log_prob(requests, items[:, draw]) for draw in range(DRAWS)], axis=1)
    ratio = after - before  # log q/p on draws from p
    kl = (np.expm1(ratio) - ratio).mean(1)  # E_p[q/p] = 1, so this has the mean of −ratio and far less noise
    return Effect(
        len(requests),
        float(kl.mean()),
        float(kl.std(ddof=1) / len(kl) ** 0.5) if len(kl) > 1 else float("nan"),
        float(np.maximum(0, 1 - np.exp(ratio)).mean()),
        4 * weights / 2**20,
        weights / 2**20,
    )


def quantisable(model: SidModel) -> list[str]:
    """Names of the inner model's float32 linear layers that int8 weights are for."""
    layers = model.inner.named_modules()
    return [
        name for name, module in layers if isinstance(module, nn.Linear) and not name.endswith("down_proj")
    ]


def quantise(model: SidModel) -> None:
    """int8 weights in the linear layers of the inner model, in place."""
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    model.kept_session = None  # what the float32 weights read
    spec = dict.fromkeys(quantisable(model), per_channel_dynamic_qconfig)
    with warnings.catch_warnings():
        # torch advises torchao, whose CPU kernels want a compiler at run time
        warnings.simplefilter("ignore")
        quantize_dynamic(model.inner, spec, dtype=torch.qint8, inplace=True)

"""Which device a model is computed on."""

from __future__ import annotations

import torch

from recsys.training import distributed


def resolve_device(name: str) -> torch.device:
    """The device of that name; auto: a GPU where there is one, and of several processes each has its own.

    Where it is a GPU, float32 products read 10 bits of mantissa from here on (TF32): several times as fast,
    and summed in float32 as before. Rounding an input does not depend on the batch that it stands in, so
    answers still agree between batches.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    gpu = distributed.local_gpu()
    device = torch.device(name) if name != "cuda" or gpu is None else torch.device("cuda", gpu)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    return device

"""Which device trains and answers."""

from __future__ import annotations

import torch

from recsys import distributed


def resolve_device(name: str) -> torch.device:
    """The device of that name; auto: a GPU where there is one, and of several processes each has its own."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    gpu = distributed.local_gpu()
    return torch.device(name) if name != "cuda" or gpu is None else torch.device("cuda", gpu)

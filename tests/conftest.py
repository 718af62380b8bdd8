"""What several tests share: the tiny random backbone with a small trie, and requests for it."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch

from llm.backbone import BackboneConfig, load_backbone
from llm.model import SidModel
from llm.vocabulary import SidRows
from recsys.recommender import Request
from semantic_ids.trie import Trie

torch.set_num_threads(2)
SIZES = (4, 5, 4)


def unique_codes(n: int, sizes=SIZES, seed: int = 0) -> np.ndarray:
    """[n, L] distinct code rows, some subtrees with one leaf and some with many."""
    chosen = np.random.default_rng(seed).choice(np.prod(sizes), n, replace=False)
    return np.stack(np.unravel_index(chosen, sizes), axis=1)


@pytest.fixture(scope="session")
def tiny() -> SidModel:
    """Two random layers, 30 items, rows large enough that the distribution is far from uniform."""
    backbone = load_backbone(BackboneConfig(name="tiny-random", device="cpu"))
    rows = SidRows(SIZES, backbone.hidden_size)
    rows.start_from([None] * 3, norm=1.0, seed=3)
    return SidModel(backbone, rows, Trie(unique_codes(30), SIZES)).eval().requires_grad_(False)


def make_requests(n: int, n_items: int = 30, seed: int = 1, exclude: int = 6) -> list[Request]:
    generator = np.random.default_rng(seed)
    return [
        Request(
            request_id=f"r{index}",
            user=index,
            time=100 + index,
            history=generator.integers(0, n_items, index % 5),
            history_times=np.arange(index % 5),
            exclude=generator.choice(n_items, exclude, replace=False),
        )
        for index in range(n)
    ]

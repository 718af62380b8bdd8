"""The tiny random backbone with a small trie."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from llm.backbone.adapter import save_adapter
from llm.backbone.load import BackboneConfig, load_backbone
from llm.backbone.sid_model import SidModel
from llm.backbone.vocabulary import SidRows
from semantic_ids.trie import Trie
from tests.support.catalogues import SIZES, unique_codes


@cache
def tiny_model() -> SidModel:
    """Two random layers, 30 items, rows large enough that the distribution is far from uniform."""
    backbone = load_backbone(BackboneConfig(name="tiny-random", device="cpu"))
    rows = SidRows(SIZES, backbone.hidden_size)
    rows.start_from([None] * 3, norm=1.0, seed=3)
    return SidModel(backbone, rows, Trie(unique_codes(30), SIZES)).eval().requires_grad_(False)


def save_an_adapter(folder: Path, modules: Sequence[str]) -> None:
    """What PEFT writes of a fresh LoRA on these layers of the tiny backbone."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = load_backbone(BackboneConfig(name="tiny-random", device="cpu")).model
    save_adapter(get_peft_model(model, LoraConfig(r=2, target_modules=list(modules))), folder)

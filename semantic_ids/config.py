"""Settings of stage `tokenize`; see `semantic_ids.tokenize_items`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from recsys.config import StageConfig

Source = Literal["collaborative", "text", "joined"]
Policy = Literal["reassign", "extra_level"]


class RQVAEConfig(StageConfig):
    hidden: tuple[int, ...] = (256,)  # widths of the encoder's layers; the decoder mirrors them
    latent: int = Field(default=64, ge=1)  # dimensions of the quantised space
    steps: int = Field(default=600, ge=1)  # optimiser steps; 1,500 explain 2 points more on 3,650 items
    warmup: int = Field(default=100, ge=0)  # steps of the autoencoder alone, before k-means starts the codes
    batch: int = Field(default=512, ge=1)  # items a step; a smaller catalogue is taken whole
    lr: float = Field(default=5e-3, gt=0)  # AdamW, cosine down; 2e-3 left 3 points more error after 600 steps
    weight_decay: float = Field(default=1e-4, ge=0)  # of AdamW; 1e-2 changed nothing
    commitment: float = Field(default=0.25, ge=0)  # β: pull of latents to their codes; both papers' value
    decay: float = Field(default=0.95, gt=0, lt=1)  # of the codebooks' moving average, per step
    restart_below: float = Field(default=0.05, ge=0, lt=1)  # of an even use: a code used less is dead


class TokenizeConfig(StageConfig):
    # residual_kmeans: no network, seconds at any size
    quantizer: Literal["rqvae", "residual_kmeans"] = "rqvae"
    source: Source = "collaborative"  # what items are alike by: who takes them, their text, or both joined
    # of the text block where joined; its share of distance is w² / (1 + w²)
    text_weight: float = Field(0.5, gt=0)
    # principal axes kept of the text vectors: the rest is mostly wording
    text_dims: int = Field(default=64, ge=1)
    # codes an item; TIGER's choice, and each level costs the generator a token
    levels: int = Field(default=3, ge=1)
    size: int | tuple[int, ...] = 64  # codes a level (or one number a level); 64³ = 262,144 IDs
    collision: Policy = "reassign"  # or extra_level, TIGER's fourth code; see table.make_unique
    seed: int = 0
    rqvae: RQVAEConfig = RQVAEConfig()

    @model_validator(mode="after")
    def _one_size_a_level(self) -> TokenizeConfig:
        if len(self.sizes) != self.levels:
            raise ValueError(f"size {self.size} has {len(self.sizes)} levels, but levels is {self.levels}")
        if min(self.sizes) < 2:
            raise ValueError(f"size {self.size}: a level needs at least 2 codes")
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.size,) * self.levels if isinstance(self.size, int) else self.size

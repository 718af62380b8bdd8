"""Low-rank updates that all users share: the bridge of TAP-PER, and the multi-task LoRA (MT-LoRA)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from llm.backbone.conditions import Condition, LowRank
from llm.methods.base import TrainedMethod
from llm.methods.stage2 import World
from llm.prompts.reading import Personalizer
from recsys.recommender import Request
from recsys.seeds import torch_generator

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


class SharedLora(Personalizer):
    """One LoRA of rank r on all layers of the given kinds:
    A random, B = 0 (as PEFT starts), scale alpha / r.
    """

    def __init__(self, layers: dict[str, tuple[int, int]], rank: int, alpha: float, seed: int):
        super().__init__()
        self.names, self.scale = tuple(layers), alpha / rank
        generator = torch_generator(seed, "lora")
        self.a, self.b = nn.ParameterList(), nn.ParameterList()
        for n_in, n_out in layers.values():
            bound = n_in**-0.5  # PEFT's kaiming_uniform(a = √5)
            self.a.append(nn.Parameter((2 * torch.rand(rank, n_in, generator=generator) - 1) * bound))
            self.b.append(nn.Parameter(torch.zeros(n_out, rank)))

    def updates(self) -> dict[str, tuple[LowRank]]:
        """An update of each layer."""
        rows = zip(self.names, self.a, self.b, strict=True)
        return {name: (LowRank(a, b * self.scale),) for name, a, b in rows}

    def condition(self, requests: Sequence[Request]) -> Condition:
        return Condition(updates=self.updates())


class MTLoraConfig(TrainedMethod):
    method: Literal["mt_lora"] = "mt_lora"
    reads = "recent items"
    trains = "one LoRA on everybody's late events"
    use = "a control for OPPU, PER-PCS and P2P: what a LoRA gives that is about nobody"
    rank: int = Field(8, ge=1)
    alpha: float = 16.0
    modules: tuple[str, ...] = ("q_proj", "v_proj")

    def new(self, world: World, seed: int) -> Personalizer:
        return SharedLora(world.model.updates.layers(self.modules), self.rank, self.alpha, seed)

"""Several parts trained together: soft tokens one after the other, updates of layers added (E2P + P_q)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import reduce
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from torch import nn

from llm.backbone.conditions import Condition
from llm.methods.base import TrainedMethod
from llm.methods.catalogue import named
from llm.methods.e2p import E2PConfig
from llm.methods.lora import MTLoraConfig
from llm.methods.stage2 import World
from llm.methods.tap_per import TapPerConfig
from llm.prompts.reading import Personalizer
from recsys.recommender import Request

UNFIT = {
    "static_prefix": "a control is about nobody, and beside another part it controls nothing",
    "no_context_continued": "it trains the very model that the other parts want frozen",
    **dict.fromkeys(
        ("prompt_context", "rag", "pag", "full_history"), "prompts are set on the combination: prompt: …"
    ),
    **dict.fromkeys(
        ("oppu", "per_pcs"), "they are trained user by user, and the others for all users at once"
    ),
}


def _fit(value: Any) -> Any:
    settings = named(value)
    method = settings.get("method") if isinstance(settings, dict) else None
    if method in UNFIT:
        raise ValueError(f"{method} cannot be a part of a combination: {UNFIT[method]}")
    if isinstance(settings, dict) and settings.get("stored", "all") != "all":
        raise ValueError(
            "a part of a combination keeps rows of all users: stored: trained is for tap_per alone"
        )
    return settings


Part = Annotated[
    Annotated[E2PConfig | TapPerConfig | MTLoraConfig, Field(discriminator="method")], BeforeValidator(_fit)
]


class Combination(Personalizer):
    """The conditions of its parts, side by side (`Condition.beside`)."""

    def __init__(self, parts: Sequence[Personalizer]):
        super().__init__()
        self.parts = tuple(parts)
        self.modules_of_parts = nn.ModuleList(parts)  # so that they are trained and saved
        self.soft_tokens = sum(part.soft_tokens for part in parts)
        self.row_bytes = sum(part.row_bytes for part in parts)
        self.user_rows = tuple(
            f"modules_of_parts.{at}.{name}" for at, part in enumerate(parts) for name in part.user_rows
        )
        self.per_user_parameters = sum(part.per_user_parameters for part in parts)

    @property
    def shared_parameters(self) -> int:
        return sum(part.shared_parameters for part in self.parts)

    def condition(self, requests: Sequence[Request]) -> Condition:
        conditions = []
        for part in self.parts:
            part.step, part.first_row = self.step, self.first_row
            conditions.append(part.condition(requests))
        return reduce(Condition.beside, conditions)


class CombinationConfig(TrainedMethod):
    method: Literal["combination"] = "combination"
    reads = "what its parts read"
    stores = "what its parts store"
    trains = "its parts, together"
    use = "one part alone leaves something out, and validation says so"
    parts: tuple[Part, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _makes_sense(self) -> CombinationConfig:
        for part in self.parts:
            if part.prompt is not None:
                raise ValueError(
                    f"the part {part.name} has a prompt of its own; there is one prompt: set it on the combination"
                )
        twice = [method for method, count in Counter(part.method for part in self.parts).items() if count > 1]
        if twice:
            raise ValueError(
                f"{twice[0]} is there twice; two parts of one kind only double its size: raise its length or rank"
            )
        shared = [
            part for part in self.parts if isinstance(part, MTLoraConfig) or getattr(part, "bridge", False)
        ]
        if len(shared) > 1:
            raise ValueError(
                "mt_lora and tap_per's bridge are both a LoRA that all users share; keep one of them (tap_per: bridge: false)"
            )
        return self

    def new(self, world: World, seed: int) -> Personalizer:
        return Combination([part.new(world, seed) for part in self.parts])

"""P2P (Profile-to-PEFT): a hypernetwork writes a LoRA for each request from the user's profile in words.

Nothing is trained a user.

A request without a past gets the zero update: it is read as No Context is. The adapter belongs to user *and*
query unless the profile is summary_only. Vectors of profiles are cached within `cache_mb`; generated adapters
are not: on one CPU core, MiniLM takes 30 ms for a profile and the hypernetwork 4 ms for an adapter of SmolLM2
(30 layers), which would take 1.8 MB to keep where its vector takes 1.5 kB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from llm.backbone.conditions import Condition
from llm.methods.base import TrainedMethod
from llm.methods.p2p.hypernetwork import LoraGenerator
from llm.methods.p2p.profiles import Encode, Kind, ProfileText, ProfileVectors
from llm.methods.stage2 import World
from llm.prompts.contexts import Summaries
from llm.prompts.reading import Personalizer, Reading
from llm.stage1.records import BackboneEncoder
from recsys.data.text_vectors import TextEncoder
from recsys.recommender import Request

RECORDS = 2  # the paper's k


class P2P(Personalizer):
    """profile vectors -> a LoRA a request."""

    def __init__(self, profiles: ProfileVectors, generator: LoraGenerator):
        super().__init__()
        self.profiles, self.generator = profiles, generator
        self.row_bytes = generator.row_bytes

    def condition(self, requests: Sequence[Request]) -> Condition:
        vectors, known = self.profiles.vectors(requests)
        device = self.generator.centre.device
        return Condition(updates=self.generator(vectors.to(device), known.to(device)))


class P2PConfig(TrainedMethod):
    """`profile` says what the hypernetwork is told; see `llm.methods.p2p.profiles.ProfileText`.
    The paper: r = 8, k = 2, lr 2e-5.
    """

    method: Literal["p2p"] = "p2p"
    reads = "recent items, the whole history before t (as a profile in words)"
    trains = "a hypernetwork: profile vector → LoRA on q and v"
    use = "many or new users with a past in words: a new user costs one encoding and one small product, and no training"
    profile: Kind = "summary_and_records"
    # records in the profile; None: 2 where the profile has any. 0 is summary_only
    k: int | None = Field(None, ge=0, le=64)
    # Parquet user_id, timestamp, summary instead of the template; see Summaries
    summaries: Path | None = None
    encoder: str = "minilm"  # minilm; backbone: the mean frozen input embedding; or a folder
    profile_tokens: int = Field(128, ge=1)  # cut of the profile
    rank: int = Field(8, ge=1)
    alpha: float = 16.0
    modules: tuple[str, ...] = ("q_proj", "v_proj")
    hidden: int = Field(64, ge=1)  # width of the trunk
    position: int = Field(16, ge=1)  # width of E_mod and of E_dep
    cache_mb: int = Field(64, ge=0)  # memory for vectors of profiles that are not training's

    @model_validator(mode="after")
    def _makes_sense(self) -> P2PConfig:
        if self.k and self.profile in ("summary_only", "full_history"):
            raise ValueError(f"p2p.k is {self.k}, and the profile {self.profile} has no retrieved records")
        if self.k == 0 and self.profile == "retrieved_only":
            raise ValueError("p2p.profile retrieved_only with k: 0 is an empty profile; give k of at least 1")
        if self.summaries is not None and self.profile in ("retrieved_only", "full_history"):
            raise ValueError(f"p2p.summaries are given, and the profile {self.profile} has no summary")
        return self

    @property
    def told(self) -> tuple[Kind, int]:
        """The profile's kind and its k, resolved."""
        if self.profile in ("summary_only", "full_history"):
            return self.profile, 0
        k = RECORDS if self.k is None else self.k
        return ("summary_only" if self.profile == "summary_and_records" and not k else self.profile), k

    def new(self, world: World, seed: int) -> Personalizer:
        profiles, layers = self.profiles(world), world.model.updates.layers(self.modules)
        generator = LoraGenerator(
            layers, profiles.dim, self.rank, self.alpha, self.hidden, self.position, seed
        )
        generator.standardise(*profiles.moments)
        return P2P(profiles, generator)

    def profiles(self, world: World) -> ProfileVectors:
        """The vectors of this method's profiles; methods and seeds with the same profiles share them."""
        name = self._profiles_name
        if name not in world.kept:
            summaries = (
                Summaries.read(world.outside(self.summaries), world.dataset) if self.summaries else None
            )
            kind, k = self.told
            search = world.search if k else None
            maker = ProfileText(kind, k, world.builder, search, world.dataset, summaries, self.profile_tokens)
            world.kept[name] = ProfileVectors(maker, *self._encoder(world), self.cache_mb << 20)
        return world.kept[name]

    @property
    def _profiles_name(self) -> str:
        made_of = repr((self.told, str(self.summaries), self.encoder, self.profile_tokens))
        return f"profiles-{hashlib.blake2b(made_of.encode(), digest_size=8).hexdigest()}"

    def _encoder(self, world: World) -> tuple[Encode, int]:
        if self.encoder == "backbone":
            return BackboneEncoder(world.model, self.profile_tokens), world.model.hidden_size
        name = f"encoder {self.encoder} {self.profile_tokens}"
        if name not in world.kept:
            world.kept[name] = TextEncoder(self.encoder, self.profile_tokens, world.model.device)
        encoder: TextEncoder = world.kept[name]
        return encoder.encode, encoder.dim

    def prepare(self, world: World, folder: Path) -> None:
        """Encode the profiles of training and validation into a folder of `folder`."""
        profiles, place = self.profiles(world), folder / self._profiles_name
        profiles.prepare(world.train.requests, place / "training", f"{self.name}: training profiles")
        profiles.take_moments(world.train.requests)
        profiles.prepare(world.validation.requests, place / "validation", f"{self.name}: validation profiles")

    def admit(self, world: World, reading: Reading, events: np.ndarray) -> None:
        """The profile is written, encoded and made into an adapter, whoever was met before."""
        assert isinstance(reading.personalizer, P2P)
        reading.personalizer.profiles.forget()
        super().admit(world, reading, events)

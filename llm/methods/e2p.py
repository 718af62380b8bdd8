"""E2P (Embedding-to-Prefix): a user's own vector, projected into one soft token; and its control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from llm.backbone.conditions import Condition
from llm.methods.base import TrainedMethod
from llm.methods.prefixes import E2P, StaticPrefix
from llm.methods.stage2 import World
from llm.prompts.reading import Personalizer
from recsys.embeddings.user_vectors import UserVectors
from recsys.recommender import Request


class UserPrefix(Personalizer):
    """[φ(c)]: the soft token of each request's user vector; a request without a vector gets none."""

    soft_tokens = 1

    def __init__(self, phi: E2P | StaticPrefix, users: UserVectors):
        super().__init__()
        self.phi, self.users = phi, users

    def condition(self, requests: Sequence[Request]) -> Condition:
        vectors, known = self.users.vectors(requests)
        device = next(self.phi.parameters()).device
        return Condition(self.phi(torch.from_numpy(vectors).to(device)), known)


class _OfAVector(TrainedMethod):
    bottleneck: int = 142  # d_c; 142 gives about 100,000 parameters at 120-d and h = 576

    def _sizes(self, world: World) -> tuple[int, int, int, float]:
        return world.users.dim, self.bottleneck, world.model.hidden_size, world.embedding_norm


class E2PConfig(_OfAVector):
    method: Literal["e2p"] = "e2p"
    reads = "recent items, history before t (vector)"
    trains = "φ, about 100,000 parameters at a 120-d vector"
    use = "user embeddings exist and change daily: nothing is stored per user, a new user costs one small product"

    def new(self, world: World, seed: int) -> Personalizer:
        return UserPrefix(E2P(*self._sizes(world), seed), world.users)


class StaticPrefixConfig(_OfAVector):
    method: Literal["static_prefix"] = "static_prefix"
    reads = "recent items"
    trains = "the same φ fed one learned constant"
    use = "a control: what a soft token gives that is about nobody"

    def new(self, world: World, seed: int) -> Personalizer:
        return UserPrefix(StaticPrefix(*self._sizes(world), seed), world.users)

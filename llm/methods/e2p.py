"""E2P (Embedding-to-Prefix): a user's own vector, projected into one soft token; and its control."""

from __future__ import annotations

from typing import Literal

from llm.methods.base import TrainedMethod
from llm.methods.stage2 import World
from llm.prompts.prefixes import E2P, StaticPrefix, UserPrefix
from llm.prompts.reading import Personalizer


class _OfAVector(TrainedMethod):
    bottleneck: int = 142  # d_c; 142 gives about 100,000 parameters at 120-d and h = 576
    # where φ starts. stage1: from the φ₀ that Stage 1 trained along (adapt.soft_batch), if it read vectors of the same space
    # through the same bottleneck, else at random; random: as the paper has it
    start: Literal["stage1", "random"] = "stage1"

    def _sizes(self, world: World) -> tuple[int, int, int, float]:
        return world.users.dim, self.bottleneck, world.model.hidden_size, world.embedding_norm

    def _started(self, phi: E2P, world: World) -> None:
        left = world.phi if self.start == "stage1" else None
        if left is not None and left.fits(world.users, self.bottleneck):
            phi.load_state_dict(left.state)


class E2PConfig(_OfAVector):
    method: Literal["e2p"] = "e2p"
    reads = "recent items, history before t (vector)"
    trains = "φ, about 100,000 parameters at a 120-d vector"
    use = "user embeddings exist and change daily: nothing is stored per user, a new user costs one small product"

    def new(self, world: World, seed: int) -> Personalizer:
        phi = E2P(*self._sizes(world), seed)
        self._started(phi, world)
        return UserPrefix(phi, world.users)


class StaticPrefixConfig(_OfAVector):
    method: Literal["static_prefix"] = "static_prefix"
    reads = "recent items"
    trains = "the same φ fed one learned constant"
    use = "a control: what a soft token gives that is about nobody"

    def new(self, world: World, seed: int) -> Personalizer:
        static = StaticPrefix(*self._sizes(world), seed)
        self._started(static.phi, world)
        return UserPrefix(static, world.users)

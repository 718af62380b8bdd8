"""Rows that train nothing in Stage 2: No Context, and personal context in the prompt alone."""

from __future__ import annotations

from llm.methods.base import MethodConfig
from llm.methods.prompting import _Prompting
from llm.methods.stage2 import World
from llm.prompts.reading import Reading


class PromptingConfig(_Prompting, MethodConfig):
    """Prompt Context, RAG, PAG or Full History as a row of its own."""

    reads = "recent items, history before t (text)"
    trains = "nothing (Stage 1 has seen such prompts)"
    is_trained = False
    use = "nothing may be trained per method, and longer prompts are affordable"

    def load(self, world: World, seed: int) -> Reading:
        return Reading(world.model, world.builder, context=self.context(world))

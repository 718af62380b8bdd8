"""No Context, continued: Stage 1's adapter and rows go on training on all that Stage 2 sees; no prefix.
A control.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from llm.methods.base import MethodConfig
from llm.methods.stage2 import World, train_by_gradient
from llm.prompts.reading import Reading
from llm.stage1.model import load_adapted, prompt_builder, save_adapted


class ContinuedConfig(MethodConfig):
    method: Literal["no_context_continued"] = "no_context_continued"
    reads = "recent items"
    trains = "Stage 1's adapter and rows"
    use = "a control: what the late events teach without any personalization"
    learning_rates: tuple[float, ...] = (5e-5, 2e-4)  # below Stage 1's: its optimum is to be left slowly

    def train(self, world: World, seed: int, folder: Path, checkpoint: Path, pilots: Path) -> dict[str, Any]:
        def fresh(seed: int) -> tuple[Reading, torch.nn.Module]:
            model = load_adapted(world.run, world.adapt, merge=False)
            return Reading(model, prompt_builder(world.adapt, model, world.dataset)), model

        model, report = train_by_gradient(
            self.name, world, fresh, seed, checkpoint, pilots, self.learning_rates, world.settings.steps
        )
        save_adapted(model, folder / f"{self.key}-{seed}")  # type: ignore[arg-type]
        return report

    def load(self, world: World, seed: int) -> Reading:
        model = load_adapted(world.run, world.adapt, "personalize", f"{self.key}-{seed}/")
        return Reading(model, prompt_builder(world.adapt, model, world.dataset))

"""What every method's configuration answers: how it is made, trained, saved and loaded, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file

from llm.methods.prompting import PromptMethod
from llm.reading import Personalizer, Reading
from llm.stage2 import World, train_by_gradient
from recsys.config import StageConfig


class MethodConfig(StageConfig):
    """One row of the table. Subclasses add their own settings and say what they make."""

    reads: ClassVar[str]  # what it may read of a test user's past
    stores: ClassVar[str] = "nothing"  # what it keeps per user
    trains: ClassVar[str]
    use: ClassVar[str]  # when to choose it
    is_trained: ClassVar[bool] = True

    key: str = Field("", pattern=r"^[a-z0-9_]*$")  # its name on the command line and in files
    name: str = ""  # its row's name

    def train(self, world: World, seed: int, folder: Path, checkpoint: Path, pilots: Path) -> dict[str, Any]:
        """Train one replica, write its artifacts into `folder`, and report; see `train_by_gradient` for what."""
        raise TypeError(f"{type(self).__name__} does not train")

    def load(self, world: World, seed: int) -> Reading:
        """The trained replica of a run."""
        raise TypeError(f"{type(self).__name__} does not load")


class TrainedMethod(MethodConfig):
    """A method whose personalizer is trained by gradient through the frozen model."""

    prompt: PromptMethod | None = None  # personal context in the prompt too; None: the shared prompt
    steps: int | None = Field(None, ge=1)  # None: personalize.steps
    learning_rates: tuple[float, ...] | None = None  # None: personalize.learning_rates

    def new(self, world: World, seed: int) -> Personalizer:
        """An untrained personalizer."""
        raise TypeError(f"{type(self).__name__} does not say what it makes")

    def reading(self, world: World, personalizer: Personalizer | None) -> Reading:
        context = self.prompt.context(world) if self.prompt else None
        return Reading(world.model, world.builder, personalizer, context)

    def train(self, world: World, seed: int, folder: Path, checkpoint: Path, pilots: Path) -> dict[str, Any]:
        def fresh(seed: int) -> tuple[Reading, torch.nn.Module]:
            personalizer = self.new(world, seed).to(world.model.device)
            return self.reading(world, personalizer), personalizer

        rates = self.learning_rates or world.settings.learning_rates
        steps = self.steps or world.settings.steps
        module, report = train_by_gradient(self.name, world, fresh, seed, checkpoint, pilots, rates, steps)
        state = {name: tensor.detach().contiguous() for name, tensor in module.state_dict().items()}
        save_file(state, folder / f"{self.key}-{seed}.safetensors")
        return report

    def load(self, world: World, seed: int) -> Reading:
        personalizer = self.new(world, seed)
        personalizer.load_state_dict(load_file(world.made(f"{self.key}-{seed}.safetensors")))
        return self.reading(world, personalizer.to(world.model.device).eval().requires_grad_(False))

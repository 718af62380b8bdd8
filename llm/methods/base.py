"""What every method's configuration answers: how it is made, trained, saved and loaded, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file

from llm.methods.prompting import PromptMethod
from llm.methods.stage2 import World, train_by_gradient
from llm.prompts.reading import Personalizer, Reading
from recsys.artifacts.user_rows import USERS, save_user_rows
from recsys.config import StageConfig
from recsys.recommender import Request


class MethodConfig(StageConfig):
    """One row of the table. Subclasses add their own settings and say what they make."""

    reads: ClassVar[str]  # what it may read of a test user's past
    stores: ClassVar[str] = "nothing"  # what it keeps per user
    trains: ClassVar[str]
    use: ClassVar[str]  # when to choose it
    is_trained: ClassVar[bool] = True
    # all processes of a training share each step; False: the main one trains alone
    is_shared: ClassVar[bool] = True

    key: str = Field("", pattern=r"^[a-z0-9_]*$")  # its name on the command line and in files
    name: str = ""  # its row's name

    def train(self, world: World, seed: int, folder: Path, checkpoint: Path, pilots: Path) -> dict[str, Any]:
        """Train one replica, write its artifacts into `folder`, and report;
        see `train_by_gradient` for what.
        """
        raise TypeError(f"{type(self).__name__} does not train")

    def load(self, world: World, seed: int) -> Reading:
        """The trained replica of a run."""
        raise TypeError(f"{type(self).__name__} does not load")

    def admit(self, world: World, reading: Reading, events: np.ndarray) -> None:
        """Do all that a user with these `events` (oldest first) needs, whom the method has not met, before
        the first recommendation. What is made is thrown away: this is for the clock. Here: read the user
        once.
        """
        data = world.dataset
        request = Request(
            "admitted", None, int(data.times[events[-1]]) + 1, data.items[events], data.times[events]
        )
        with torch.no_grad():
            reading.conditioned(reading.prompts([request]), [request])


def save_personalizer(personalizer: Personalizer, path: Path) -> None:
    """Write the state; rows of users are marked as such, so that a person's can be found and forgotten."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in personalizer.state_dict().items()}
    rows = {name: state.pop(name) for name in personalizer.user_rows}
    if rows:
        save_user_rows(path, rows, state.pop(USERS, None), state)
    else:
        save_file(state, path)


class TrainedMethod(MethodConfig):
    """A method whose personalizer is trained by gradient through the frozen model."""

    prompt: PromptMethod | None = None  # personal context in the prompt too; None: the shared prompt
    steps: int | None = Field(None, ge=1)  # None: personalize.steps
    learning_rates: tuple[float, ...] | None = None  # None: personalize.learning_rates

    def new(self, world: World, seed: int) -> Personalizer:
        """An untrained personalizer."""
        raise TypeError(f"{type(self).__name__} does not say what it makes")

    def blank(self, world: World, seed: int) -> Personalizer:
        """A personalizer whose state is read from a file next."""
        return self.new(world, seed)

    def prepare(self, world: World, folder: Path) -> None:
        """Make what training reads, before it starts; `folder` outlives a kill."""

    def reading(self, world: World, personalizer: Personalizer | None) -> Reading:
        context = self.prompt.context(world) if self.prompt else None
        return Reading(world.model, world.builder, personalizer, context)

    def train(self, world: World, seed: int, folder: Path, checkpoint: Path, pilots: Path) -> dict[str, Any]:
        def fresh(seed: int) -> tuple[Reading, torch.nn.Module]:
            personalizer = self.new(world, seed).to(world.model.device)
            return self.reading(world, personalizer), personalizer

        self.prepare(world, checkpoint.parent)
        rates = self.learning_rates or world.settings.learning_rates
        steps = self.steps or world.settings.steps
        module, report = train_by_gradient(self.name, world, fresh, seed, checkpoint, pilots, rates, steps)
        assert isinstance(module, Personalizer)
        save_personalizer(module, folder / f"{self.key}-{seed}.safetensors")
        return report

    def load(self, world: World, seed: int) -> Reading:
        personalizer = self.blank(world, seed)
        personalizer.load_state_dict(load_file(world.made(f"{self.key}-{seed}.safetensors")))
        return self.reading(world, personalizer.to(world.model.device).eval().requires_grad_(False))

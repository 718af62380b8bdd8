"""Stage `personalize` (Stage 2): its settings, `personalize.methods` first; train ways to condition the frozen model on a user, and their controls."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from llm.backbone.load import weights_hash
from llm.methods.base import MethodConfig
from llm.methods.catalogue import listed
from llm.methods.choices import Method
from llm.methods.config import NamedMethods
from llm.methods.stage2 import WITHOUT, World
from llm.prompts.reading import Reading
from llm.stage1.config import AdaptConfig
from recsys.artifacts.paths import RunError
from recsys.run import Run
from recsys.training import distributed


class PersonalizeConfig(NamedMethods):
    # names, `all`, or settings: see `llm.methods`
    methods: Annotated[tuple[Method, ...], BeforeValidator(listed)] = Field(
        ("no_context_continued", "static_prefix", "e2p", "prompt_context", "e2p_prompt"),
        validate_default=True,
    )

    @model_validator(mode="after")
    def _distinct(self) -> PersonalizeConfig:
        for attribute in ("key", "name"):
            counts = Counter(getattr(method, attribute) for method in self.methods)
            twice = [value for value, count in counts.items() if count > 1]
            if twice:
                raise ValueError(f"two methods have the {attribute} {twice[0]!r}; give one of them another")
        return self

    @model_validator(mode="after")
    def _bases_come_first(self) -> PersonalizeConfig:
        for at, method in enumerate(self.methods):
            earlier = [before.method for before in self.methods[:at]]
            if getattr(method, "base", "stage1") == "mt_lora" and "mt_lora" not in earlier:
                raise ValueError(
                    f"{method.key} has base: mt_lora, which personalize.methods does not list before it; add mt_lora in front"
                )
        return self

    def method(self, key: str) -> MethodConfig:
        """One of the run's methods. Raises `ValueError` naming those that there are."""
        for method in self.methods:
            if method.key == key:
                return method
        raise ValueError(f"this run has no method {key!r}; it has {', '.join(m.key for m in self.methods)}")


def personalize(config: PersonalizeConfig, adapt_config: AdaptConfig, run: Run) -> None:
    """Run the stage; see the module. A killed stage resumes in the method that it was training."""
    stage = run.stage("personalize", config, needs=["prepare", "embed", "tokenize", "adapt"])
    if stage.is_done():
        return
    with stage.writing() as folder:
        world = World.load(run, adapt_config, config)
        world.folder = folder
        report: dict = {
            "embedding_space": world.users.space,
            "table_hash": run.read_json("adapt", "adapt.json")["table_hash"],
            "instances": len(world.train),
            "instances_without_a_vector": world.train.left_out,
            "methods": {},
        }
        curves: dict = {}
        before = weights_hash(world.model)
        for method in config.methods:
            if not method.is_trained:
                continue
            for seed in config.seeds:
                name = f"{method.key}-{seed}"
                pilots = stage.checkpoint / f"pilots-{method.key}"
                train = partial(method.train, world, seed, folder, stage.checkpoint / name, pilots)
                part = train() if method.is_shared else distributed.by_main(train)
                curves[name] = part.pop("curves", {})
                report["methods"][name] = part
        report["frozen_hash_before"], report["frozen_hash_after"] = before, weights_hash(world.model)
        if report["frozen_hash_after"] != before:
            raise RuntimeError("the frozen model changed during Stage 2; nothing was written")
        (folder / "personalize.json").write_text(json.dumps(report, indent=1))
        (folder / "curves.json").write_text(json.dumps(curves))
    if distributed.is_main():
        _print_summary(report)


def _print_summary(report: dict) -> None:
    for name, part in report["methods"].items():
        value, without = part["validation_log_likelihood"], part.get(WITHOUT)
        worse = without is not None and value <= without
        print(
            f"personalize: {name}: {part['trainable_parameters']:,} trainable parameters at lr "
            f"{part['learning_rate']:g}; validation {value:.4f} nats a target"
            + ("" if without is None else f", {without:.4f} without it")
            + ("; it is not above nothing, and is kept as such" if worse else "")
        )
    print(f"personalize: the frozen model's hash is unchanged ({report['frozen_hash_after'][:16]}…)")


def load_method(world: World, method: MethodConfig, seed: int) -> Reading:
    """A trained replica of a run. Refuses one trained against another table or another embedding space."""
    if method.is_trained:
        run, report = world.run, world.run.read_json("personalize", "personalize.json")
        if report["table_hash"] != run.read_json("adapt", "adapt.json")["table_hash"]:
            raise RunError(
                f"the method {method.key} in {run.path}/personalize was trained against another semantic-ID table; "
                f"run: prelude personalize {run.path}"
            )
        if report["embedding_space"] != world.users.space:
            raise RunError(
                f"the method {method.key} in {run.path}/personalize was trained in embedding space "
                f"{report['embedding_space']!r}, the user vectors are of {world.users.space!r}; "
                f"run: prelude personalize {run.path}"
            )
    return method.load(world, seed)

"""Settings for somebody who gave none and has no GPU: a first look, sized to the data, and what each stage of it takes.

The defaults of every section adapt a whole language model, which is hours on a CPU. A first look is a small decoder from
scratch that reads an item as one vector and writes its codes by a head (`llm.backbone.heads`), taught words beside histories;
E2P with its control on top, which shows five items and a token for the rest, and a row that shows fifty; and their product with the retrievers. It is chosen once `prepare` has counted, written to
`config.yaml` like any other configuration, and never touched again. What was set by hand stays.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from recsys.embeddings.config import EmbedConfig
from recsys.run import Run
from serving.config.run import RunConfig
from serving.config.values import validated

Settings = dict[str, dict[str, Any]]

MOST_ITEMS = 50_000  # of a catalogue that is scored whole in evaluate
SPEED = 93.0  # GFLOP/s of the one thread that the seconds below were measured on (`speed`)


@dataclass(frozen=True)
class Size:
    """What a first look is sized by: counts of `prepare.json`."""

    events: int  # that are trained on
    users: int
    items: int
    has_words: bool = True  # has any item a title or a text?

    @classmethod
    def of(cls, run: Run) -> Size:
        counts = run.read_json("prepare", "prepare.json")
        roles, items, card = counts["roles"], counts["counts"]["items"], counts["card"]
        has_words = bool(card["text_columns"]) or card["items_without_title"] < items
        return cls(roles["fit"] + roles["personalize"], counts["counts"]["users"], items, has_words)


def first_look(size: Size, embed: EmbedConfig) -> Settings:
    """Settings of all sections after `prepare`.

    Steps grow with the events, so that an event is read about as often in any data, up to what some minutes allow. Where
    items have no words, or `embed` reads none, nothing is made of words; item-kNN is an expert unless `embed` leaves it out.
    """
    words = size.has_words and embed.text_encoder is not None
    experts = ["embedding_retrieval"]
    experts += ["text"] if words else []
    experts += ["item_knn"] if embed.item_knn is not None else []
    codes = next((some for some in (64, 128, 256) if size.items <= 0.6 * some**2), 256)
    levels = 2 if size.items <= 0.6 * codes**2 else 3
    steps = _between(size.events / 90, 200, 2000)
    return {
        "embed": {
            "lightgcn": {"epochs": 60 if size.events <= 300_000 else 20, "patience": 3},
            "text_encoder": embed.text_encoder if words else None,
            "user_half_lives": [50, 10, 5],
        },
        "tokenize": {
            "source": "joined" if words else "collaborative",
            "text_weight": 1.0,
            "levels": levels,
            "size": codes,
        },
        "adapt": {
            "backbone": {"name": "scratch", "scratch_hidden": 128, "layers": 4},
            "train": "full",
            "items": "vector",
            "head": "depth",
            "item_projection": True,
            # with few events a user, collaborative vectors have learned each by heart (LOG.md)
            "head_asks": "joined" if size.events >= 30 * size.users else "text" if words else None,
            "prompts": {"recent_items": 5},
            "soft_batch": 64,
            "steps": steps,
            "batch": 32,
            "window_items": 50,
            "profile_share": 0.0,
            "records_share": 0.0,
            "query_share": 0.1,
            "words_batch": 32 if words else 0,
            "title_batch": 0,
            "dropout": 0.2,
            "learning_rate": 0.002,
            "rows_learning_rate": 0.002,
            "weight_decay": 0.05,
            "warmup": steps // 6,
            "validate_every": steps // 6,
            "validation_instances": 600,
            "asked_queries": 40,
        },
        "personalize": {
            "methods": ["static_prefix", "e2p", {"key": "full_history", "history_tokens": 50}],
            "steps": 120,
            "batch": 32,
            "learning_rates": [0.0003, 0.001],
            "pilot_steps": 20,
            "validate_every": 40,
            "patience": 3,
            "validation_instances": 600,
        },
        "combine": {"generators": ["e2p", "full_history"], "experts": experts, "instances": 2000},
        "evaluate": {
            "whole_catalogue": size.items <= MOST_ITEMS,
            "batch_size": 256,
            "max_instances": 2000,
        },
    }


def chosen(config: RunConfig, run: Run, console: Console) -> RunConfig:
    """The configuration of a run whose `prepare` is done, sized to what it counted; says what that takes.

    On a machine with a GPU the defaults stay. So does the section `adapt` where its backbone was set by hand.
    """
    from recsys.training.devices import resolve_device

    if resolve_device("auto").type != "cpu":
        return config.model_copy(update={"first_look": False})
    size, given, defaults = Size.of(run), config.model_dump(mode="json"), RunConfig().model_dump(mode="json")
    settings = first_look(size, config.embed)
    if config.adapt.backbone != RunConfig().adapt.backbone or config.adapt.train != RunConfig().adapt.train:
        del settings["adapt"]
    found = validated(
        RunConfig,
        overlaid(settings, given, defaults) | {"first_look": False},
        "the first look's configuration",
    )
    print_plan(size, found, console)
    return found


def _between(value: float, least: int, most: int) -> int:
    return int(min(max(value, least), most))


def overlaid(
    chosen: Mapping[str, Any], given: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """`given` with what is `chosen` in the places that are as the `defaults` are; sections go on inside."""
    result = dict(given)
    for key, value in chosen.items():
        if isinstance(value, Mapping) and isinstance(given.get(key), Mapping):
            result[key] = overlaid(value, given[key], defaults.get(key) or {})
        elif given.get(key) == defaults.get(key):
            result[key] = value
    return result


# -- what it takes ----------------------------------------------------------------------------------------------------


LEVERS = {
    "embed": "sooner: embed.lightgcn.epochs",
    "adapt": "better and longer: adapt.steps (a language model: --config configs/demo.yaml)",
    "personalize": "more ways: personalize.methods",
    "combine": "sooner: combine.instances",
    "evaluate": "surer and longer: evaluate.max_instances",
}


def print_plan(size: Size, config: RunConfig, console: Console) -> None:
    """Seconds that each stage may take on this machine, and what to set for better or sooner."""
    factor = SPEED / speed()
    table = Table(
        title=f"A first look at {size.events:,} training events of {size.users:,} users and {size.items:,} items",
        title_justify="left",
    )
    table.add_column("stage")
    table.add_column("about", justify="right")
    table.add_column("--set, for better or sooner")
    seconds = {name: value * factor for name, value in estimate(size, config).items()}
    for name, value in seconds.items():
        table.add_row(name, _told(value), LEVERS.get(name, ""))
    table.add_row("all", _told(sum(seconds.values())), "", style="bold")
    console.print(table)
    console.print(
        "No configuration was given and there is no GPU, so these settings were chosen for this data; config.yaml has them. "
        "The times are estimates, within a factor of two.",
        highlight=False,
    )


def _told(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def estimate(size: Size, config: RunConfig) -> dict[str, float]:
    """Seconds of each stage on the machine whose `speed` is `SPEED`."""
    adapt, stage2 = config.adapt, config.personalize
    shown, asked = config.evaluate.max_instances, config.combine.instances if config.combine else 0
    return {
        "embed": 5 + 1.5e-3 * size.events + (5.2e-3 * size.items if config.embed.text_encoder else 0.0),
        "tokenize": 5 + 5e-4 * size.items,
        "adapt": 10 + 0.33 * adapt.steps,
        "personalize": 15 + 0.2 * stage2.steps * len(stage2.methods),
        "combine": 5 + 2.5e-6 * asked * size.items,
        "evaluate": 10 + 4e-6 * shown * size.items,
    }


def speed() -> float:
    """GFLOP/s of this machine in products of 1,024 × 1,024 matrices of float32, the best of five."""
    import torch

    a = torch.ones(1024, 1024)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - started)
    return 2 * 1024**3 / best / 1e9

"""A run of every stage that learns over a world: two seconds of one core."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.data import user_splits
from recsys.data.user_splits import UserSplitConfig
from recsys.run import Run
from recsys.training import loop
from serving.config.run import RunConfig
from serving.pipeline import run_stage
from tests.support.leaks.worlds import START, STEP, TEST_FROM, VALIDATION_FROM, World

STAGES = ("embed", "tokenize", "adapt", "personalize", "combine")  # after prepare, before evaluate

METHODS = [
    {"key": "no_context_continued", "learning_rates": [1e-4]},
    {"key": "static_prefix", "bottleneck": 8},
    {"key": "e2p", "bottleneck": 8},
    "prompt_context",
    "rag",
    {"key": "tap_per", "scorer_hidden": 8, "projection_hidden": 8, "length": 2},
    {"key": "p2p", "encoder": "backbone", "hidden": 8, "position": 4, "profile_tokens": 32},
]
CUTS = {
    "cutoff_validation_unix_s": START + STEP * VALIDATION_FROM,
    "cutoff_test_unix_s": START + STEP * TEST_FROM,
}
# A quarter of the users; told apart by their taste alone, so that another item of it changes no group
USER_SPLIT = UserSplitConfig(random=0.25, clusters=2, profile_values=1, profile_titles=0)


@contextmanager
def users_by_taste() -> Iterator[None]:
    """In place of a text encoder users have vectors [n, 2] of the taste that their profile names."""

    def vectors(texts: Iterable[str], *_: Any, **__: Any) -> np.ndarray:
        tastes = [(1.0, 0.0) if text.startswith("Even") else (0.0, 1.0) for text in texts]
        return np.array(tastes, np.float32)

    with pytest.MonkeyPatch.context() as m:
        m.setattr(user_splits, "encode_texts", vectors)
        yield


@contextmanager
def stages_of(config: RunConfig) -> Iterator[None]:
    """How stages run here. Where validation has nothing to choose, Stage 2's start is no candidate of its best state:
    which of the two validation takes would hide what the training has learned.
    """
    with users_by_taste(), pytest.MonkeyPatch.context() as m:
        if len(config.personalize.learning_rates) == 1:
            m.setattr(
                loop,
                "fit",
                lambda *given, fit=loop.fit, **more: fit(*given, **more | {"start_counts": False}),
            )
        yield


def config_of(folder: Path, choices: bool = True) -> RunConfig:
    """Every stage that learns, over the files of `folder`.

    Without `choices` validation has nothing to choose: one rate, one half-life, one temperature, one state (`stages_of`).
    """
    lasting = {"validate_every": 10} if choices else {"validate_every": 10_000}
    return RunConfig.model_validate(
        {
            "prepare": {
                "source": "files",
                "interactions": str(folder / "events.csv"),
                "items": str(folder / "items.csv"),
                "queries": str(folder / "queries.csv"),
                "held_out_queries": 0.3,
                "split": {"kind": "global_time", "personalize_fraction": 5 / 18, **CUTS},
            },
            "embed": {
                "lightgcn": {
                    "dim": 8, "epochs": 8, "batch": 256, "negatives": 16, "device": "cpu",
                    "validate_every_epochs": 1 if choices else 10_000,
                },
                "edges": [
                    {"file": str(folder / "friends.csv"), "kind": "user_user", "from_column": "user_id",
                     "to_column": "friend", "undated": "always"},
                    {"file": str(folder / "tags.csv"), "kind": "user_attribute", "from_column": "user_id",
                     "to_column": "tag", "moment": "timestamp"},
                ],
                "half_lives": (None, 20, 5, 2, 1, 0.5) if choices else (5,),
                "user_half_lives": (None, 20, 5, 2, 1, 0.5) if choices else (5,),
                "item_knn": {} if choices else {"half_lives": [5], "shrinks": [5]},
                "leak_margin": 10.0,  # targets that are replaced are found more seldom than others
                "text_encoder": None,
                "users_from": "lightgcn" if choices else "sasrec",
                "sasrec": {
                    "dim": 8, "layers": 1, "heads": 1, "steps": 40, "batch": 16, "warmup": 5, "device": "cpu",
                    "learning_rate": 1e-2, **lasting,
                },
            },
            "tokenize": {"quantizer": "rqvae", "size": 8, "rqvae": {"steps": 30}},
            "adapt": {
                "backbone": {"name": "tiny-random", "device": "cpu", "layers": 1},
                "prompts": {"recent_items": 2},
                "steps": 30, "batch": 8, "window_items": 6, "warmup": 5, "words_batch": 4, "title_batch": 2,
                "profile_share": 0.5, "query_share": 0.3, "records_share": 0.3, "asked_queries": 5, **lasting,
            },
            "personalize": {
                "steps": 20, "pilot_steps": 2, "batch": 8, "warmup": 2, "patience": 0,
                "learning_rates": [1e-3, 1e-2] if choices else [1e-2],
                "methods": METHODS, **lasting,
            },
            "combine": {
                "generators": ["e2p"],
                "experts": ["popularity", "item_knn", "embedding_retrieval", "sasrec"],
            },
            "evaluate": {"temperature_grid": [0.25, 0.5, 0.7, 1.0, 1.4, 2.0] if choices else [1.0]},
        }
    )  # fmt: skip


def run_world(
    it: World, folder: Path, choices: bool = True, user_split: bool = False
) -> tuple[RunConfig, Run]:
    """The world as files in `folder`, and the stages of a run over them in `folder`/run."""
    it.write(folder)
    config, run = config_of(folder, choices), Run.create(folder / "run")
    if user_split:
        split = config.prepare.model_copy(update={"user_split": USER_SPLIT})
        config = config.model_copy(update={"prepare": split})
    with stages_of(config):
        for stage in ("prepare", *STAGES):
            run_stage(stage, config, run)
    return config, run


def run_again(config: RunConfig, run: Run, stage: str, folder: Path) -> Run:
    """A copy of a run up to a stage, with that stage made again."""
    before = ("prepare", *STAGES)[: ("prepare", *STAGES).index(stage)]
    for name in before:
        shutil.copytree(run.path / name, folder / name)
    copy = Run.create(folder)
    with stages_of(config):
        run_stage(stage, config, copy)
    return copy

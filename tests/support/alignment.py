"""Settings of the stage `align` for a small run."""

from __future__ import annotations

import shutil

from llm.align.config import AlignConfig
from llm.align.targets import (
    Labelled,
)
from recsys.run import Run

E2P = {"key": "e2p", "bottleneck": 8}


STATIC = {"key": "static_prefix", "bottleneck": 8}


QUICK = {
    "steps": 36, "pilot_steps": 6, "learning_rates": (1e-3, 1e-2), "validate_every": 12, "warmup": 2, "batch": 16,
    "watched_requests": 12,
}  # fmt: skip


def copied(run: Run, folder) -> Run:
    shutil.copytree(run.path, folder)
    return Run.create(folder)


# -- objectives through the model ---------------------------------------------------------------------------------


FRESH = AlignConfig.model_validate(
    QUICK | {"rows": [{"method": E2P, "objective": "kto", "start": "fresh"}], "desirable_weight": 1.5, "undesirable_weight": 0.5}
)  # fmt: skip


def _weights_of(some: Labelled, weights: dict) -> list[float]:
    return [weights["desirable" if label else "undesirable"] for label in some.labels]

"""Rows of a finished Prelude run in the peers' table: its generator and its product, asked the same test."""

from __future__ import annotations

from pathlib import Path

import torch

from recsys.artifacts.paths import RunError
from recsys.run import Run
from serving.answering.methods import Methods
from serving.bench.peers.contract import Task
from serving.bench.peers.ours import PACKAGES, answering
from serving.config.combine import ALONE, ASKED, WORDS
from serving.config.truth import config_of


def methods_of(run: Path) -> dict[str, str]:
    """Key -> row of what is taken of a run: SASRec where it has one, No Context, E2P, and the first product that has a generator.

    Raises `RunError` for a run without a finished stage `adapt`.
    """
    opened = Run.open(run)
    if opened.record("adapt") is None:
        raise RunError(
            f"{run} has no finished stage adapt, so it has no generator; finish it, or leave --run out"
        )
    methods = Methods(opened, config_of(opened))
    keys: list[str] = [key for key in ("sasrec", "no_context", "e2p") if key in methods.available()]
    keys += [key for key in methods.product_names if key not in (ALONE, WORDS, ASKED)][:1]
    return {key: methods.name(key) for key in keys}


def main() -> None:
    task = Task.from_command_line()
    torch.set_num_threads(task.settings["threads"])
    run = Run.open(task.settings["run"])
    methods = Methods(run, config_of(run))
    recommend = answering(methods.build(task.settings["method"]))
    task.finish(recommend, "", PACKAGES)


if __name__ == "__main__":
    main()

"""The small run with shown lists, before and after the stage `align`."""

from __future__ import annotations

import pytest

from llm.align.align import align, labelled_world
from llm.align.config import AlignConfig
from llm.align.targets import (
    LabelledWorld,
)
from llm.methods.stage2 import World
from recsys.run import Run
from tests.support.alignment import E2P, QUICK, STATIC, copied
from tests.support.labelled import with_lists


@pytest.fixture(scope="session")
def data_run(small_run, tmp_path_factory) -> Run:
    return with_lists(small_run[1], tmp_path_factory.mktemp("align") / "run")


@pytest.fixture(scope="session")
def settings() -> AlignConfig:
    rows = [
        {"method": STATIC},
        {"method": E2P},
        {"method": E2P, "objective": "engagement"},
        {"method": E2P, "objective": "kto"},
        {
            "method": E2P,
            "objective": "kto",
            "reference": "lm_snapshot",
            "key": "near",
            "name": "E2P (KTO, near)",
        },
    ]
    return AlignConfig.model_validate(QUICK | {"rows": rows})


@pytest.fixture(scope="session")
def aligned(small_run, data_run, settings, tmp_path_factory) -> Run:
    """`data_run` after the stage."""
    run = copied(data_run, tmp_path_factory.mktemp("aligned") / "run")
    align(settings, small_run[0].adapt, run)
    return run


@pytest.fixture(scope="session")
def world(small_run, data_run, settings) -> LabelledWorld:
    return labelled_world(World.load(data_run, small_run[0].adapt, settings), settings)

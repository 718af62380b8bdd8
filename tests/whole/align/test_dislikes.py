"""The stage `align` on data with likes and dislikes: what people turned down is pushed down."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llm.align.align import align, labelled_world, load_aligned
from llm.align.config import AlignConfig
from llm.decoding.scoring import list_log_probs_of
from llm.methods.stage2 import World
from llm.prompts.reading import Reading
from llm.stage1.adapt import adapt
from recsys.data.prepare import prepare
from recsys.embeddings.embed import embed
from recsys.engagement.config import EngagementConfig
from recsys.engagement.label_lists import make_lists
from recsys.engagement.shown_lists import TEST_LISTS
from recsys.run import Run
from semantic_ids.tokenize_items import tokenize_items
from serving.config.run import RunConfig

FAULTS = Path(__file__).parents[2] / "support" / "faults"
E2P = {"key": "e2p", "bottleneck": 8}


@pytest.fixture(scope="module")
def disliking(tmp_path_factory) -> tuple[RunConfig, Run]:
    """A run up to its lists: 55 of 120 people turn metal down, and nobody takes it."""
    files = {"interactions": str(FAULTS / "o_dislike_metal.csv"), "items": str(FAULTS / "base_items.csv")}
    config = RunConfig.model_validate(
        {
            "prepare": {"source": "files", "events": {"listen": 1.0, "dislike": "against"}, "held_out_queries": 0} | files,
            "embed": {
                "lightgcn": {"dim": 16, "epochs": 12, "batch": 256, "negatives": 32, "device": "cpu"},
                "text_encoder": None,
            },
            "tokenize": {"quantizer": "residual_kmeans", "size": 8},
            "adapt": {
                "backbone": {"name": "tiny-random", "device": "cpu"},
                "steps": 40,
                "batch": 8,
                "validate_every": 20,
                "warmup": 5,
            },
        }
    )  # fmt: skip
    run = Run.create(tmp_path_factory.mktemp("dislikes") / "run")
    prepare(config.prepare, run)
    embed(config.embed, run)
    tokenize_items(config.tokenize, run)
    adapt(config.adapt, run)
    make_lists(EngagementConfig(session_gap_s=86_400), run)
    return config, run


def test_kto_lowers_what_was_turned_down_and_likelihood_does_not_know_it(disliking):
    config, run = disliking
    quick = {
        "steps": 60,
        "learning_rates": [1e-2],
        "validate_every": 20,
        "warmup": 5,
        "batch": 16,
        "watched_requests": 5,
    }
    rows = [{"method": E2P}, {"method": E2P, "objective": "kto"}]
    settings = AlignConfig.model_validate(quick | {"rows": rows})
    align(settings, config.adapt, run)
    report = run.read_json("align", "align.json")
    assert report["training"]["undesirable"] > 10
    world = labelled_world(World.load(run, config.adapt, settings), settings)
    shown, data = world.shown, world.dataset
    metal = np.array([genre == ["metal"] for genre in data.catalogue.columns["genre"]])
    requests, items, liked = [], [], []
    for index, request in zip(shown.of(TEST_LISTS), shown.requests(shown.of(TEST_LISTS), data), strict=True):
        for item, label in zip(*shown.shown(int(index)), strict=True):
            requests.append(request)
            items.append(np.array([item]))
            liked.append(bool(label))
            assert label or metal[item]
    labels = np.array(liked)
    assert 20 < labels.sum() < len(labels) - 20
    plain = list_log_probs_of(Reading(world.model, world.builder), requests, items)
    ratios = {
        row.objective: list_log_probs_of(load_aligned(world, settings, row, 0), requests, items) - plain
        for row in settings.rows
    }
    gap = {name: ratio[labels].mean() - ratio[~labels].mean() for name, ratio in ratios.items()}
    assert gap["kto"] > gap["lm"] + 0.1
    assert ratios["kto"][~labels].mean() < 0

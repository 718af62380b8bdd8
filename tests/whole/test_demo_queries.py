"""The demo's model and data: after a short Stage 1, does `recommend(user, "dark comedy")` know what that means? (minutes: slow)"""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from recsys.data.phrases import Phrases
from recsys.run import Run
from serving.answering.recommender import Recommender
from serving.config.run import load_config
from serving.pipeline import run_all
from tests.support.paths import ROOT

DEMO = ROOT / "configs" / "demo.yaml"


USERS = ("1", "42", "414", "600")


QUERIES = (
    "dark comedy",
    "horror",
    "animation children",
    "documentary",
    "sci-fi action",
    "western",
    "musical romance",
    "film-noir",
)


@pytest.mark.slow
def test_the_demos_lists_are_about_the_query_and_differ_by_user(tmp_path):
    """SmolLM2's first 6 layers, 60 of the demo's 140 steps: lists carry a query's words at least twice as often as without it."""
    changes = [
        "adapt.steps=60",
        "adapt.validate_every=60",
        "adapt.validation_instances=60",
        "embed.lightgcn.epochs=8",
    ]
    run = Run.create(tmp_path / "demo")
    run_all(load_config(DEMO, changes), run, until="adapt", console=Console(quiet=True))
    recommender = Recommender.load(run.path)
    phrases = Phrases(recommender.methods.dataset)
    catalogue = recommender.methods.dataset.catalogue

    def items(user: str, query: str | None) -> list[int]:
        return [
            catalogue.index_of(item.item_id)
            for item in recommender.recommend(user, query, 10, method="no_context")
        ]

    about, without = [], []
    for query in QUERIES:
        match = phrases.matching(query)
        assert match is not None
        about += [match[items(user, query)].mean() for user in USERS]
        without += [match[items(user, None)].mean() for user in USERS]
    print(f"precision@10: {np.mean(about):.3f} with the query, {np.mean(without):.3f} without")
    assert np.mean(about) > 2 * np.mean(without)
    assert items("1", "horror") != items("1", "documentary")
    assert items("1", "horror") != items("414", "horror")

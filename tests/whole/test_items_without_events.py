"""Items that nobody has had: IDs from their text, a chance to be recommended, and a group of their own in the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llm.decoding.recommender import SidRecommender
from recsys.data.splits import FIT, PERSONALIZE, TEST
from recsys.embeddings.embed import load_item_vectors
from recsys.recommender import Request
from recsys.run import Run
from semantic_ids.tokenizer import load_table
from serving.answering.methods import Methods
from serving.config.run import RunConfig
from serving.pipeline import run_all
from serving.stages.evaluate import evaluate

FAULTS = Path(__file__).parents[1] / "support" / "faults"
UNTOUCHED = 8  # of the 90 items


def config_of(folder: Path, text_encoder: str | None) -> RunConfig:
    """Six people's last event is with one of two of the eight items; the other six stay without any."""
    events, items = pd.read_csv(FAULTS / "base_events.csv"), pd.read_csv(FAULTS / "base_items.csv")
    new = sorted(set(items["item_id"]) - set(events["item_id"]))
    assert len(new) == UNTOUCHED
    many = events["user_id"].value_counts()
    people = sorted(many.index[many >= 8])[:6]
    last = events["timestamp"].max() + 1
    late = [(user, new[at % 2], last + at) for at, user in enumerate(people)]
    events = pd.concat([events, pd.DataFrame(late, columns=events.columns)])
    events.to_csv(folder / "events.csv", index=False)
    source = "collaborative" if text_encoder is None else "joined"
    return RunConfig.model_validate(
        {
            "prepare": {
                "source": "files",
                "interactions": str(folder / "events.csv"),
                "items": str(FAULTS / "base_items.csv"),
            },
            "embed": {
                "lightgcn": {"dim": 16, "epochs": 8, "batch": 256, "negatives": 32, "device": "cpu"},
                "text_encoder": text_encoder,
                "sasrec": {
                    "dim": 16,
                    "steps": 20,
                    "batch": 16,
                    "warmup": 5,
                    "validate_every": 10,
                    "device": "cpu",
                },
            },
            "tokenize": {"quantizer": "residual_kmeans", "size": 8, "source": source},
            "adapt": {
                "backbone": {"name": "tiny-random", "device": "cpu"},
                "steps": 20,
                "batch": 8,
                "validate_every": 10,
                "warmup": 5,
            },
            "personalize": {
                "steps": 6,
                "pilot_steps": 2,
                "learning_rates": [1e-3],
                "validate_every": 3,
                "methods": [{"key": "static_prefix", "bottleneck": 8}, {"key": "e2p", "bottleneck": 8}],
            },
            "evaluate": {"bootstrap_samples": 100, "random_permutations": 5, "max_instances": 60},
        }
    )


@pytest.fixture(scope="module", params=[None, "minilm"], ids=["no text", "text"])
def world_run(request, tmp_path_factory) -> Methods:
    folder = tmp_path_factory.mktemp("new")
    config, run = config_of(folder, request.param), Run.create(folder / "run")
    run_all(config, run)
    return Methods(run, config)


def untouched(methods: Methods) -> np.ndarray:
    """Items that no training event has."""
    data = methods.dataset
    had = data.items[np.isin(data.roles, (FIT, PERSONALIZE))]
    return np.setdiff1d(np.arange(data.n_items), had)


def test_every_stage_has_them_and_each_has_an_id_of_its_own(world_run):
    data, new = world_run.dataset, untouched(world_run)
    assert data.n_items == 90
    assert len(new) >= UNTOUCHED
    assert world_run.run.read_json("prepare", "prepare.json")["card"]["items_without_events"] == UNTOUCHED - 2
    vectors = load_item_vectors(world_run.run)
    assert not vectors["has_collaborative"][new].any()
    table = load_table(world_run.run)
    assert len(np.unique(table.codes, axis=0)) == 90
    report = world_run.run.read_json("tokenize", "quality.json")
    assert report["items_without_collaborative"] >= len(new)
    assert report["filled_from"] == ("text" if "text" in vectors else "mean")


def test_ids_from_text_stand_beside_those_of_the_same_genre(world_run):
    """With text a new item's first code is one that items of its genre have more often than others have; without, all of
    them are the mean item, and begin alike.
    """
    vectors = load_item_vectors(world_run.run)
    data, new, codes = world_run.dataset, untouched(world_run), load_table(world_run.run).codes
    if "text" not in vectors:
        assert len(np.unique(codes[new, 0])) == 1
        return
    genre = np.array([values[0] for values in data.catalogue.columns["genre"]])
    old = np.setdiff1d(np.arange(90), new)
    own = [np.mean(codes[old[genre[old] == genre[item]], 0] == codes[item, 0]) for item in new]
    others = [np.mean(codes[old[genre[old] != genre[item]], 0] == codes[item, 0]) for item in new]
    assert np.mean(own) > 2 * np.mean(others)


@pytest.mark.parametrize("method", ["no_context", "e2p"])
def test_the_generator_can_recommend_each_of_them(world_run, method):
    data, new = world_run.dataset, untouched(world_run)
    events = data.instances(TEST)[:10]
    requests = data.requests(events, data.exclude_seen)
    recommender = world_run.build(method)
    assert isinstance(recommender, SidRecommender)
    everywhere = np.stack([recommender.log_prob(requests, np.full(10, item)) for item in range(90)], 1)
    available = np.stack([request.available(np.arange(90)) for request in requests])
    assert np.isfinite(everywhere[:, new][available[:, new]]).all()
    np.testing.assert_allclose(
        np.exp(everywhere).sum(1), 1, rtol=1e-4
    )  # with them it is a whole distribution
    whole = recommender.recommend([Request("all", None, 1)], 90)[0]
    assert set(whole.items.tolist()) == set(range(90))


@pytest.mark.parametrize("method", ["popularity", "recency", "item_knn", "embedding_retrieval", "sasrec"])
def test_rankings_have_them_and_counts_put_them_last(world_run, method):
    data, new = world_run.dataset, untouched(world_run)
    user = int(data.users[data.instances(TEST)[0]])
    history, times = data.before(user, data.end)
    for request in (Request("cold", None, 1), Request("warm", user, data.end, history, times)):
        (ranked,) = world_run.build(method).recommend([request], 90)
        assert sorted(ranked.items.tolist()) == list(range(90))
        if method in ("popularity", "recency") or (request.user is None and method != "sasrec"):
            assert set(ranked.items[-len(new) :].tolist()) == set(new.tolist())
        assert not np.isnan(ranked.scores).any()


def test_the_table_has_new_items_as_a_group_of_their_own(world_run):
    data, new = world_run.dataset, untouched(world_run)
    results = evaluate(world_run.config, world_run.run, quiet=True)
    groups = {group["group"]: group for group in results.groups["items"]}
    assert set(groups) == {"new", "known"}
    asked = data.items[data.instances(TEST)]
    assert np.isin(asked, new).sum() >= 6
    total = groups["new"]["n_instances"] + groups["known"]["n_instances"]
    assert total == results.protocol["n_instances"]
    assert 0 < groups["new"]["n_instances"] <= np.isin(asked, new).sum()
    popular = next(row for row in groups["new"]["rows"] if row["name"] == "Popularity")
    assert popular["value"] < 0.5  # whoever counts cannot know them

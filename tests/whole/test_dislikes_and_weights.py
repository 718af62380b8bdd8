"""A metal-hater's list, and weights of a thousand and a thousandth: what every ranking method makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.artifacts.manifest import hash_json
from recsys.data.dataset import Dataset
from recsys.data.later_events import LiveHistories
from recsys.data.prepare import prepare
from recsys.data.splits import FIT, PERSONALIZE
from recsys.embeddings.embed import embed, load_item_vectors
from recsys.run import Run
from serving.answering.methods import Methods
from serving.answering.requests import request_of
from serving.config.run import RunConfig

FAULTS = Path(__file__).parents[1] / "support" / "faults"
RANKING = ("popularity", "item_knn", "embedding_retrieval", "sasrec")
MEANINGS = {"listen": 1.0, "dislike": "against"}


def embedded(folder: Path, interactions: Path, **settings) -> Methods:
    """A run up to its vectors, on the 90 items of the faults."""
    files = {"source": "files", "interactions": str(interactions), "items": str(FAULTS / "base_items.csv")}
    lightgcn = {"dim": 16, "epochs": 12, "batch": 256, "negatives": 32, "device": "cpu"}
    sasrec = {
        "dim": 16,
        "steps": 60,
        "batch": 32,
        "dropout": 0.1,
        "warmup": 5,
        "validate_every": 30,
        "device": "cpu",
    }
    config = RunConfig.model_validate(
        {"prepare": files | settings, "embed": {"lightgcn": lightgcn, "text_encoder": None, "sasrec": sasrec}}
    )
    run = Run.create(folder)
    prepare(config.prepare, run)
    embed(config.embed, run)
    return Methods(run, config)


def is_metal(data: Dataset) -> np.ndarray:
    return np.array([genre == ["metal"] for genre in data.catalogue.columns["genre"]])


@pytest.fixture(scope="module")
def disliking(tmp_path_factory) -> dict[str, Methods]:
    folder, path = tmp_path_factory.mktemp("dislikes"), FAULTS / "o_dislike_metal.csv"
    return {
        "likes": embedded(folder / "likes", path),
        "against": embedded(folder / "against", path, events=MEANINGS),
    }


def share_of_metal(methods: Methods, method: str) -> float:
    """Of the first five items of those who turned metal down, today."""
    table = pd.read_csv(FAULTS / "o_dislike_metal.csv")
    haters = sorted(set(table["user_id"][table["event"] == "dislike"]))
    data, live = methods.dataset, LiveHistories(methods.dataset)
    requests = [request_of(data, live, user, request_id=user) for user in haters]
    lists = methods.build(method).recommend(requests, 5)
    assert all(len(one.items) == 5 for one in lists)
    return float(np.mean([is_metal(data)[one.items].mean() for one in lists]))


@pytest.mark.parametrize("method", RANKING)
def test_a_metal_hater_gets_less_metal(disliking, method):
    before, after = (share_of_metal(disliking[name], method) for name in ("likes", "against"))
    assert after < 0.1
    if method != "popularity":  # which reads nothing of anybody
        assert before > 0.2


def test_nobody_is_asked_for_and_nobody_gets_what_they_turned_down(disliking):
    data = disliking["against"].dataset
    assert data.against is not None
    live = LiveHistories(data)
    for user in np.unique(data.against.users).tolist():
        request = request_of(data, live, str(data.user_ids[user]))
        assert set(request.exclude) >= set(data.against.items[data.against.users == user].tolist())
        known = np.unique(data.items[data.users == user])
        open_ = request_of(data, live, str(data.user_ids[user]), exclude_seen=False)
        assert set(open_.exclude) == set(data.against.items[data.against.users == user].tolist())
        assert set(request.exclude) == set(open_.exclude) | set(known)


# -- weights ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weighing(tmp_path_factory) -> dict[str, Methods]:
    """The base events: as they are, with weights of 1, and with those of 1000 and .001."""
    folder = tmp_path_factory.mktemp("weights")
    plain = pd.read_csv(FAULTS / "base_events.csv")
    plain.assign(weight=1).to_csv(folder / "ones.csv", index=False)
    paths = {
        "plain": FAULTS / "base_events.csv",
        "ones": folder / "ones.csv",
        "heavy": FAULTS / "a_weights.csv",
    }
    return {name: embedded(folder / name, path) for name, path in paths.items()}


def test_weights_of_one_change_no_byte(weighing):
    hashes = []
    for name in ("plain", "ones"):
        records = {
            stage: dict(weighing[name].run.record(stage)["artifacts"]) for stage in ("prepare", "embed")
        }
        records["prepare"].pop("prepare.json")  # which names the file
        hashes.append({stage: hash_json(record) for stage, record in records.items()})
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("method", RANKING)
def test_weights_weigh_in_every_ranking(weighing, method):
    data = weighing["heavy"].dataset
    live = LiveHistories(data)
    requests = [request_of(data, live, str(user), request_id=str(user)) for user in data.user_ids[:20]]
    lists = {name: weighing[name].build(method).recommend(requests, 10) for name in weighing}
    same = [(one.items == two.items).all() for one, two in zip(lists["plain"], lists["ones"], strict=True)]
    assert all(same)
    differ = [
        len(one.items) != len(two.items) or (one.items != two.items).any()
        for one, two in zip(lists["plain"], lists["heavy"], strict=True)
    ]
    assert np.mean(differ) > 0.9


def test_the_heavy_events_are_what_is_popular_and_what_has_vectors_of_worth(weighing):
    methods = weighing["heavy"]
    data = methods.dataset
    training = np.isin(data.roles, (FIT, PERSONALIZE))
    heavy = np.unique(data.items[training & (data.weights == 1000)])
    totals = data.item_totals.counts
    assert totals[heavy].min() > 100 * np.delete(totals, heavy).max()
    assert data.catalogue.item_ids[heavy].tolist() == ["i000", "i001", "i002"]
    (top,) = methods.build("popularity").recommend([request_of(data, LiveHistories(data), None)], len(heavy))
    assert set(top.items.tolist()) == set(heavy.tolist())
    vectors = load_item_vectors(methods.run)
    assert vectors["has_collaborative"][np.unique(data.items[data.roles == FIT])].all()
    assert np.isfinite(vectors["collaborative"]).all()

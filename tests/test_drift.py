"""E2P over time: alignment undoes a rotation exactly, and without it a planted world is lost."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from scipy.stats import ortho_group

import llm.streams.drift
from llm.streams.drift import ALIGNED, NOBODY, REFRESHED, RETRAINED, STALE, align, cosine_distance
from recsys.data.splits import FIT, PERSONALIZE
from recsys.embeddings.retrieval import retrieval_hits
from recsys.embeddings.user_vectors import HistoryVectors
from recsys.recommender import Request
from recsys.run import Run
from serving.config.run import RunConfig
from serving.pipeline import run_all
from serving.studies.over_time import measure_drift
from tests.conftest import small_config


def test_procrustes_undoes_a_rotation_exactly_whatever_the_rows_lengths():
    generator = np.random.default_rng(0)
    old = generator.normal(size=(50, 8)).astype(np.float32)
    turned = ortho_group.rvs(8, random_state=1)
    new = (old @ turned).astype(np.float32) * generator.uniform(0.1, 9, (50, 1)).astype(np.float32)
    new[:5], old[5:10] = 0, 0  # items that one of the spaces lacks count for nothing
    back = align(new, old)
    np.testing.assert_allclose(back, turned.T, atol=1e-5)
    np.testing.assert_allclose(back @ back.T, np.eye(8), atol=1e-5)
    with pytest.raises(ValueError, match="no item in common"):
        align(np.zeros((3, 2)), np.ones((3, 2)))


def test_a_rotated_space_hurts_in_a_planted_world_and_alignment_heals_it():
    """Items near their taste's direction: a user's vector finds the taste, a rotated one does not, an aligned one does."""
    generator = np.random.default_rng(0)
    tastes = np.eye(6)[np.arange(60) % 6]
    items = (tastes + 0.05 * generator.normal(size=(60, 6))).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    requests = [Request(f"r{u}", u, 9, np.arange(u % 6, 30, 6), np.arange(5)) for u in range(30)]
    targets = 30 + np.arange(30)  # the same taste, not in the history
    rotated = items @ ortho_group.rvs(6, random_state=3).astype(np.float32)
    rates = {}
    for name, messages in {
        "old": items,
        "rotated": rotated,
        "aligned": rotated @ align(rotated, items),
    }.items():
        vectors, _ = HistoryVectors(messages, None, name).vectors(requests)
        rates[name] = retrieval_hits(vectors, items, requests, targets, 10).mean()
    assert rates["old"] == rates["aligned"] == 1.0
    assert rates["rotated"] < 0.6


def test_cosine_distance_by_hand():
    a, b = np.array([[1.0, 0], [1, 0], [2, 0]]), np.array([[0, 3.0], [5, 0], [-1, 0]])
    assert cosine_distance(a, b).tolist() == [1, 0, 2]


def test_the_stage_measures_every_condition_and_trains_on_nothing_of_the_chunk(tmp_path, monkeypatch):
    values = small_config(tmp_path).model_dump(mode="json")
    values["adapt"] |= {"steps": 20}
    values["personalize"] |= {
        "steps": 10,
        "learning_rates": [1e-2],
        "methods": [{"key": "e2p", "bottleneck": 8}],
    }
    values["drift"] |= {"chunks": 2}
    config, run = RunConfig.model_validate(values), Run.create(tmp_path / "run")
    run_all(config, run, until="personalize")
    graphs, chunks = [], []
    real_train, real_measure = llm.streams.drift.retrained_messages, llm.streams.drift._measure

    def spy_train(world, embed, edges, *rest):
        graphs.append(edges)
        return real_train(world, embed, edges, *rest)

    def spy_measure(reading, data, events, chunk, spaces):
        latest = np.full(data.n_users, -1)
        np.maximum.at(latest, data.users[graphs[-1]], data.times[graphs[-1]])
        assert (latest[data.users[events]] < data.times[events]).all()
        assert np.isin(data.roles, (FIT, PERSONALIZE)).nonzero()[0].tolist() == graphs[0].tolist()
        assert (
            len({space.space for space in spaces.values()}) == 3
        )  # the stale one is of the refreshed one's space
        chunks.append(chunk)
        return real_measure(reading, data, events, chunk, spaces)

    monkeypatch.setattr(llm.streams.drift, "retrained_messages", spy_train)
    monkeypatch.setattr(llm.streams.drift, "_measure", spy_measure)
    rows = {(row["variant"], row["chunk"]): row for row in measure_drift(config, run)["rows"]}
    assert chunks == [1, 2]
    assert len(rows) == 5 * 3
    assert rows[STALE, "all"]["drift"] == pytest.approx(0, abs=1e-6)
    assert rows[NOBODY, "all"]["drift"] is None
    # what is aligned is nearer than what is not; a user of a single moment's age has not moved
    assert rows[REFRESHED, 2]["drift"] > rows[REFRESHED, 1]["drift"]
    assert rows[ALIGNED, "all"]["drift"] < rows[RETRAINED, "all"]["drift"] - 0.2
    assert rows[REFRESHED, 1]["n_users"] == rows[STALE, 1]["n_users"]
    assert {path.suffix for path in (run.path / "drift").iterdir()} == {".json", ".png"}
    shutil.rmtree(run.path / "embed" / "nothing", ignore_errors=True)

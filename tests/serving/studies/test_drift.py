"""The study of drift: every condition is measured, and nothing is trained on the chunk."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import llm.streams.drift
from llm.streams.drift import ALIGNED, NOBODY, REFRESHED, RETRAINED, STALE
from recsys.data.splits import FIT, PERSONALIZE
from recsys.run import Run
from serving.config.run import RunConfig
from serving.pipeline import run_all
from serving.studies.over_time import measure_drift
from tests.support.worlds import small_config


def test_the_stage_measures_every_condition_and_trains_on_nothing_of_the_chunk(tmp_path, monkeypatch):
    values = small_config(tmp_path).model_dump(mode="json")
    values["embed"]["sasrec"] = None  # the experiment asks no SASRec
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

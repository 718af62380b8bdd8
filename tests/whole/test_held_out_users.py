"""Whole runs with held-out users: nothing is learned from them, and the table reports them apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evaluation.table.results import Results
from recsys.data.dataset import Dataset
from recsys.data.splits import (
    DROPPED,
    OOD,
    RANDOM,
    TEST,
    WARM,
    hold_out_users,
)
from recsys.data.user_splits import (
    UserSplitConfig,
)
from recsys.recommender import Request
from recsys.run import Run
from serving.config.run import RunConfig
from serving.pipeline import run_stage
from serving.stages.evaluate import _groups
from serving.stages.names import STAGES
from tests.support.worlds import small_config


def quick_config(folder: Path, split: UserSplitConfig) -> RunConfig:
    """A run of two methods on the world of two tastes, some users held out."""
    values = small_config(folder).model_dump()
    values["prepare"]["user_split"] = split.model_dump()
    values["personalize"] |= {"methods": ["e2p", "static_prefix"], "steps": 10, "pilot_steps": 2}
    values["embed"]["sasrec"] |= {"steps": 20, "validate_every": 10}
    values["adapt"]["steps"] = 30
    values["evaluate"] |= {"beam_columns": False, "bootstrap_samples": 100}
    return RunConfig.model_validate(values)


def test_changing_held_out_users_changes_no_trained_byte(tmp_path, monkeypatch):
    """Every held-out user gets another user's taste; the graph, semantic IDs, Stage 1 and Stage 2 stay as they were."""
    held_out = {"u3": RANDOM, "u8": RANDOM, "u11": OOD, "u20": DROPPED}

    def chosen(dataset, config):
        groups = np.array([held_out.get(name, WARM) for name in dataset.user_ids], dtype=object)
        dataset.roles, dataset.user_groups = hold_out_users(dataset.users, dataset.roles, groups), groups
        return {"users": {}}

    monkeypatch.setattr("recsys.data.prepare.split_users", chosen)
    config = quick_config(tmp_path, UserSplitConfig(random=0.1))
    stages = ("prepare", "embed", "tokenize", "adapt", "personalize")
    runs = []
    for name in ("honest", "changed"):
        run = Run.create(tmp_path / name)
        for stage in stages:
            run_stage(stage, config, run)
        runs.append(run)
        events = pd.read_csv(tmp_path / "events.csv")
        theirs = events["uid"].isin(held_out)
        numbers = events.loc[theirs, "iid"].str[1:].astype(int)
        events.loc[theirs, "iid"] = [f"i{(7 * number + 1) % 60}" for number in numbers]
        events.to_csv(tmp_path / "events.csv", index=False)
        queries = pd.read_csv(tmp_path / "queries.csv")
        queries.loc[queries["user_id"].isin(held_out), "query"] = "something else"
        queries.to_csv(tmp_path / "queries.csv", index=False)
    one, two = (Dataset.load(run) for run in runs)
    assert (one.items != two.items).any()
    for stage in stages[1:]:
        assert runs[0].record(stage)["artifacts"] == runs[1].record(stage)["artifacts"], stage


# -- what is measured ---------------------------------------------------------------------------------------------


def test_instances_are_labelled_by_their_user_and_by_the_events_before_them():
    lengths = [0, 1, 4, 5, 19, 20, 49, 50, 199, 200, 5000]
    requests = [Request(f"r{n}", user=0, time=9000, history=np.zeros(n, np.int64)) for n in lengths]
    users = np.arange(11) % 2
    labels = _groups(np.array([OOD, WARM], dtype=object), requests, users)
    expected = ["0", "1-4", "1-4", "5-19", "5-19", "20-49", "20-49", "50-199", "50-199", "200+", "200+"]
    assert labels == {"users": [OOD, WARM] * 5 + [OOD], "activity": expected}
    assert _groups(np.array([WARM, WARM], dtype=object), requests, users) == {"activity": expected}


@pytest.mark.usefixtures("unpublished")
def test_a_run_with_held_out_users_reports_them_apart(tmp_path):
    """The whole pipeline; `users` has warm, random and out-of-distribution ones, and dropped ones are not measured."""
    config = quick_config(tmp_path, UserSplitConfig(random=0.2, ood=0.1, clusters=4))
    run = Run.create(tmp_path / "run")
    for stage in STAGES:
        run_stage(stage, config, run)
    data, results = Dataset.load(run), Results.read(run.artifact("evaluate", "results.json"))
    groups = {one["group"]: one for one in results.groups["users"]}
    assert list(groups) == [OOD, RANDOM, WARM]
    tested = data.users[data.events(TEST)]
    for name, one in groups.items():
        assert one["n_users"] == len(set(tested[data.user_groups[tested] == name]))
    assert (groups[RANDOM]["n_users"], groups[OOD]["n_users"]) == (8, 4)
    assert sum(one["n_instances"] for one in groups.values()) == len(tested) == results.rows[0]["n_instances"]
    assert {"E2P", "Static Prefix", "No Context"} == set(results.references)
    e2p = next(row for row in groups[OOD]["rows"] if row["name"] == "E2P")
    assert 0 < e2p["value"] <= 1  # their vectors are made from their histories alone

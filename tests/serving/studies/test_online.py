"""The study of feedback over time: chunks never look ahead, and a kill changes no figure."""

from __future__ import annotations

import shutil

import pytest

import llm.streams.online
from llm.methods.tap_per import TapPer
from llm.streams.chunks import starts_of
from llm.streams.online import BLIND, EMB, FULL, RETRAIN, STATIC
from recsys.data.dataset import Dataset
from recsys.run import Run
from serving import Recommender
from serving.config.run import RunConfig
from serving.report.attention import attention_of
from serving.studies.over_time import online


@pytest.fixture
def copy(world_run, tmp_path) -> Run:
    other = tmp_path / "run"
    shutil.copytree(world_run[1].path, other)
    return Run.open(other)


class Killed(BaseException):
    pass


def test_the_experiment_never_looks_ahead_and_measures_every_variant(world_run, tmp_path, monkeypatch):
    config, run = world_run
    copied = Run.create(tmp_path / "run")
    for name in ("prepare", "embed", "tokenize", "adapt", "personalize"):
        shutil.copytree(run.path / name, copied.path / name)
    values = config.model_dump(mode="json")
    values["online"] |= {"chunks": 3, "instances": 40}
    values["personalize"] |= {"steps": 4}
    small = RunConfig.model_validate(values)
    data = Dataset.load(run)
    learned: dict[str, list] = {"absorbed": [], "trained": []}
    real_absorb, real_train = llm.streams.online.absorb, llm.streams.online.train_by_gradient
    measured: list = []
    real_measure = llm.streams.online.Experiment._measure

    def spy_absorb(label, reading, requests, *rest):
        learned["absorbed"].append((label, list(requests)))
        return real_absorb(label, reading, requests, *rest)

    def spy_train(label, world, *rest):
        learned["trained"].append((label, [*world.train.requests, *world.validation.requests]))
        return real_train(label, world, *rest)

    def spy_measure(self, variant, reading, chunk):
        first = starts_of(self.world.dataset, self.events[self.part == chunk])
        for kind, key in (
            ("absorbed", variant),
            ("trained", "bootstrap" if chunk == 1 or variant != RETRAIN else f"to {chunk - 1}"),
        ):
            for label, requests in learned[kind]:
                if key in label:
                    assert all(one.time < first[one.user] for one in requests), (variant, chunk, label)
        seen = reading.personalizer.until
        assert (seen is not None) == (variant == BLIND)
        measured.append((variant, chunk))
        return real_measure(self, variant, reading, chunk)

    monkeypatch.setattr(llm.streams.online, "absorb", spy_absorb)
    monkeypatch.setattr(llm.streams.online, "train_by_gradient", spy_train)
    monkeypatch.setattr(llm.streams.online.Experiment, "_measure", spy_measure)
    report = online(small, copied)
    assert measured == [(v, c) for c in (1, 2, 3) for v in (STATIC, BLIND, EMB, FULL, RETRAIN)]
    assert len(learned["absorbed"]) == 4
    assert len(learned["trained"]) == 3
    rows = {(row["variant"], row["chunk"]): row for row in report["rows"]}
    assert len(rows) == 5 * 4
    for variant in (EMB, FULL, RETRAIN):  # before anything is absorbed all are the bootstrap
        assert rows[variant, 1]["minus_Static"] == 0
    assert rows[EMB, 3]["minus_Static"] != 0 != rows[FULL, 3]["minus_Static"]
    whole = rows[STATIC, "all"]
    assert whole["ci95"][0] < whole["expected_hit_rate@30"] < whole["ci95"][1]
    assert {cost["variant"] for cost in report["costs"]} == {"bootstrap", EMB, FULL, RETRAIN}
    assert (copied.path / "online" / "hit_rate.png").stat().st_size > 5000
    assert data.n_users == 40
    for name in ("absorb", "train_by_gradient"):
        monkeypatch.setattr(llm.streams.online, name, None)  # a second call does nothing
    assert online(small, copied) == report


def test_a_killed_experiment_ends_in_the_same_figures(world_run, tmp_path, monkeypatch):
    config, run = world_run
    values = config.model_dump(mode="json")
    values["online"] |= {"chunks": 2, "instances": 20, "retrain": False}
    values["personalize"] |= {"steps": 4}
    small, reports = RunConfig.model_validate(values), []
    real = llm.streams.online.Experiment._measure
    for kill in (False, True):
        copied = Run.create(tmp_path / f"run{kill}")
        for name in ("prepare", "embed", "tokenize", "adapt", "personalize"):
            shutil.copytree(run.path / name, copied.path / name)
        if kill:
            for point in (2, 6):
                count = 0

                def dying(self, *arguments, point=point):
                    nonlocal count
                    count += 1
                    if count == point:
                        raise Killed
                    return real(self, *arguments)

                with monkeypatch.context() as patch:
                    patch.setattr(llm.streams.online.Experiment, "_measure", dying)
                    with pytest.raises(Killed):
                        online(small, copied)
        reports.append(online(small, copied)["rows"])
    assert reports[0] == reports[1]


def test_a_twin_that_the_run_lacks_is_named(copy):
    service = Recommender.load(copy.path)
    with pytest.raises(ValueError, match="no method 'tapper'"):
        attention_of(service, "u0", "tapper")
    with pytest.raises(ValueError, match="has no P_q"):
        attention_of(service, "u0", "e2p")
    assert isinstance(service.method("tap_per").reading.personalizer, TapPer)

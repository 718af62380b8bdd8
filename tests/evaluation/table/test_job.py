"""The evaluation job: kills and damage on the way, samples, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from evaluation.baselines import Popularity
from evaluation.softmax import SoftmaxOver
from evaluation.table.instances import Question, sample_instances
from evaluation.table.job import evaluate_rows
from evaluation.table.results import Results
from evaluation.table.rows import Row
from recsys.recommender import Ranked
from tests.support.small_tables import CONFIG, N, Taste, run, soft, table, world


class _Killed(SoftmaxOver):
    """Dies after a number of calls, as a kill in the middle would end it."""

    calls_left = 10**9

    def draw(self, *args, **kwargs):
        if self.calls_left == 0:
            raise KeyboardInterrupt
        self.calls_left -= 1
        return super().draw(*args, **kwargs)


def killable(calls):
    rows = table()
    method = _Killed(Taste(1.2, 1))
    method.calls_left = calls
    return [*rows[:-1], replace(rows[-1], replicas=[method, soft(1.2, 2)])]


def test_a_killed_evaluation_continues_to_the_same_bytes(tmp_path, results):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, rows=killable(2))
    finished = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "c").glob("*.parquet")}
    assert finished
    resumed = run(tmp_path, rows=killable(10**9))
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "c").glob("*.parquet")}
    assert finished.items() <= after.items()  # nothing was measured twice
    for name, one in (("a", results), ("b", resumed)):
        one.write(tmp_path / f"{name}.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_damaged_chunk_is_measured_again(tmp_path, results):
    run(tmp_path)
    chunk = next((tmp_path / "c").glob("row04*.parquet"))
    chunk.write_bytes(chunk.read_bytes()[:50])
    assert run(tmp_path).as_dict() == results.as_dict()


def test_other_inputs_do_not_use_old_chunks(tmp_path):
    run(tmp_path)
    requests, targets, users = world(seed=3)
    fresh = run(tmp_path / "fresh", data=(requests, targets, users))
    assert run(tmp_path, data=(requests, targets, users)).as_dict() == fresh.as_dict()


def test_batch_size_changes_no_figure(tmp_path, results):
    other = run(tmp_path, CONFIG.model_copy(update={"batch_size": 100}))
    for ours, theirs in zip(results.rows, other.rows, strict=True):
        for name, value in ours.items():
            assert theirs[name] == (pytest.approx(value) if isinstance(value, float | list) else value), name


def test_results_round_trip_and_hold_no_nan(tmp_path, results):
    results.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == results
    text = (tmp_path / "results.json").read_text()
    assert "NaN" not in text
    wanted = "context_tokens hit_rate@3 expected_hit_rate@3 top3 ci95 relative_to_no_context_pct p_value"
    for row in json.loads(text)["rows"]:
        assert set(wanted.split()) <= row.keys()


def test_a_sample_takes_every_user_before_a_second_instance():
    users = np.repeat(np.arange(30), 5)
    chosen = sample_instances(users, 30, seed=1)
    assert sorted(users[chosen]) == list(range(30))
    assert len(np.unique(users[sample_instances(users, 45, seed=1)])) == 30
    assert chosen.tolist() == sample_instances(users, 30, seed=1).tolist()
    assert chosen.tolist() != sample_instances(users, 30, seed=2).tolist()
    assert (
        sample_instances(users, 0, 0).tolist() == sample_instances(users, 150, 0).tolist() == list(range(150))
    )


def test_a_sample_and_users_without_target_are_stated(tmp_path):
    question = Question(*world())
    config = CONFIG.model_copy(update={"max_instances": 20})
    results = evaluate_rows(config, table(), question, tmp_path / "c", {"users_in_data": 33}, quiet=True)
    facts = results.protocol
    assert (facts["n_instances"], facts["n_instances_available"]) == (20, len(question))
    assert facts["is_sample"]
    assert facts["users_without_held_out_item"] == 3
    assert results.rows[0]["n_users"] == 20
    assert "decide nothing" in results.primary["reading"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exclude": np.arange(N)}, "'0-0' excludes .or does not allow. its own target"),
        ({"history": np.array([1]), "history_times": np.array([100])}, "reaches its own moment 100"),
    ],
)
def test_instances_that_leak_or_cannot_be_hit_are_refused(tmp_path, change, message):
    requests, targets, users = world(users=3)
    requests[0] = replace(requests[0], **change)
    with pytest.raises(ValueError, match=message):
        run(tmp_path, data=(requests, targets, users))


def test_other_mistakes_of_callers(tmp_path):
    requests, targets, users = world(users=3)
    with pytest.raises(ValueError, match="no user has a held-out item"):
        run(tmp_path, data=([], np.array([]), np.array([])))
    with pytest.raises(ValueError, match="occurs twice"):
        run(tmp_path, data=([requests[0]] * 2, targets[:1].repeat(2), users[:1].repeat(2)))
    with pytest.raises(ValueError, match="no row 'No Context'"):
        run(tmp_path, rows=table()[2:])
    with pytest.raises(ValueError, match="row 'E2P' needs replicas"):
        run(tmp_path, rows=[*table()[:-1], Row("E2P", [])])


class _Cheats(Popularity):
    def recommend(self, requests, n, temperature=0.0, seed=0):
        return [Ranked(np.arange(N), np.zeros(N)) for _ in requests]


class _Repeats(SoftmaxOver):
    def recommend(self, requests, n, temperature=0.0, seed=0):
        return [Ranked(np.full(n, 3), np.zeros(n)) for _ in requests]


class _NaN(SoftmaxOver):
    def log_prob_at(self, requests, items, temperatures):
        return np.full((len(requests), len(temperatures)), np.nan)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (_Cheats(np.ones(N)), "row 'Bad' answered|returned an item that request"),
        (_Repeats(Taste(1.0)), "row 'Bad' answered request .* with repeats"),
        (_NaN(Taste(1.0)), "row 'Bad': the target of request .* scores NaN"),
    ],
)
def test_answers_that_break_the_protocol_stop_the_run(tmp_path, method, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, rows=[*table(), Row("Bad", [method])])

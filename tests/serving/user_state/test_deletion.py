"""After a deletion nothing of the person is found anywhere, and nobody else notices."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest

import serving
from recsys.artifacts.manifest import rehashed
from recsys.artifacts.paths import RunError
from recsys.config import StageConfig
from recsys.data.dataset import Dataset
from recsys.embeddings.embed import embed, load_user_vectors
from recsys.run import Run
from serving.pipeline import run_stage
from serving.stages.names import STAGES
from serving.user_state import delete, remake_report, show
from tests.support.persons import EXTRA, GONE, NUMBER, OWN, PERSON, copy, snapshot, traces

STORED = {"live/state.sqlite: events", "live/state.sqlite: states"}


# -- deleting -----------------------------------------------------------------------------------------------------


def test_after_a_deletion_no_file_holds_a_trace(crowded, small_run):
    original = snapshot(small_run[1].path)
    before = Dataset.load(crowded)
    record = delete(crowded, PERSON)
    assert traces(crowded.path) == []
    assert snapshot(small_run[1].path) == original  # files were replaced, none was written into
    assert record["people"] == 1
    assert record["rewritten"] == [
        "config.yaml", "evaluate/instances.parquet", "evaluate/prefixes.json", *OWN, "prepare/events.parquet", "prepare/prepare.json", "prepare/queries.parquet",
        "prepare/users.parquet", "rows/method/dense.safetensors", "rows/sparse.safetensors", "stream/events.parquet",
        "stream/groups.parquet",
    ]  # fmt: skip
    assert set(record["removed"]) == {".partial-adapt", ".old-embed", ".config.yaml.tmp", "report.html"}
    assert json.loads((crowded.path / "manifest.json").read_text())["deletions"] == [record]
    assert not (crowded.path / ".rewrite").exists()

    data = Dataset.load(crowded)  # every hash is checked
    others = before.users != NUMBER
    assert data.user_ids.tolist() == [*before.user_ids[:7], "", *before.user_ids[8:]]
    for name in ("users", "items", "times", "weights", "roles"):
        np.testing.assert_array_equal(getattr(data, name), getattr(before, name)[others])
    assert len(data.queries) == len(before.queries) - 1
    report = crowded.read_json("prepare", "prepare.json")
    assert report["counts"] == {
        "events": 39 * 24, "users": 39, "items": 60, "queries": 39, "users_without_test_event": 0
    }  # fmt: skip
    assert report["roles"]["test"] == 39 * 2
    assert report["held_out"]["test"]["users"] == 39
    picture = crowded.read_json("evaluate", "prefixes.json")
    assert len(picture["users"]) == len(picture["prefixes"]) == len(picture["labels"]) == 39


@pytest.mark.usefixtures("data_files")
def test_the_report_is_drawn_again_and_every_stage_stays_done(crowded, small_run, drawn):
    config = small_run[0]
    delete(crowded, PERSON)
    assert not (crowded.path / "report.html").exists()
    assert remake_report(crowded)
    assert (crowded.path / "report.html").exists()
    assert [len(picture["prefixes"]) for picture in drawn] == [39]
    before = {name: crowded.record(name) for name in (*STAGES, *EXTRA)}
    for name in STAGES:
        run_stage(name, config, crowded)
    assert crowded.stage("rows", StageConfig(), needs=["prepare"]).is_done()
    assert crowded.stage("stream", StageConfig(), needs=["prepare", "rows"]).is_done()
    assert {name: crowded.record(name) for name in (*STAGES, *EXTRA)} == before
    assert traces(crowded.path) == []
    manifest = json.loads((crowded.path / "manifest.json").read_text())
    assert manifest["stages"] == {name: crowded.record(name) for name in manifest["stages"]}


def test_others_are_answered_bit_for_bit_as_before_and_the_deleted_as_a_stranger(crowded):
    methods = ("tap_per", "tap_per_p_q", "e2p", "no_context", "prompt_context", "embedding_retrieval")

    def answers() -> dict:
        recommender = serving.Recommender.load(crowded.path)
        return {
            (user, method): recommender.recommend(user, n=8, method=method, temperature=temperature)
            for user in ("u0", "u6", "u8", "u38")
            for method in methods
            for temperature in (0.0, 1.0)[: 1 if method == "embedding_retrieval" else 2]
        }

    before, end = answers(), Dataset.load(crowded).end
    delete(crowded, PERSON)
    assert Dataset.load(crowded).times.max() + 1 == end
    delete(crowded, GONE)  # whose event was the last of all: the clock does not go back
    assert Dataset.load(crowded).times.max() + 1 < Dataset.load(crowded).end == end
    assert answers() == before
    recommender = serving.Recommender.load(crowded.path)
    stranger = recommender.recommend("nobody", n=5)
    for user in (PERSON, GONE, ""):
        found = recommender.recommend(user, n=5)
        assert found.items == stranger.items
        assert found.path == f"cold start (user {user!r} is unknown to the run): No Context"
    assert [record["people"] for record in crowded.deletions()] == [1, 1]


def test_brought_embeddings_go_and_a_retrained_stage_does_not_take_them_back(small_run, tmp_path):
    config, run = small_run
    other = Run.create(tmp_path / "copy")
    shutil.copytree(run.path / "prepare", other.path / "prepare", copy_function=os.link)
    data = Dataset.load(other)
    rows = [(user, 1_000_000 + 500 * n, [n, 1.0]) for n in range(3) for user in ("u9", PERSON, "u3")]
    pd.DataFrame(rows, columns=["user_id", "timestamp", "vector"]).to_parquet(tmp_path / "u.parquet")
    items = [(item_id, [1.0, 0.0]) for item_id in data.catalogue.item_ids]
    pd.DataFrame(items, columns=["item_id", "vector"]).to_parquet(tmp_path / "i.parquet")
    paths = {"user_embeddings": tmp_path / "u.parquet", "item_embeddings": tmp_path / "i.parquet"}
    few = {"min_user_coverage": 0.0, "accept": ("before_first_event", "far_above_history")}
    brought = config.embed.model_copy(update={**paths, "leak_margin": 100.0, **few})
    embed(brought, other)
    held = {holding.artifact: holding for holding in show(other, PERSON)}
    facts = held["embed/brought_users.safetensors"].facts
    assert facts == {"first": 1_000_000, "last": 1_001_000, "vectors": "2 values"}

    delete(other, PERSON)
    users = load_user_vectors(other)
    assert users.users.tolist() == [3, 3, 3, 9, 9, 9]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(users.values[3:], [[n, 1.0] for n in range(3)])  # type: ignore[attr-defined]
    shutil.rmtree(other.path / "embed")
    embed(brought, other)  # the file still has the person
    assert sorted(set(load_user_vectors(other).users.tolist())) == [3, 9]  # type: ignore[attr-defined]
    assert other.deletions()


@pytest.mark.usefixtures("data_files")
def test_training_again_without_the_person_works_and_preparing_again_is_refused(crowded, small_run):
    config = small_run[0]
    delete(crowded, PERSON)
    shutil.rmtree(crowded.path / "embed")
    run_stage("embed", config, crowded)
    vectors = crowded.read_json("embed", "embed.json")
    assert vectors["users"] == "history"
    changed = config.model_copy(update={"prepare": config.prepare.model_copy(update={"k_core_users": 2})})
    before = snapshot(crowded.path)
    with pytest.raises(RunError, match="preparing again would bring back whoever is still in the source"):
        run_stage("prepare", changed, crowded)
    assert snapshot(crowded.path) == before
    shutil.rmtree(crowded.path / "prepare")
    with pytest.raises(RunError, match="prepare a new run directory"):
        run_stage("prepare", config, crowded)


def test_a_stage_that_was_out_of_date_stays_so(small_run, tmp_path):
    run = copy(small_run[1], tmp_path / "copy")
    entry = run.record("personalize")
    assert entry is not None
    stale = entry | {
        "made_from": entry["made_from"] | {"stages": entry["made_from"]["stages"] | {"prepare": "x"}}
    }
    records = {name: run.record(name) for name in STAGES} | {"personalize": stale}
    after = rehashed(records, {"prepare": {"users.parquet": "new"}})  # type: ignore[arg-type]
    assert after["personalize"]["made_from"] == stale["made_from"]
    assert after["personalize"]["fingerprint"] == stale["fingerprint"]
    assert (
        after["embed"]["made_from"]["stages"]["prepare"] != records["embed"]["made_from"]["stages"]["prepare"]
    )  # type: ignore[index]
    assert after["prepare"]["fingerprint"] == records["prepare"]["fingerprint"]  # type: ignore[index]


def test_a_picture_that_does_not_say_whose_vectors_it_has_goes_whole(small_run, tmp_path, drawn):
    """Runs of the first release."""
    run = copy(small_run[1], tmp_path / "copy")
    picture = run.read_json("evaluate", "prefixes.json")
    kept = {name: (run.path / "evaluate" / name).read_text() for name in ("results.json", "costs.json")}
    del picture["users"]
    with run.stage("evaluate", StageConfig(), needs=STAGES[:-1]).writing() as folder:
        (folder / "prefixes.json").write_text(json.dumps(picture))
        for name, text in kept.items():
            (folder / name).write_text(text)
    delete(run, PERSON)
    assert run.read_json("evaluate", "prefixes.json") is None
    assert remake_report(run)
    assert drawn == []


def test_a_damaged_artifact_stops_a_deletion_before_it_begins(crowded):
    path = crowded.path / "rows" / "sparse.safetensors"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1] + b"\x01")
    before = snapshot(crowded.path)
    with pytest.raises(RunError, match=r"sparse\.safetensors does not match its hash"):
        delete(Run.open(crowded.path), PERSON)
    assert snapshot(crowded.path) == before


def test_feedback_absorbed_later_goes_too_and_the_others_keep_theirs(small_run, tmp_path):
    """`prelude update` keeps a state beside the stages: the person's events and row of P_u leave it, the rest stays whole."""
    run = copy(small_run[1], tmp_path / "copy")
    now = Dataset.load(run).end
    service = serving.Recommender.load(run.path)
    service.update([(PERSON, "i3", now + 1), ("u3", "i5", now + 2)])
    before = service.recommend("u3", n=8, method="tap_per")
    assert {holding.artifact for holding in show(run, PERSON)} > STORED
    delete(run, PERSON)
    assert traces(run.path) == []
    again = serving.Recommender.load(run.path)
    assert again.recommend("u3", n=8, method="tap_per") == before
    assert again.recommend(PERSON, n=5).path.startswith("cold start")


def test_somebody_who_came_after_the_run_was_made_can_be_forgotten_too(small_run, tmp_path):
    run = copy(small_run[1], tmp_path / "copy")
    now = Dataset.load(run).end
    serving.Recommender.load(run.path).update([("newcomer", "i3", now + 1), ("u3", "i5", now + 2)])
    assert {holding.artifact for holding in show(run, "newcomer")} == STORED
    before = serving.Recommender.load(run.path).recommend("u3", n=8, method="tap_per")
    delete(run, "newcomer")
    assert not any(b"newcomer" in path.read_bytes() for path in (run.path / "live").iterdir())
    assert serving.Recommender.load(run.path).recommend("u3", n=8, method="tap_per") == before
    with pytest.raises(ValueError, match="user 'newcomer' is unknown to"):
        show(run, "newcomer")

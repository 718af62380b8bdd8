"""A night: items come and go, nobody moves, and what answers reads the version that serves."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from recsys.artifacts import versions
from recsys.artifacts.paths import RunError
from recsys.run import Run
from semantic_ids.tokenizer import load_table
from serving import Recommender
from serving.answering.methods import Methods
from serving.config.truth import config_of
from serving.refresh.refresh import Choices, go_back, keep_newest, refresh
from tests.support.nights import NEW, RETIRED, events_yesterday, items_today
from tests.support.serving_http import served
from tests.support.worlds import hashes_of

PEOPLE = [f"u{user}" for user in range(12)]
METHODS = ("e2p", "tap_per", "no_context")


def lists(run, method: str, **options) -> dict[str, list[tuple[str, float]]]:
    service = Recommender.load(run)
    return {
        user: [
            (one.item_id, one.score)
            for one in service.recommend(user, n=8, method=method, time=2_000_000, **options)
        ]
        for user in PEOPLE
    }


def test_a_new_item_is_recommended_and_a_retired_one_is_not(refreshed):
    for method in (*METHODS, "embedding_retrieval", "popularity"):
        found = lists(refreshed.run.path, method)
        items = {item for answer in found.values() for item, _ in answer}
        assert not items & set(RETIRED), method
        if method in METHODS:
            assert items & set(NEW), method


def test_answers_without_them_are_the_same_to_the_bit(refreshed):
    """The same people, the same moment, asked of the run as it was trained, and of the version: embeddings are the same."""
    gone, fresh = set(RETIRED), set(NEW)
    compared = 0
    for method in METHODS:
        plain, after = trained_lists(refreshed, method), lists(refreshed.run.path, method)
        for user in PEOPLE:
            old = [row for row in plain[user] if row[0] not in gone]
            new = [row for row in after[user] if row[0] not in fresh]
            assert new == old[: len(new)], (method, user)
            compared += len(new)
    assert compared > 50


def trained_lists(refreshed, method: str) -> dict[str, list[tuple[str, float]]]:
    """What the run as it was trained answers, with what was absorbed since."""
    run = Run.open(refreshed.run.path)
    service = Recommender(Methods(run, config_of(run)))
    return {
        user: [
            (one.item_id, one.score) for one in service.recommend(user, n=20, method=method, time=2_000_000)
        ]
        for user in PEOPLE
    }


def test_nobody_moves(refreshed):
    before, after = load_table(Run.open(refreshed.run.path)), load_table(Run.serving(refreshed.run.path))
    assert after.n_items == before.n_items + len(NEW)
    np.testing.assert_array_equal(after.codes[: before.n_items], before.codes)
    assert after.content_hash() == before.content_hash()
    assert after.all_hash() != before.all_hash()


def test_what_did_not_change_is_not_written_again(refreshed):
    home, version = refreshed.run.path, Run.serving(refreshed.run.path).path
    for name in ("prepare/events.parquet", "adapt/sid_rows.safetensors", "personalize/e2p-0.safetensors"):
        assert (home / name).stat().st_ino == (version / name).stat().st_ino
    assert (home / "prepare/items.parquet").stat().st_ino != (version / "prepare/items.parquet").stat().st_ino


def test_the_same_night_again_is_the_same_version(refreshed):
    before = hashes_of(refreshed.run.path / "versions")
    found = refresh(refreshed.run.path, **refreshed.files)
    assert (found.number, found.published) == (1, False)
    assert "the same inputs" in found.said[0]
    assert found.update is not None
    assert not found.update.absorbed
    assert hashes_of(refreshed.run.path / "versions") == before


def test_a_dry_run_says_and_changes_nothing(night):
    before = hashes_of(night.run.path)
    found = refresh(night.run.path, **night.files, dry_run=True)
    assert found.facts["changes"] == {"new": 3, "retired": 2, "returned": 0, "changed": 0}
    assert found.facts["gate"]["questions"] > 50
    after = {name: digest for name, digest in hashes_of(night.run.path).items() if name not in (".lock",)}
    assert after == {name: digest for name, digest in before.items() if name != ".lock"}
    assert versions.pointer(night.run.path).serves == 0


def test_back_and_forth(night):
    def answered() -> list[tuple[str, float]]:
        found = Recommender.load(night.run.path).recommend(
            "u1", n=8, method="no_context", history=["i1", "i3"]
        )
        return [(one.item_id, one.score) for one in found]

    before = answered()
    refresh(night.run.path, items=night.files["items"], item_embeddings=night.files["item_embeddings"])
    fresh = answered()
    assert before != fresh
    assert go_back(night.run.path) == 0
    assert answered() == before
    again = refresh(
        night.run.path, items=night.files["items"], item_embeddings=night.files["item_embeddings"]
    )
    assert (again.number, again.published) == (1, True)
    assert answered() == fresh
    with pytest.raises(ValueError, match="no version 7; it has 0, 1"):
        go_back(night.run.path, 7)


def test_events_of_new_items_are_kept_through_going_back(night):
    refresh(night.run.path, items=night.files["items"], item_embeddings=night.files["item_embeddings"])
    more = events_yesterday(night.folder / "more.csv", 1_200_000, 2, 1, (*NEW, "i0"))
    refresh(night.run.path, events=more)
    number = Recommender.load(night.run.path).methods.dataset.catalogue.number("n0")
    assert number in Recommender.load(night.run.path).live.histories.events(0)[0]
    go_back(night.run.path)
    held = Recommender.load(night.run.path).live.histories.events(0)[0]
    assert number not in held
    assert 1_201_003 in Recommender.load(night.run.path).live.histories.events(0)[1]
    go_back(night.run.path, 1)
    assert number in Recommender.load(night.run.path).live.histories.events(0)[0]


def test_a_file_cut_short_is_refused_by_the_gate(night):
    few = night.folder / "few.csv"
    few.write_text("item_id,title,kind\ni0,Title 0,Even\n")
    found = refresh(night.run.path, items=few)
    assert set(found.refused) == {"retired"}
    assert "--absent keep" in found.refused["retired"]
    assert versions.pointer(night.run.path).serves == 0
    assert not list((night.run.path / "versions").glob(".partial-*"))
    assert refresh(night.run.path, items=few, choices=Choices(accept=("retired",))).published


def test_a_new_item_that_nothing_describes_is_refused(night):
    with pytest.raises(RunError, match="nothing says what they are"):
        refresh(night.run.path, items=night.files["items"])
    assert not list((night.run.path / "versions").glob(".partial-*"))


def test_a_version_of_a_run_that_was_trained_again_is_refused(night):
    refresh(night.run.path, **night.files)
    path = night.run.path / "adapt" / "stage.json"
    record = json.loads(path.read_text())
    record["artifacts"]["sid_rows.safetensors"] = "0" * 64
    path.unlink()
    path.write_text(json.dumps(record))
    with pytest.raises(RunError, match="a stage was run again"):
        Recommender.load(night.run.path)


def test_a_second_night_goes_on_from_the_first(night):
    refresh(night.run.path, **night.files)
    today = items_today(night.run, night.folder / "second.csv", NEW, ("i12",))  # i10 and i11 are back
    found = refresh(night.run.path, items=today)
    assert found.number == 2
    assert found.facts["changes"] == {"new": 0, "retired": 1, "returned": 2, "changed": 0}
    assert keep_newest(night.run.path, 1) == [1]
    assert versions.numbers(night.run.path) == [2]
    assert go_back(night.run.path) == 0


def test_a_changed_title_is_noticed_and_coded_anew_only_if_asked(night):
    refresh(night.run.path, **night.files)
    path = night.folder / "renamed.csv"
    path.write_text("item_id,title\ni4,Something else\n")
    choices = Choices(absent="keep")
    found = refresh(night.run.path, items=path, choices=choices)
    assert found.facts["changes"]["changed"] == 1
    assert found.facts["coded"]["coded"] == 0
    assert Recommender.load(night.run.path).methods.dataset.catalogue.titles[4] == "Something else"
    path.write_text("item_id,title\ni4,Once more\n")
    found = refresh(night.run.path, items=path, choices=Choices(absent="keep", recode=True))
    assert found.facts["coded"]["coded"] == 1
    newcomers = Recommender.load(night.run.path).methods.newcomers
    assert newcomers is not None
    assert newcomers.again.tolist() == [4]
    service = Recommender.load(night.run.path)
    before = Recommender(Methods(Run.open(night.run.path), service.methods.config))
    (was,), (now,) = (one.recommend("u1", method="no_context", allow=["i4"]) for one in (before, service))
    assert (was.item_id, now.item_id) == ("i4", "i4")
    assert was.score != now.score


def test_a_service_reloads_the_version_and_drops_no_request(night):
    with served(night.run.path, night.folder) as client:
        assert client.http.get("/health/ready").json() == {"status": "ready", "run": "run"}
        statuses: list[int] = []
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                asked = client.http.post(
                    "/v1/recommend", json={"user_id": "u1", "n": 3, "method": "no_context"}
                )
                statuses.append(asked.status_code)

        thread = threading.Thread(target=ask)
        thread.start()
        refresh(night.run.path, items=night.files["items"], item_embeddings=night.files["item_embeddings"])
        client.reload()
        done.set()
        thread.join()
        assert set(statuses) == {200}
        assert client.http.get("/health/ready").json()["version"] == "0001"
        listed = client.http.post(
            "/v1/recommend",
            json={"user_id": "u1", "n": 3, "method": "no_context", "allow": ["n0", "n1", "i10", "i0"]},
        ).json()
        assert {item["item_id"] for item in listed["items"]} <= {"n0", "n1", "i0"}
        assert client.http.get("/v1/items/n0").json()["codes"]

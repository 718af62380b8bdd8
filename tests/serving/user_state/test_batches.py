"""Ids and hashes of feedback that held a person's events: nothing is left by which a guess of the events could be confirmed."""

from __future__ import annotations

import sqlite3
from itertools import combinations
from pathlib import Path

import pytest

from recsys.artifacts.sums import SUMS
from recsys.data.dataset import Dataset
from recsys.run import Run
from serving import Recommender
from serving.answering.live import digest_of
from serving.export.folder import export_run, import_run
from serving.studies.online_full import online_full
from serving.user_state import delete
from tests.support.persons import PERSON, copy

NOW = 3_000_000
THEIRS = [(PERSON, "i3", NOW + 1), (PERSON, "i5", NOW + 2)]
BOTH = [(PERSON, "i7", NOW + 3), ("u3", "i5", NOW + 4)]
OTHERS = [("u3", "i7", NOW + 5), ("u4", "i8", NOW + 6)]


@pytest.fixture
def run(small_run, tmp_path) -> Run:
    run = copy(small_run[1], tmp_path / "run")
    service = Recommender.load(run.path)
    service.update(THEIRS, "signup of u7")
    service.update(BOTH)
    service.update(OTHERS, "monday")
    service.update([*OTHERS[:1], ("u5", "i8", NOW + 8)])
    service.update(
        [*THEIRS, ("u5", "i9", NOW + 9)], "tuesday"
    )  # theirs were known, and are in no file of this batch
    return run


def texts(folder: Path) -> str:
    """All that could say something: the databases' bytes too, whose free pages are none."""
    return "".join(
        p.read_bytes().decode("latin-1")
        for p in folder.rglob("*")
        if p.suffix in (".json", ".yaml") or p.name == SUMS or "sqlite" in p.name
    )


def batches(run: Run) -> list[tuple[str | None, list[str]]]:
    """Ids of batches, and whose events each held."""
    with sqlite3.connect(run.path / "live" / "state.sqlite") as state:
        found = [
            (number, id_) for number, id_ in state.execute("select number, id from batches order by number")
        ]
        whose = "select user_id from batch_people join people on person = number where batch = ? order by 1"
        return [(id_, [user for (user,) in state.execute(whose, (number,))]) for number, id_ in found]


def guesses(events: list) -> set[str]:
    """Hashes that somebody who suspects these events would look for."""
    some = [list(chosen) for n in range(1, len(events) + 1) for chosen in combinations(events, n)]
    return {digest_of(one) for one in some}


def test_no_hash_and_no_id_of_their_batches_is_left(run):
    suspected = guesses([*THEIRS, *BOTH, ("u5", "i9", NOW + 9)])
    before = texts(run.path)
    assert {digest_of(THEIRS), digest_of(BOTH)} <= {digest for digest in suspected if digest in before}
    delete(run, PERSON)
    after = texts(run.path)
    assert not [digest for digest in suspected if digest in after]
    assert not [name for name in ("signup of", "tuesday") if name in after]
    assert batches(run) == [
        (None, []),
        (None, ["u3"]),
        ("monday", ["u3", "u4"]),
        (digest_of([*OTHERS[:1], ("u5", "i8", NOW + 8)]), ["u3", "u5"]),
        (None, ["u5"]),
    ]


def test_the_others_batches_are_still_absorbed_once(run):
    before = Recommender.load(run.path).recommend("u3", n=8, method="tap_per")
    delete(run, PERSON)
    service = Recommender.load(run.path)
    assert service.recommend("u3", n=8, method="tap_per") == before
    assert not service.update(OTHERS, "monday").absorbed
    assert not service.update([*OTHERS[:1], ("u5", "i8", NOW + 8)]).absorbed
    with pytest.raises(ValueError, match="'monday' was used for other events"):
        service.update(BOTH[1:], "monday")
    again = service.update(
        BOTH[1:], "both, without them"
    )  # of a batch that has lost its id: the events are known
    assert (again.absorbed, again.events, again.known, again.steps) == (True, 0, 1, 0)
    assert service.recommend("u3", n=8, method="tap_per") == before


def test_an_id_that_is_gone_is_nobodys(run):
    delete(run, PERSON)
    service = Recommender.load(run.path)
    assert service.update([("u6", "i9", NOW + 20)], "signup of u7").absorbed
    assert not service.update([("u6", "i9", NOW + 20)], "signup of u7").absorbed


def test_weights_that_were_trained_on_a_batch_lose_its_name_too(run, tmp_path):
    online_full(run.path, [(PERSON, "i11", NOW + 30), ("u3", "i13", NOW + 31)], tmp_path / "full")
    full = Run.open(tmp_path / "full")
    digest = digest_of([(PERSON, "i11", NOW + 30), ("u3", "i13", NOW + 31)])
    assert digest in texts(full.path)
    delete(full, PERSON)
    assert digest not in texts(full.path)
    continued = full.record("personalize")["continued"]  # type: ignore[index]
    assert [part["events"] for part in continued] == [None]


def test_an_export_of_a_run_with_feedback_forgets_alike(run, tmp_path):
    export_run(run.path, tmp_path / "out", ["tap_per"])
    import_run(tmp_path / "out", tmp_path / "imported")
    imported = Run.open(tmp_path / "imported")
    assert digest_of(THEIRS) in texts(imported.path)
    delete(imported, PERSON)
    assert not [digest for digest in guesses([*THEIRS, *BOTH]) if digest in texts(imported.path)]


def test_events_that_were_left_out_count_as_given(small_run, tmp_path):
    """Of items that the run does not know: they are no history, and in the hash."""
    run = copy(small_run[1], tmp_path / "run")
    service = Recommender.load(run.path)
    left_out = [
        [(PERSON, "nowhere", NOW), ("u3", "i5", NOW + 1)],
        [("stranger", "nowhere", NOW), ("u3", "i7", NOW + 2)],
    ]
    for name, events in zip(("known", "unknown"), left_out, strict=True):
        assert service.update(events, name).events == 1
    assert batches(run) == [("known", ["u3", PERSON]), ("unknown", ["stranger", "u3"])]
    for user, gone in ((PERSON, 1), ("stranger", 2)):
        last = Dataset.load(run).user_ids[-1]
        delete(run, user)
        left = [digest in texts(run.path) for digest in map(digest_of, left_out)]
        assert left == [False] * gone + [True] * (2 - gone)
        assert Dataset.load(run).user_ids[-1] == last
    assert b"stranger" not in (run.path / "live" / "state.sqlite").read_bytes()

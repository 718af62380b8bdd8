"""No kill splits a deletion."""

from __future__ import annotations

import os
import shutil
from types import SimpleNamespace

import pytest

from recsys.artifacts.paths import RunError
from recsys.run import Run
from serving.user_state import delete
from tests.support.dying import KILLER, Killed
from tests.support.persons import PERSON, add_rows_of_users, copy, snapshot, traces

# -- kills --------------------------------------------------------------------------------------------------------


def test_a_kill_before_any_step_leaves_the_run_as_it_was_or_completable(small_run, tmp_path, monkeypatch):
    monkeypatch.setattr("serving.user_state.time", SimpleNamespace(time=lambda: 1e9))
    monkeypatch.setattr("os.fsync", lambda handle: None)  # for power failures, not for kills; slow
    template = copy(small_run[1], tmp_path / "template")
    for name in ("tokenize", "adapt", "personalize"):  # nothing of users: quicker without
        shutil.rmtree(template.path / name)
    template.write_config({"example": {"user": PERSON, "n": 5}})
    add_rows_of_users(template, 40)
    (template.path / ".partial-embed" / "checkpoint").mkdir(parents=True)
    (template.path / ".partial-embed" / "checkpoint" / "c.json").write_text(f'["{PERSON}"]')
    whole = copy(template, tmp_path / "whole")
    delete(whole, PERSON)
    before, after = snapshot(template.path), snapshot(whole.path)
    assert traces(whole.path) == []

    outcomes = []
    for step in range(1000):
        run = copy(template, tmp_path / f"killed-{step}")
        KILLER.left = step
        try:
            delete(run, PERSON)
        except Killed:
            pass
        else:
            break
        finally:
            KILLER.left = None
        opened = Run.open(run.path)  # what any command does first
        state = snapshot(run.path)
        assert state in (before, after), step
        outcomes.append(state == after)
        if state == before:
            if step % 4 == 0:  # what was staged is in nobody's way
                delete(opened, PERSON)
                assert snapshot(run.path) == after, step
        else:
            with opened.lock():  # what any command that writes does next
                assert not (run.path / ".rewrite").exists()
        shutil.rmtree(run.path)
    assert outcomes == sorted(outcomes)  # one moment of commit: before it nothing, after it all
    assert outcomes.count(False) > 10
    assert outcomes.count(True) > 10


def test_a_deletion_waits_for_no_one_and_completes_a_killed_commit(small_run, tmp_path):
    run = copy(small_run[1], tmp_path / "copy")
    with run.lock(), pytest.raises(RunError, match="another prelude process"):
        delete(Run.open(run.path), PERSON)
    os.rename(run.path / "evaluate", run.path / ".partial-evaluate")  # killed between record and rename
    delete(run, PERSON)
    assert traces(run.path) == []
    assert len(run.read_json("evaluate", "prefixes.json")["users"]) == 39

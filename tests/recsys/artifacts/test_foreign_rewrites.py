"""A rewrite is finished where it was begun: a journal that came with a folder is an order by others, and is not run."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from recsys.artifacts.paths import OutsideError, RunError
from recsys.artifacts.rewrite import ForeignRewriteError, Rewrite, adopt, finish
from recsys.config import StageConfig
from recsys.run import Run


@pytest.fixture
def run(tmp_path) -> Run:
    run = Run.create(tmp_path / "run")
    with run.stage("one", StageConfig()).writing() as folder:
        (folder / "a.txt").write_text("old")
    (run.path / "more.txt").write_text("more")
    return run


def killed_after_the_commit(run: Run, monkeypatch) -> None:
    rewrite = Rewrite(run.path)
    rewrite.new("one/a.txt").write_text("new")
    rewrite.remove("more.txt")
    with monkeypatch.context() as patch:
        patch.setattr("recsys.artifacts.rewrite.finish", lambda root: None)
        rewrite.commit()


def journal(run: Run, **deed) -> None:
    """What somebody may send."""
    (run.path / ".rewrite" / "new").mkdir(parents=True)
    (run.path / ".rewrite" / "journal.json").write_text(json.dumps({"replace": [], "remove": []} | deed))


def state(run: Run) -> tuple[str, bool]:
    return (run.path / "one" / "a.txt").read_text(), (run.path / "more.txt").exists()


def openings(run: Run):
    """All ways into a run."""
    return (Run.open, Run.create, lambda path: Run(path).lock().__enter__(), Rewrite, finish)


def test_ones_own_is_finished_by_whoever_opens_the_run_next(run, monkeypatch):
    killed_after_the_commit(run, monkeypatch)
    assert state(run) == ("old", True)
    Run.open(run.path)
    assert state(run) == ("new", False)
    assert not (run.path / ".rewrite").exists()


def test_nobody_finishes_it_while_another_writes(run, monkeypatch):
    with run.lock():
        killed_after_the_commit(run, monkeypatch)
        with pytest.raises(RunError, match="another prelude process"):
            Run.open(run.path)
        assert state(run) == ("old", True)


def test_one_that_came_with_the_folder_is_refused_by_every_opening_and_nothing_happens(run):
    journal(run, remove=["more.txt", "one"])
    for opening in openings(run):
        with pytest.raises(ForeignRewriteError, match="was not written in this folder: it is not run"):
            opening(run.path)
        assert state(run) == ("old", True)


@pytest.mark.parametrize(
    "deed", [{"folder": None}, {"folder": 0}, {"folder": True}, {"folder": "1"}, {"folder": -1}]
)
def test_it_cannot_be_said_to_be_ones_own_by_guessing(run, deed):
    journal(run, remove=["more.txt"], **deed)
    with pytest.raises(ForeignRewriteError):
        Run.open(run.path)
    assert state(run) == ("old", True)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"replace": "a", "remove": []}', '{"folder": 1}'])
def test_a_journal_that_is_none_is_refused(run, text):
    journal(run)
    (run.path / ".rewrite" / "journal.json").write_text(text)
    with pytest.raises(ForeignRewriteError, match="not run"):
        Run.open(run.path)


@pytest.mark.parametrize("part", ["replace", "remove"])
@pytest.mark.parametrize(
    "name", ["../beside.txt", "ABSOLUTE", "link", "folder/beside.txt", "", "..", ".", None]
)
def test_one_of_this_very_folder_still_cannot_name_what_is_outside(run, tmp_path, part, name):
    """The inode might be guessed; and nothing of the journal is done before all of its names were looked at."""
    beside = tmp_path / "beside.txt"
    beside.write_text("mine")
    (run.path / "link").symlink_to(beside)
    (run.path / "folder").symlink_to(tmp_path)
    journal(run)
    name = str(beside) if name == "ABSOLUTE" else name
    deed = {"replace": [], "remove": ["more.txt"]}
    deed[part] = [*deed[part], name]
    inode = (run.path / ".rewrite").stat().st_ino
    (run.path / ".rewrite" / "journal.json").write_text(json.dumps(deed | {"folder": inode}))
    with pytest.raises(OutsideError):
        Run.open(run.path)
    assert (beside.read_text(), state(run)) == ("mine", ("old", True))


def test_what_is_put_in_place_comes_from_inside_too(run, tmp_path):
    beside = tmp_path / "beside.txt"
    beside.write_text("mine")
    journal(run)
    (run.path / ".rewrite" / "new").rmdir()
    (run.path / ".rewrite" / "new").symlink_to(tmp_path)
    inode = (run.path / ".rewrite").stat().st_ino
    (run.path / ".rewrite" / "journal.json").write_text(
        json.dumps({"replace": ["beside.txt"], "remove": [], "folder": inode})
    )
    with pytest.raises(OutsideError):
        Run.open(run.path)
    assert beside.read_text() == "mine"


def test_a_rewrite_names_nothing_outside_to_begin_with(run, tmp_path):
    rewrite = Rewrite(run.path)
    for act in (rewrite.new, rewrite.remove):
        with pytest.raises(OutsideError):
            act("../beside.txt")
    assert os.listdir(tmp_path) == ["run"]


def test_a_run_that_was_copied_in_the_middle_is_finished_by_its_owners_word(run, tmp_path, monkeypatch):
    killed_after_the_commit(run, monkeypatch)
    moved = Run(shutil.copytree(run.path, tmp_path / "it's moved"))
    with pytest.raises(ForeignRewriteError, match="adopt") as caught:
        Run.open(moved.path)
    assert str(caught.value).endswith("""'"'"'s moved'""")  # a name that may be pasted into a shell
    adopt(moved.path)
    assert state(moved) == ("new", False)
    assert state(run) == ("old", True)
    Run.open(run.path)
    assert state(run) == ("new", False)

"""Names from files and folders: inside their root, or refused with who said them."""

from __future__ import annotations

import json
import os
import re

import pytest

from recsys.artifacts.paths import OutsideError, RunError, inside, plain_name
from recsys.artifacts.rewrite import Rewrite, write_text_atomically
from recsys.config import StageConfig
from recsys.run import Run

OUTSIDE = [
    "..",
    "../beside.txt",
    "one/../../beside.txt",
    "one/../a.txt",
    "",
    ".",
    "./",
    "/etc/hostname",
    "a\0b",
]


@pytest.fixture
def beside(tmp_path):
    """A file beside the root that must stay as it is."""
    path = tmp_path / "beside.txt"
    path.write_text("mine")
    yield path
    assert path.read_text() == "mine"


@pytest.fixture
def run(tmp_path) -> Run:
    run = Run.create(tmp_path / "run")
    with run.stage("one", StageConfig()).writing() as folder:
        (folder / "a.txt").write_text("a")
    return run


def renamed(run: Run, name: object) -> None:
    """The stage's record says that its artifact is called `name`."""
    path = run.path / "one" / "stage.json"
    record = json.loads(path.read_text())
    record["artifacts"] = {str(name): next(iter(record["artifacts"].values()))}
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("name", [*OUTSIDE, None, 7, ["a"]])
def test_what_leads_out_or_is_no_name_is_refused_with_who_said_it(tmp_path, name):
    with pytest.raises(OutsideError, match=r"list\.json") as caught:
        inside(tmp_path / "root", name, tmp_path / "list.json")
    assert repr(name) in str(caught.value)


def test_a_name_inside_is_joined_as_it_stands_whether_or_not_it_is_there(tmp_path):
    root = tmp_path / "root"
    assert inside(root, "one/a.txt", "x") == root / "one" / "a.txt"
    assert inside(root, "..a/b..", "x") == root / "..a" / "b.."  # dots in a name are no way up
    (root / "one").mkdir(parents=True)
    (root / "link").symlink_to("one")
    assert inside(root, "link/a.txt", "x") == root / "link" / "a.txt"
    (tmp_path / "other").symlink_to(root)  # the root itself may lie behind a link
    assert inside(tmp_path / "other", "one/a.txt", "x") == tmp_path / "other" / "one" / "a.txt"


def test_links_out_of_the_root_and_in_circles_are_refused(tmp_path, beside):
    root = tmp_path / "root"
    root.mkdir()
    (root / "folder").symlink_to(tmp_path)
    (root / "file").symlink_to(beside)
    (root / "up").symlink_to(".")
    (root / "round").symlink_to("round")
    (root / "sibling").symlink_to(tmp_path / "root-2")  # whose name begins as the root's
    for name in ("folder/beside.txt", "file", "up", "round", "sibling"):
        with pytest.raises(OutsideError, match=f"'{name}'"):
            inside(root, name, "journal")


@pytest.mark.parametrize("name", [*OUTSIDE, ".hidden", "a/b", 3])
def test_a_folder_of_a_stage_has_a_plain_name(name):
    with pytest.raises(OutsideError, match="journal"):
        plain_name(name, "journal")
    assert plain_name("adapt", "journal") == "adapt"


@pytest.mark.parametrize("name", ["../../beside.txt", "../one/a.txt", "/etc/hostname", ""])
def test_an_artifact_whose_name_leads_out_is_neither_hashed_nor_read(run, beside, name):
    renamed(run, name)
    for act in (lambda: Run.open(run.path).artifact("one", name), run.stage("one", StageConfig()).is_done):
        with pytest.raises(OutsideError, match=re.escape("one/stage.json")):
            act()


def test_a_linked_artifact_and_a_linked_stage_are_refused(run, beside, tmp_path):
    path = run.path / "one" / "a.txt"
    os.replace(path, tmp_path / "a.txt")
    path.symlink_to(tmp_path / "a.txt")  # the very bytes
    with pytest.raises(OutsideError, match="is a link"):
        Run.open(run.path).artifact("one", "a.txt")
    (run.path / ".partial-two").symlink_to(tmp_path)  # whose contents a stage at work would clear
    with pytest.raises(OutsideError, match=r"\.partial-two"):
        run.stage("two", StageConfig())


def test_a_stage_that_was_left_half_done_is_put_in_its_own_place_alone(run, beside, tmp_path):
    (tmp_path / "victim").mkdir()
    for place, stage in (("x", "../victim"), ("y", "one"), ("z", "")):
        folder = run.path / f".partial-{place}"
        folder.mkdir()
        record = {"made_from": {"stage": stage}, "fingerprint": "f", "artifacts": {}, "finished_unix_s": 0}
        (folder / "stage.json").write_text(json.dumps(record))
        if stage == "one":
            run.finish_commits()  # of another stage than the folder's: left alone
            assert (run.path / "one" / "a.txt").exists()
        else:
            with pytest.raises(OutsideError, match="plain name"):
                run.finish_commits()
        (folder / "stage.json").unlink()
    assert (tmp_path / "victim").is_dir()


def test_a_stage_goes_on_behind_no_link_of_an_unfinished_one(run, beside, tmp_path):
    """Whoever sends a run may send a stage half done, with the fingerprint that it will have and links where it writes."""
    outside = tmp_path / "outside"
    outside.mkdir()
    stage = run.stage("two", StageConfig())
    stage.partial.mkdir()
    (stage.partial / "fingerprint").write_text(stage.fingerprint)
    (stage.partial / "checkpoint").symlink_to(outside)
    (stage.partial / "calls.json").symlink_to(beside)
    (stage.partial / "more").symlink_to(outside)
    with stage.writing() as folder:
        (stage.checkpoint / "state").write_text("s")
        (folder / "a.txt").write_text("a")
    assert list(outside.iterdir()) == []
    assert run.record("two")["artifacts"].keys() == {"a.txt"}


def test_nothing_is_written_through_links_that_lie_at_temporary_names(run, beside):
    (run.path / ".config.yaml.tmp").symlink_to(beside)
    (run.path / ".lock").unlink(missing_ok=True)
    (run.path / ".lock").symlink_to(beside.with_name("new.txt"))
    with run.lock():
        write_text_atomically(run.path / "config.yaml", "seed: 1")
    assert (run.path / "config.yaml").read_text() == "seed: 1"
    assert not beside.with_name("new.txt").exists()
    (run.path / ".rewrite").symlink_to(beside.parent)
    with pytest.raises(OutsideError):
        Rewrite(run.path)


@pytest.mark.parametrize("text", ["a: [", "- 1\n", "\x00", "seed"])
def test_a_configuration_that_is_none_is_one_message(run, text):
    (run.path / "config.yaml").write_text(text)
    with pytest.raises(RunError, match=r"config\.yaml is damaged"):
        run.read_config()

"""Which version of a run serves: one pointer, and what is said where it cannot be followed."""

from __future__ import annotations

import json

import pytest

from recsys.artifacts import versions
from recsys.artifacts.paths import RunError
from recsys.run import Run


def made(path, trained: dict | None = None):
    """A folder that looks like a run, or like a version of one."""
    path.mkdir(parents=True)
    (path / "manifest.json").write_text("{}")
    if trained is not None:
        (path / versions.FACTS).write_text(json.dumps({"trained": trained}))
    return path


@pytest.fixture
def home(tmp_path):
    run = made(tmp_path / "run")
    (run / "adapt").mkdir()
    (run / "adapt" / "stage.json").write_text(json.dumps({"artifacts": {"a": "1"}}))
    for number in (1, 2):
        made(versions.folder_of(run, number), versions.trained(run))
    return run


def test_a_run_serves_itself_until_a_version_does(home):
    assert Run.serving(home).path == home
    versions.point(home, 2, (0, 1))
    opened = Run.serving(home)
    assert opened.path == home / "versions" / "0002"
    assert opened.home == home
    assert versions.pointer(home) == (2, (0, 1))
    assert Run.serving(home / "versions" / "0001").path.name == "0001"  # asked for by its folder


def test_a_version_and_its_run_have_one_lock(home):
    with (
        Run.open(home / "versions" / "0001").lock(),
        pytest.raises(RunError, match="another prelude process"),
        Run.open(home).lock(),
    ):
        pass


def test_a_version_of_other_artifacts_is_refused_by_name(home):
    versions.point(home, 1, (0,))
    (home / "adapt" / "stage.json").write_text(json.dumps({"artifacts": {"a": "2"}}))
    with pytest.raises(RunError, match=r"0001 was refreshed from other artifacts"):
        Run.serving(home)


def test_training_again_has_the_run_itself_serve(home, capsys):
    versions.point(home, 1, (0,))
    versions.after_training(home, "evaluate")
    assert versions.pointer(home).serves == 1
    versions.after_training(home, "adapt")
    assert versions.pointer(home).serves == 0
    assert "refresh it again" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", '{"serves": "x", "before": []}', '{"serves": 7, "before": []}'])
def test_a_pointer_that_leads_nowhere_is_one_clear_line(home, text):
    (home / "versions" / "current.json").write_text(text)
    with pytest.raises(RunError, match=r"current.json"):
        Run.serving(home)

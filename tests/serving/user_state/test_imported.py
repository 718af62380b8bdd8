"""A deletion in an imported run: it stays whole, says so, and no remedy that is printed brings the person back."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest

from recsys.artifacts.manifest import sha256_of
from recsys.artifacts.paths import RunError
from recsys.artifacts.sums import SUMS
from recsys.data.dataset import Dataset
from recsys.run import Run
from serving import Recommender
from serving.export.folder import export_run, import_run, verify
from serving.user_state import delete, show
from tests.support.persons import PERSON, traces


@pytest.fixture(scope="module")
def exported(small_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "demo-1"
    export_run(small_run[1].path, out, ["e2p", "tap_per"])
    return out


@pytest.fixture
def imported(exported, tmp_path) -> Run:
    import_run(exported, tmp_path / "run")
    return Run.open(tmp_path / "run")


def test_it_is_whole_afterwards_by_its_own_sums(imported, tmp_path):
    before = (imported.path / SUMS).read_text()
    delete(imported, PERSON)
    assert traces(imported.path) == []
    files = {
        p.relative_to(imported.path).as_posix(): sha256_of(p) for p in imported.path.rglob("*") if p.is_file()
    }
    files = {name: digest for name, digest in files.items() if name not in (SUMS, ".lock")}
    after = {line[66:]: line[:64] for line in (imported.path / SUMS).read_text().splitlines()}
    assert after == files
    assert before != (imported.path / SUMS).read_text()
    assert set(verify(imported.path)) == set(files)
    done = subprocess.run(
        ["sha256sum", "-c", "--quiet", SUMS], cwd=imported.path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert import_run(imported.path, tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is unknown to"):
        show(Run.open(tmp_path / "elsewhere"), PERSON)
    export_run(imported.path, tmp_path / "again")
    assert traces(tmp_path / "again") == []


def test_what_came_after_the_export_is_still_told_apart(imported):
    """Feedback is no part of the export, before a deletion and after."""
    now = Dataset.load(imported).end
    Recommender.load(imported.path).update([("u3", "i5", now + 2)])
    delete(imported, PERSON)
    with pytest.raises(RunError, match=r"live/state\.sqlite is not in SHA256SUMS"):
        verify(imported.path)


def test_importing_the_same_export_again_does_not_bring_the_person_back(imported, exported):
    delete(imported, PERSON)
    with pytest.raises(RunError, match="would bring them back") as caught:
        import_run(exported, imported.path)
    assert "delete it" not in str(caught.value)
    with pytest.raises(ValueError, match="is unknown to"):
        show(imported, PERSON)


@pytest.mark.parametrize("name", ["config.yaml", "manifest.json", SUMS])
def test_the_remedy_for_damage_is_none_that_has_the_person(imported, name):
    good = "get it again from where it was exported, or export the run again"
    path = imported.path / name
    for deleted in (False, True):
        if deleted:
            delete(imported, PERSON)
        whole = path.read_bytes()
        path.write_bytes(b"?" + whole[1:])
        with pytest.raises(RunError) as caught:
            verify(imported.path)
        path.write_bytes(whole)
        if deleted or name == "manifest.json":  # which can no longer say whether
            assert good not in str(caught.value)
            assert "still hold them" in str(caught.value)
        else:
            assert good in str(caught.value)


def test_deletions_of_before_the_export_are_no_reason_to_warn(small_run, tmp_path):
    run = Run.open(shutil.copytree(small_run[1].path, tmp_path / "run"))
    delete(run, PERSON)
    export_run(run.path, tmp_path / "out", ["e2p"])
    said = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (said["exported"]["deletions"], len(said["deletions"])) == (1, 1)
    (tmp_path / "out" / "config.yaml").write_text("?")
    with pytest.raises(RunError, match="get it again from where it was exported"):
        verify(tmp_path / "out")


def test_others_are_answered_from_it_as_before(imported):
    before = Recommender.load(imported.path).recommend("u3", n=8, method="tap_per")
    delete(imported, PERSON)
    after = Recommender.load(imported.path).recommend("u3", n=8, method="tap_per")
    assert after == before
    assert np.isin(PERSON, Dataset.load(imported).user_ids).sum() == 0

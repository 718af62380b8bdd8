"""Damage and kills: refused by name, or nothing is there; and the commands."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys

import numpy as np
import pytest
import yaml

from recsys.artifacts.paths import RunError
from recsys.run import Run
from serving import Recommender
from serving.cli import main
from serving.export import folder as exporting
from serving.export.folder import SUMS, export_run, import_run, verify

# -- damage, kills, places ----------------------------------------------------------------------------------------


def test_a_flipped_byte_of_any_file_is_refused_by_name(combined, tmp_path):
    copy = tmp_path / "copy"
    export_run(combined.path, copy)
    assert {"combine/combine.json", "embed/sasrec_retrieval.safetensors"} <= set(verify(copy))
    for path in sorted(path for path in copy.rglob("*") if path.is_file()):
        good = path.read_bytes()
        at = len(good) // 2
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(RunError, match=SUMS if path.name == SUMS else re.escape(str(path))):
            import_run(copy, tmp_path / "run")
        path.write_bytes(good)
        assert not list(tmp_path.glob("*run*")), path
    assert import_run(copy, tmp_path / "run")


def test_a_damaged_artifact_is_refused_where_the_folder_is_used_in_place(copy):
    path = copy / "personalize" / "e2p-0.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(RunError, match=r"e2p-0\.safetensors does not match its hash"):
        Recommender.load(copy).recommend("u3")


def test_missing_added_and_misplaced_files_are_refused_by_name(copy, tmp_path):
    (copy / "embed" / "more.json").write_text("{}")
    with pytest.raises(RunError, match=r"embed/more\.json is not in SHA256SUMS"):
        verify(copy)
    (copy / "embed" / "more.json").unlink()
    (copy / "adapt" / "sid_rows.safetensors").rename(tmp_path / "away")
    with pytest.raises(RunError, match=r"sid_rows\.safetensors is missing"):
        verify(copy)
    (tmp_path / "away").rename(copy / "adapt" / "sid_rows.safetensors")
    good = (copy / SUMS).read_text()
    (copy / SUMS).write_text(good + f"{'0' * 64}  ../../elsewhere\n")
    with pytest.raises(RunError, match=rf"{SUMS}:{good.count(chr(10)) + 1}: expected"):
        verify(copy)
    (copy / SUMS).unlink()
    with pytest.raises(RunError, match="is no exported run"):
        verify(copy)


def test_a_source_artifact_that_is_damaged_is_not_exported(small_run, tmp_path):
    run = Run.open(shutil.copytree(small_run[1].path, tmp_path / "run"))
    path = run.path / "tokenize" / "semantic_ids.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(RunError, match=r"semantic_ids\.safetensors does not match its hash"):
        export_run(run.path, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("copied", [1, 20, 10**9])
def test_a_kill_leaves_nothing_at_out_and_the_next_export_is_whole(small_run, exported, tmp_path, copied):
    """Killed at the second or 21st file, and right before the rename."""
    out = tmp_path / "out"
    child = os.fork()
    if child == 0:
        left, real = [copied], shutil.copyfile

        def copy(source, target):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(source, target)

        exporting.shutil.copyfile = copy  # type: ignore[assignment]
        exporting.os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        try:
            export_run(small_run[1].path, out)
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert not out.exists()
    export_run(small_run[1].path, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / SUMS).read_bytes() == (exported / SUMS).read_bytes()


def test_a_place_that_is_taken_is_left_alone(small_run, exported, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists, and is not overwritten"):
        export_run(small_run[1].path, tmp_path / "taken")
    with pytest.raises(RunError, match="holds something else; choose another --run"):
        import_run(exported, tmp_path / "taken")
    with pytest.raises(ValueError, match="is inside the run"):
        export_run(small_run[1].path, small_run[1].path / "out")
    assert os.listdir(tmp_path / "taken") == ["mine.txt"]
    (tmp_path / "run").mkdir()  # an empty one is nobody's
    assert [import_run(exported, tmp_path / "run") for _ in range(2)] == [True, False]
    (tmp_path / "run" / "config.yaml").write_text("{}")
    with pytest.raises(RunError, match=r"run/config\.yaml does not match its hash"):
        import_run(exported, tmp_path / "run")


# -- the command line ---------------------------------------------------------------------------------------------


def call(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["prelude", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_commands_say_what_there_is_and_stages_refuse(small_run, tmp_path, monkeypatch, capsys):
    out, run = tmp_path / "out", tmp_path / "run"
    monkeypatch.setenv("COLUMNS", "300")
    assert (
        call(monkeypatch, "export", small_run[1].path, "--out", out, "--method", "e2p", "--without-users")
        == 0
    )
    said = capsys.readouterr().out
    assert "Methods: popularity, recency, embedding_retrieval, sasrec, text_search, no_context, prompt_context" in said
    assert "item_knn: item-kNN is counted from users' events" in said
    for words in ("Backbone: tiny-random", "Left out:", "every id and group"):
        assert words in said
    assert call(monkeypatch, "import", out, "--run", run) == 0
    assert "imported as" in capsys.readouterr().out
    assert call(monkeypatch, "import", out, "--run", run) == 0
    assert "holds this export already" in capsys.readouterr().out
    config = (run / "config.yaml").read_bytes()
    for command in (
        ("adapt", run),
        ("evaluate", run),
        ("run", "--run", run),
        ("personalize", run, "--set", "seed=3"),
    ):
        assert call(monkeypatch, *command) == 2
        assert f"{run} was exported for serving" in capsys.readouterr().err
    assert (run / "config.yaml").read_bytes() == config
    assert yaml.safe_load(config)["example"]["user"] is None
    with (
        pytest.raises(RunError, match="was exported for serving"),
        Run.open(run).stage("more", small_run[0].adapt).writing(),
    ):
        pass
    assert call(monkeypatch, "inspect", run) == 2
    assert "without 'quality.json' of stage 'tokenize'" in capsys.readouterr().err
    assert np.isin(["adapt", "embed"], os.listdir(run)).all()

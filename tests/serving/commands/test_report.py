"""`prelude report` and `prelude explain`."""

from __future__ import annotations

import base64
import json
import os
import shutil

from evaluation.report.glossary import TERMS
from evaluation.report.verdict import sentences
from evaluation.table.results import Results
from serving.report.music import five_music_columns, music_sentences
from tests.support.command_line import prelude


def test_a_word_is_explained_as_on_the_page(monkeypatch, capsys):
    code, out, _ = prelude(monkeypatch, capsys, "explain", "no", "context")
    assert (code, out) == (0, f"No Context: {TERMS['No Context']}\n")
    assert prelude(monkeypatch, capsys, "explain")[1].count("\n") == len(TERMS)
    code, _, error = prelude(monkeypatch, capsys, "explain", "natz")
    assert (code, error.startswith("prelude: there is no entry for 'natz'; there are hit-rate@n")) == (
        2,
        True,
    )


def test_a_finished_runs_report_is_made_again(small_run, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    shutil.copytree(small_run[1].path, run)
    before = (run / "results.json").read_bytes()
    for name in ("results.json", "report.html"):
        (run / name).unlink()
    code, out, _ = prelude(monkeypatch, capsys, "report", run)
    assert code == 0
    assert (run / "results.json").read_bytes() == before
    assert "Five people" in (run / "report.html").read_text()
    words = " ".join(out.split())
    for one in sentences(Results.read(run / "results.json")):
        assert " ".join(one.text.split()) in words
    _draws_no_picture_of_an_earlier_training(run, monkeypatch, capsys)
    (run / "evaluate" / "stage.json").unlink()
    code, _, error = prelude(monkeypatch, capsys, "report", run)
    assert (code, "is not evaluated, so there is nothing to report" in error) == (2, True)


def _draws_no_picture_of_an_earlier_training(run, monkeypatch, capsys):
    """`run` has been evaluated, and analysed before and after its training."""
    folder = run / "analyses" / "loop"
    folder.mkdir(parents=True)
    trained = json.loads((run / "personalize" / "stage.json").read_text())["finished_unix_s"]
    dot = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
    )
    for name, moment in (("old", trained - 60), ("new", trained + 1)):
        (folder / f"{name}.png").write_bytes(dot)
        os.utime(folder / f"{name}.png", (moment, moment))
    code, out, _ = prelude(monkeypatch, capsys, "report", run)
    page = (run / "report.html").read_text()
    assert (code, ": new<" in page, ": old<" in page) == (0, True, False)
    assert "drawn before the run's last training" in out
    assert "analyses/loop/old.png" in out
    assert "new.png" not in out


def test_the_music_tables_end_has_five_columns_and_says_what_is_shown():
    one = {
        "a": "E2P (KTO)",
        "b": "No Context",
        "difference": 0.02,
        "difference_ci95": [0.01, 0.03],
        "p_holm": 0.01,
    }
    table = {"baseline": "No Context", "rows": [], "primary": [one, one | {"difference_ci95": [-0.01, 0.03]}]}
    _, columns, _ = five_music_columns(table)
    assert len(columns) == 5
    first, second = music_sentences(table)
    assert (
        first == "E2P (KTO) against No Context: predicted engagement +.0200 (+.0100, +.0300, p .010), shown."
    )
    assert second.endswith("not shown.")

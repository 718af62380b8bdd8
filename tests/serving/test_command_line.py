"""What a person at a terminal sees: tables, JSON, and errors that name the place."""

from __future__ import annotations

import json
import shutil

from recsys.data.dataset import Dataset
from recsys.run import Run
from semantic_ids.scores import SCORES, scores_of
from semantic_ids.tokenizer import load_table
from semantic_ids.transitions import (
    transition_scores,
)
from tests.support.command_line import prelude
from tests.support.worlds import two_tastes


def test_a_run_has_every_score_and_inspect_shows_them(small_run, monkeypatch, capsys):
    run: Run = small_run[1]
    scores = scores_of(run)
    assert list(scores) == list(SCORES)
    assert (
        scores["transition_nats"]
        == transition_scores(load_table(run).codes, Dataset.load(run))["transition_nats"]
    )
    code, out, _ = prelude(monkeypatch, capsys, "inspect", run.path)
    assert code == 0
    for name in SCORES:
        assert f"{name} " in out
    assert f"{scores['transition_nats']:.4f}" in out


def test_recommend_prints_json_and_a_table(small_run, monkeypatch, capsys):
    path = small_run[1].path
    code, out, _ = prelude(
        monkeypatch, capsys, "recommend", path, "--user", "u4", "--query", "even", "-n", 3, "--json"
    )
    assert code == 0
    assert len(json.loads(out)["items"]) == 3
    code, out, _ = prelude(monkeypatch, capsys, "recommend", path, "--user", "u4", "-n", 3)
    assert code == 0
    assert "Title" in out


def test_broken_and_unknown_runs_are_refused_by_name(small_run, tmp_path, monkeypatch, capsys):
    code, _, err = prelude(monkeypatch, capsys, "recommend", tmp_path / "nope", "--user", "u4")
    assert code == 2
    assert "there is no run at" in err
    broken = tmp_path / "broken"
    shutil.copytree(small_run[1].path, broken)
    with open(broken / "adapt" / "sid_rows.safetensors", "r+b") as file:
        file.seek(500)
        file.write(b"xx")
    code, _, err = prelude(monkeypatch, capsys, "recommend", broken, "--user", "u4")
    assert code == 2
    assert "sid_rows.safetensors does not match its hash" in err
    assert "Traceback" not in err


def test_inspect_and_status(small_run, monkeypatch, capsys):
    for command in ("inspect", "status"):
        code, out, _ = prelude(monkeypatch, capsys, command, small_run[1].path)
        assert code == 0
        assert out.strip()


def test_prepare_takes_other_column_names_and_names_bad_lines(tmp_path, monkeypatch, capsys):
    events, items, _ = two_tastes(tmp_path)
    columns = ["--column", "user_id=uid", "--column", "item_id=iid", "--column", "timestamp=ts",
               "--column", "items.item_id=item_id"]  # fmt: skip
    code, _, err = prelude(
        monkeypatch, capsys, "prepare", tmp_path / "r", "--interactions", events, "--items", items, *columns
    )
    assert code == 0, err
    bad = tmp_path / "bad.csv"
    bad.write_text(events.read_text() + "u1,i1,yesterday\n")
    code, _, err = prelude(
        monkeypatch, capsys, "prepare", tmp_path / "s", "--interactions", bad, *columns[:-2]
    )
    assert code == 2
    assert "bad.csv:962" in err
    assert "yesterday" in err


def test_a_stage_out_of_order_says_what_it_needs(tmp_path, monkeypatch, capsys):
    code, _, err = prelude(monkeypatch, capsys, "adapt", tmp_path / "r")
    assert code == 2
    assert "needs stage 'prepare'" in err

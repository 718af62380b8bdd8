"""`prelude user`: what a run holds of a person, shown and exported, and the command itself."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.config import StageConfig
from serving.cli import main
from serving.user_state import delete, export, show
from tests.support.persons import MARK, NUMBER, OWN, PERSON, snapshot, traces

# -- showing and exporting ----------------------------------------------------------------------------------------


def test_show_lists_every_artifact_that_holds_a_row(crowded):
    held = {holding.artifact: holding for holding in show(crowded, PERSON)}
    assert list(held) == [
        "prepare/events.parquet", "prepare/users.parquet", "prepare/queries.parquet", "evaluate/instances.parquet", "evaluate/prefixes.json", *OWN,
        "rows/method/dense.safetensors", "rows/sparse.safetensors", "stream/events.parquet", "stream/groups.parquet", "config.yaml",
    ]  # fmt: skip
    assert held["personalize/tap_per-0.safetensors"].facts == {"p_u": "128 values"}
    events = held["prepare/events.parquet"]
    assert events.rows == 24
    assert (events.facts["first"], events.facts["last"]) == (1_000_007, 1_023_007)
    assert events.facts["roles"] == {"fit": 14, "personalize": 6, "validation": 2, "test": 2}
    assert held["prepare/queries.parquet"].facts["query"] == "odd"
    assert held["stream/groups.parquet"].facts == {"group": 0}
    assert held["rows/method/dense.safetensors"].facts == {"prefix": "2 × 3 values"}
    assert traces(crowded.path)  # the scan below would see them


@pytest.mark.usefixtures("data_files")
def test_an_export_is_what_the_source_said(crowded, small_run, tmp_path):
    n = export(crowded, PERSON, tmp_path / "u7.json")
    text = (tmp_path / "u7.json").read_text()
    whole = json.loads(text)
    assert whole["user_id"] == PERSON
    assert (
        n == sum(len(rows) for rows in whole["artifacts"].values()) == 24 + 1 + 1 + 1 + len(OWN) + 4 + 1 + 2
    )
    source = pd.read_csv(small_run[0].prepare.interactions)
    source = source[source["uid"] == PERSON].sort_values("ts")
    events = whole["artifacts"]["prepare/events.parquet"]
    assert [(row["item_id"], row["time"]) for row in events] == list(
        zip(source["iid"], source["ts"], strict=True)
    )
    assert {row["title"] for row in events} == {f"Title {item[1:]}" for item in source["iid"]}
    assert events[0]["role"] == "fit"
    assert events[-1]["role"] == "test"
    assert whole["artifacts"]["stream/groups.parquet"] == [{"user_id": PERSON, "group": 0}]
    prefix = whole["artifacts"]["rows/method/dense.safetensors"]
    np.testing.assert_array_equal(prefix[0]["prefix"], np.full((2, 3), np.float32(MARK)))
    others = {f"u{user}" for user in range(40)} - {PERSON}
    assert not [user for user in others if f'"{user}"' in text]
    with pytest.raises(ValueError, match=r"u7\.json exists, and is not overwritten"):
        export(crowded, PERSON, tmp_path / "u7.json")
    with pytest.raises(ValueError, match="no folder"):
        export(crowded, PERSON, tmp_path / "nowhere" / "u7.json")
    with pytest.raises(ValueError, match="inside the run"):
        export(crowded, PERSON, crowded.path / "u7.json")


def test_missing_ratings_are_exported_as_null(crowded, tmp_path):
    path = crowded.path / "stream" / "events.parquet"
    table = pa.table({"user": [NUMBER], "rating": pa.array([float("nan")])})
    with crowded.stage("stream", StageConfig(), needs=["rows"]).writing() as folder:
        pq.write_table(table, folder / path.name)
    export(crowded, PERSON, tmp_path / "out.json")
    whole = json.loads((tmp_path / "out.json").read_text())
    assert whole["artifacts"]["stream/events.parquet"] == [{"rating": None}]


@pytest.mark.parametrize("nobody", ["nobody", "", "7"])
def test_an_unknown_id_is_refused_and_nothing_changes(small_run, tmp_path, nobody):
    run = small_run[1]
    before = snapshot(run.path)
    for act in (show, delete, lambda run, user: export(run, user, tmp_path / "out.json")):
        with pytest.raises(ValueError, match=f"user '{nobody}' is unknown to"):
            act(run, nobody)
    assert snapshot(run.path) == before
    assert not (tmp_path / "out.json").exists()


# -- the command line ---------------------------------------------------------------------------------------------


def prelude(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["prelude", *map(str, arguments)])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, *capsys.readouterr()


def test_the_command_shows_exports_asks_and_deletes(crowded, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("serving.user_state.remake_report", lambda run: True)
    arguments = ("user", crowded.path, "--id", PERSON)
    code, out, _ = prelude(monkeypatch, capsys, *arguments, "show", "--json")
    assert code == 0
    assert json.loads(out)[0]["rows"] == 24
    code, out, _ = prelude(monkeypatch, capsys, *arguments, "show")
    assert "1970-01-12 13:46:47 UTC" in out
    assert "2 test" in out
    code, _, error = prelude(monkeypatch, capsys, *arguments, "export")
    assert (code, "export needs --out FILE" in error) == (2, True)
    code, out, _ = prelude(monkeypatch, capsys, *arguments, "export", "--out", tmp_path / "out.json")
    assert (code, f"{34 + len(OWN)} rows" in out) == (0, True)
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115 (nobody answers)
    before = snapshot(crowded.path)
    code, out, _ = prelude(monkeypatch, capsys, *arguments, "delete")
    assert code != 0
    assert snapshot(crowded.path) == before
    code, out, _ = prelude(monkeypatch, capsys, *arguments, "delete", "--yes")
    assert code == 0
    assert "prepare/events.parquet" in out
    assert "source files" in out
    code, _, error = prelude(monkeypatch, capsys, *arguments, "delete", "--yes")
    assert (code, f"user '{PERSON}' is unknown" in error) == (2, True)
    assert traces(crowded.path) == []

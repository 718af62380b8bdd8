"""`prelude compare`, `prelude audit` and `prelude analyse loop` on a whole small run."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from evaluation.table.results import Results
from recsys.run import Run
from serving.studies.compare_runs import names_of
from serving.user_state import delete
from tests.support.command_line import prelude


@pytest.fixture
def run(small_run, tmp_path) -> Run:
    """A copy that may be written to."""
    return Run.open(shutil.copytree(small_run[1].path, tmp_path / "one" / "run"))


def test_a_run_is_its_copys_equal_and_a_test_without_somebody_is_another(run, tmp_path, monkeypatch, capsys):
    other = Run.open(shutil.copytree(run.path, tmp_path / "two" / "run"))
    code, out, _ = prelude(
        monkeypatch,
        capsys,
        "compare",
        run.path,
        other.path,
        "--out",
        tmp_path / "out",
        "--rows",
        "E2P",
        "--rows",
        "Popularity",
    )
    assert code == 0
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert found["runs"] == ["one/run", "two/run"]
    assert [one["row"] for one in found["tests"]] == ["E2P", "E2P", "Popularity"]
    assert {one["difference"] for one in found["tests"]} == {0.0}
    results = Results.read(run.artifact("evaluate", "results.json"))
    figure = f"expected_hit_rate@{results.protocol['n_candidates']}"
    assert found["tests"][0]["value_a"] == pytest.approx(results.row("E2P")[figure], abs=1e-6)
    assert "for 2 of 2 rows no difference is shown" in " ".join(out.split())
    assert "the same, to the byte" in out
    page = (tmp_path / "out" / "compare.html").read_text()
    assert page.count("<svg") == 3
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "compare.html", "compare.json", "hits.svg", "hits.png", "nats.svg", "nats.png", "curves.svg", "curves.png",
    }  # fmt: skip

    delete(other, "u7")
    code, _, error = prelude(monkeypatch, capsys, "compare", run.path, other.path, "--out", tmp_path / "none")
    assert code == 2
    assert "were not measured on the same test" in error
    assert "only in one/run: user u7" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "none").exists()


def test_mistakes_of_compare_are_one_line(run, tmp_path, monkeypatch, capsys):
    for arguments, said in (
        ([run.path], "Name at least two runs"),
        ([run.path, run.path], "is given twice"),
        ([run.path, tmp_path / "nothing"], "nothing"),
        (
            [run.path, shutil.copytree(run.path, tmp_path / "b"), "--rows", "P3P"],
            "no two of these runs have a row 'P3P'",
        ),
    ):
        code, _, error = prelude(monkeypatch, capsys, "compare", *arguments, "--out", tmp_path / "none")
        assert (code, error.count("\n")) == (2, 1)
        assert said in error
    assert names_of([run.path, tmp_path / "two"]) == ["run", "two"]


def test_the_audit_of_a_run(run, tmp_path, monkeypatch, capsys):
    teams = pd.DataFrame({"user_id": [f"u{user}" for user in range(40)], "team": ["red", "blue"] * 20})
    teams.to_csv(tmp_path / "users.csv", index=False)
    code, out, error = prelude(
        monkeypatch, capsys, "audit", run.path, "--rows", "popularity", "--rows", "e2p", "--n", 5, "--items-by", "kind",
        "--users", tmp_path / "users.csv", "--users-by", "team",
    )  # fmt: skip
    assert code == 0, error
    found = json.loads((run.path / "analyses" / "audit" / "audit.json").read_text())
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == ["Popularity", "E2P", "E2P, t = 1", "Random", "own history", "had next"]
    assert rows["Popularity"]["figures"]["coverage"]["value"] == pytest.approx(5 / 60)
    assert {one["group"] for one in rows["E2P"]["people"]["team"]} == {"blue", "red"}
    assert {one["group"] for one in rows["E2P"]["items"]["kind"]} == {"Even", "Odd"}
    # whoever has had one kind alone is shown both by what is the same for all
    assert (
        rows["Popularity"]["figures"]["miscalibration"]["value"]
        > rows["own history"]["figures"]["miscalibration"]["value"]
    )
    assert rows["own history"]["figures"]["miscalibration"]["value"] == 0
    assert max(len(line) for line in out.splitlines()[:-1]) <= 80
    assert "Popularity, worst off:" in out
    files = {path.name for path in (run.path / "analyses" / "audit").iterdir()}
    # of taste there is one group alone in this world, and nothing to draw
    assert {
        "audit.csv",
        "audit.svg",
        "audit.png",
        "miscalibration.svg",
        "exposure-0.svg",
        "exposure-1.svg",
    } <= files
    for wrong, said in (
        (["--rows", "e3p"], "this run has no row 'e3p'"),
        (["--items-by", "studio"], "the catalogue has no column 'studio'; it has kind"),
        (["--users-by", "team"], "--users FILE"),
        (
            ["--users", tmp_path / "users.csv", "--users-by", "age"],
            "has no column 'age'; it has user_id, team",
        ),
    ):
        code, _, error = prelude(monkeypatch, capsys, "audit", run.path, *wrong)
        assert (code, said in error) == (2, True), error


def test_the_feedback_loop_of_a_run(run, monkeypatch, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file()}
    arguments = [
        "analyse",
        "loop",
        run.path,
        "--people",
        10,
        "--rounds",
        2,
        "--seeds",
        2,
        "--n",
        5,
        "--choices",
        2,
    ]
    named = [part for arm in ("Random", "Popularity", "Item-kNN", "Embedding Retrieval", "E2P", "E2P, at most 3 of a kind")
             for part in ("--arm", arm)]  # fmt: skip
    code, out, error = prelude(monkeypatch, capsys, *arguments, *named)
    assert code == 0, error
    folder = run.path / "analyses" / "loop"
    found = json.loads((folder / "loop.json").read_text())
    assert list(found["arms"]) == named[1::2]
    assert found["against"] == "E2P"
    assert "E2P, at most 3 of a kind" in found["levers"]
    for arm in found["arms"].values():
        assert len(arm["rounds"]["gini"]) == 2
        assert all(0 <= one["value"] <= 1 for one in arm["rounds"]["welfare"])
    assert "10 people, 2 seeds" in out
    assert {"loop.svg", "loop.png", "loop-taste.svg"} <= {path.name for path in folder.iterdir()}
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items() if path.exists())
    # what is done is kept; the same seed gives the same
    first = (folder / "loop.json").read_text()
    for path in sorted((folder / "simulations").iterdir())[:3]:
        path.unlink()
    assert prelude(monkeypatch, capsys, *arguments, *named)[0] == 0
    again = json.loads((folder / "loop.json").read_text())
    for name, arm in json.loads(first)["arms"].items():
        np.testing.assert_allclose(
            [one["value"] for one in arm["rounds"]["gini"]],
            [one["value"] for one in again["arms"][name]["rounds"]["gini"]],
            rtol=1e-6,
        )
    for wrong, said in (
        (["--arm", "Nobody"], "there is no arm 'Nobody'"),
        (["--method", "popularity"], "is no generator"),
    ):
        code, _, error = prelude(monkeypatch, capsys, *arguments, *wrong)
        assert (code, said in error) == (2, True), error

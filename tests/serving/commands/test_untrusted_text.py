"""What others wrote (titles, ids, queries, names of files and methods) is printed letter by letter by every command."""

from __future__ import annotations

import io
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from evaluation.report.terminal import print_folded
from recsys.artifacts.manifest import rehashed, sha256_of
from recsys.run import Run
from semantic_ids.quality import print_quality
from serving.export.folder import export_run
from serving.studies.compare_ids import RECALL, print_comparison
from serving.studies.over_time import print_over_time
from serving.text_tasks.tasks import print_results
from tests.support.command_line import prelude

EVIL = "Blue [remastered] [/i] [bold]x :smile: \x1b[2J\x1b]0;t\x07\x9b1m\u202e"
PLAIN = "Blue [remastered] [/i] [bold]x :smile: \\x1b[2J\\x1b]0;t\\x07\\x9b1m\\u202e"
MARKUP = "Blue [remastered] [/i] [bold]x :smile:"  # what an id may hold: control characters are refused there
CONTROL = set("\x1b\x07\x9b\u202e")
NAME = "run [red]\x1b[31m [bold]"  # of a folder


@pytest.fixture
def run(small_run, tmp_path, monkeypatch) -> Run:
    """A copy of the small run, in a folder with such a name, whose items all have such titles."""
    run = Run.open(shutil.copytree(small_run[1].path, tmp_path / NAME))
    path = run.path / "prepare" / "items.parquet"
    table = pq.ParquetFile(path).read()
    titles = pa.array([f"{EVIL} {number}" for number in range(len(table))])
    pq.write_table(table.set_column(table.column_names.index("title"), "title", titles), path)
    records = {place.parent.name: json.loads(place.read_text()) for place in run.path.glob("*/stage.json")}
    for stage, record in rehashed(records, {"prepare": {"items.parquet": sha256_of(path)}}).items():
        (run.path / stage / "stage.json").write_text(json.dumps(record))
    monkeypatch.setenv("COLUMNS", "1000")
    return run


def test_recommendations_have_the_titles_and_the_query_as_they_are(run, monkeypatch, capsys):
    asked = ("recommend", run.path, "--user", "u [/i] [bold]", "--query", EVIL, "-n", 3)
    code, out, _ = prelude(monkeypatch, capsys, *asked)
    assert (code, CONTROL & set(out)) == (0, set())
    assert out.count(PLAIN) >= 3  # titles; the query above them is folded at the table's width
    assert "u [/i] [bold]" in out
    code, out, _ = prelude(monkeypatch, capsys, *asked, "--json")
    assert (code, CONTROL & set(out)) == (0, set())
    assert json.loads(out)["items"][0]["title"].startswith(EVIL)


def test_every_other_command_prints_them_so(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shown = NAME.replace("\x1b", "\\x1b")
    events = tmp_path / "e.csv"
    events.write_text("user_id,item_id,timestamp\nu3,i5,3000000\n")
    for command, said in (
        (("attention", run.path, "--user", "u3"), PLAIN),
        (("status", run.path), None),
        (("inspect", run.path), None),
        (("user", run.path, "show", "--id", "u3"), shown),
        (("user", run.path, "export", "--id", "u3", "--out", tmp_path / f"{EVIL.replace('/', '')}.json"), "written to"),
        (("update", run.path, "--events", events, "--batch-id", MARKUP), MARKUP),
        (("update", run.path, "--events", events, "--batch-id", MARKUP), MARKUP),
        (("export", run.path, "--out", tmp_path / f"out {NAME.replace('/', '')}", "--method", "e2p"), "out run [red]"),
        (("import", tmp_path / f"out {NAME.replace('/', '')}", "--run", tmp_path / f"in {NAME.replace('/', '')}"), "in run [red]"),
        (("prepare", run.path), shown),
        (("user", run.path, "delete", "--id", "u3", "--yes", "--json"), "rewritten"),
    ):  # fmt: skip
        code, out, error = prelude(monkeypatch, capsys, *command)
        assert (code, CONTROL & set(out + error)) == (0, set()), (command, error)
        assert said is None or said in out, (command, out)


@pytest.mark.parametrize(
    "command",
    [
        ("recommend", "RUN", "--method", EVIL),
        ("recommend", "RUN", "--user", "u3", "--exclude", EVIL, "--allow", EVIL, "--history", EVIL),
        ("recommend", "RUN", "--user", "u3", "--cap", f"{EVIL}=3"),
        ("user", "RUN", "show", "--id", EVIL),
        ("status", EVIL.replace("/", "")),
        ("adapt", "RUN", "--set", EVIL),
        ("run", EVIL.replace("/", ""), "--run", "RUN"),
        ("recommend", "RUN", "-n", EVIL),
        ("recommend", "RUN", EVIL),
        (EVIL,),
    ],
)
def test_what_is_refused_is_named_as_it_is_and_in_no_traceback(small_run, monkeypatch, capsys, command):
    monkeypatch.setenv("COLUMNS", "1000")
    code, out, error = prelude(
        monkeypatch, capsys, *(small_run[1].path if part == "RUN" else part for part in command)
    )
    assert code == 2
    # typer shows an argument too many as it was typed, but for what moves the cursor
    let_through = {"\u202e"} if command == ("recommend", "RUN", EVIL) else set()
    assert CONTROL & set(out + error) <= let_through
    assert "Traceback" not in error


def test_a_batch_id_with_control_characters_is_refused_without_them(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "e.csv").write_text("user_id,item_id,timestamp\nu3,i5,3000000\n")
    command = ("update", run.path, "--events", tmp_path / "e.csv", "--batch-id", EVIL)
    code, out, error = prelude(monkeypatch, capsys, *command)
    assert (code, CONTROL & set(out + error), PLAIN in error) == (2, set(), True)


def test_tables_of_every_report(small_run, tmp_path):
    """Names of rows are the configuration's, texts of other stages' files."""
    console = Console(file=io.StringIO(), width=1000)
    print_folded(console, EVIL, [(EVIL, "name", str)], [{"name": EVIL}])
    quality = small_run[1].read_json("tokenize", "quality.json")
    print_quality(quality | {"warnings": [EVIL], "new_items": {"reason": EVIL, "measured": False}}, console)
    variants = [{"name": EVIL, "scores": {}, RECALL: 0.1}]
    print_comparison({"variants": variants, "correlations": [], "note": EVIL}, console)
    row = {
        "chunk": 0,
        "variant": EVIL,
        "n_users": 1,
        "instances": 1,
        "expected_hit_rate@30": 0.1,
        "ci95": None,
    }
    row |= {"minus_x": 0.0, "difference_ci95": None, "p_value": None}
    cost = {"variant": EVIL, "chunk": 0, "steps": 1, "events": 1, "seconds": 1.0}
    print_over_time({"method": EVIL, "figure": EVIL, "rows": [row], "costs": [cost]}, console)
    figure = {"value": 0.5, "ci95": None, "against": {}}
    rows = [{"name": EVIL, "tokens_added": 0, "parameters": 0, "figures": {EVIL: figure}}]
    print_results({"facts": [EVIL], "task": EVIL, "rows": rows}, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert CONTROL & set(text) == set()
    assert text.count(PLAIN) == 3 + 2 + 2 + 3 + 4


def test_an_export_of_such_a_run_is_whole(run, tmp_path):
    assert export_run(run.path, tmp_path / "out", ["e2p"]).exported["run"] == run.path.name

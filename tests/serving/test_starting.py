"""What a command imports before it can answer or refuse: held by what is loaded, not by the clock."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

from recsys.data.config import PrepareConfig
from recsys.run import Run
from serving.cli import COMMANDS
from tests.support.command_line import prelude
from tests.support.paths import ROOT

SECONDS = {
    "torch",
    "transformers",
    "peft",
    "sklearn",
    "scipy",
    "statsmodels",
    "torch_geometric",
    "matplotlib",
    "faiss",
    "ray",
}
MORE = {"pandas", "pyarrow"}
CODE = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from serving.cli import main
found = []
for arguments in json.loads(sys.argv[1]):
    sys.argv, out = ["prelude", *arguments], io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
    found.append((out.getvalue(), code, sorted(name for name in sys.modules if "." not in name)))
print(json.dumps(found))
"""


def started(*commands: tuple) -> list[tuple[str, int, set[str]]]:
    """What each of some commands, one after the other in a new process, said, its exit code, and what was loaded by then."""
    given = json.dumps([list(map(str, command)) for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", CODE, given], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return [(said, code, set(loaded)) for said, code, loaded in json.loads(done.stdout)]


@pytest.fixture
def run(tmp_path) -> Run:
    """A run that has prepared its data, with the configuration that it was prepared by."""
    made = Run.create(tmp_path / "run")
    with made.stage("prepare", PrepareConfig()).writing() as folder:
        (folder / "prepare.json").write_text("{}")
    made.write_config({"prepare": PrepareConfig().model_dump(mode="json")})
    return made


def test_help_loads_nothing_that_takes_seconds():
    for said, code, loaded in started(
        ("--help",), ("recommend", "--help"), ("run", "--help"), ("analyse", "--help")
    ):
        assert code == 0
        assert "Usage" in said
        assert not loaded & (SECONDS | MORE | {"numpy"})


def test_status_of_a_run_that_is_as_it_was_made_loads_no_settings(run):
    ((said, code, loaded),) = started(("status", run.path))
    assert "prepare" in said
    assert code == 0
    assert not loaded & (SECONDS | MORE)


def test_status_still_names_a_setting_that_is_another(run, monkeypatch, capsys):
    values = PrepareConfig().model_dump(mode="json") | {"exclude_seen": False}
    (run.path / "config.yaml").write_text(yaml.safe_dump({"prepare": values}))
    code, said, _ = prelude(monkeypatch, capsys, "status", run.path)
    assert code == 0
    assert "config.yaml: prepare.exclude_seen" in " ".join(said.split())


OF_A_RUN = {
    "recommend": ("--user", "1"),
    "playlists": ("--requests", "a.parquet", "--out", "out"),
    "export": ("--out", "out"),
    "export-adapter": ("--user", "1", "--out", "out"),
    "inspect": (),
    "status": (),
    "user": ("--id", "1", "show"),
    "online": (),
    "drift": (),
    "update": ("--events", "a.csv"),
    "online-full": ("--events", "a.csv", "--out", "out"),
    "attention": ("--user", "1"),
    "summarize": ("--out", "out.parquet"),
    "serve": (),
    "keys": ("list",),
    "value": (),
    "compare": ("another",),
    "audit": (),
    "report": (),
    "refresh": ("--items", "a.csv"),
}


def test_every_command_that_asks_a_run_is_tried():
    makes = {"task", "run", "bench", "compare-ids", "import", "explain"}
    stages = {
        "prepare",
        "embed",
        "tokenize",
        "adapt",
        "personalize",
        "combine",
        "evaluate",
        "engagement",
        "align",
        "music",
    }
    assert OF_A_RUN.keys() == {name for group in COMMANDS.values() for name in group} - makes - stages


def test_an_unknown_run_is_refused_before_anything_is_loaded(tmp_path):
    commands = [(command, tmp_path / "nowhere", *more) for command, more in OF_A_RUN.items()]
    for (command, *_), (said, code, loaded) in zip(commands, started(*commands), strict=True):
        assert code == 2, command
        assert "there is no run at" in said, command
        assert not loaded & (SECONDS | MORE), command


def test_a_bad_argument_is_refused_before_anything_is_loaded(run, tmp_path):
    new = tmp_path / "new"
    wrong = {
        ("run", "nowhere.yaml", "--run", new): "no such configuration file",
        ("run", "--set", "adapt", "--run", new): "expected stage.key=value",
        ("recommend", run.path, "-n", "0"): "ask for at least one item",
        ("recommend", run.path, "--cap", "genres"): "expected a column and a whole number",
        ("recommend", run.path, "--temperature", "-1"): "expected 0 (best first)",
        ("bake",): "No such command",
        ("run", "--set", "adapt.steps=-1", "--run", new): "adapt.steps",
        ("run", "--set", "embed.lightgcn.dims=8", "--run", new): "embed.lightgcn.dims",
        ("run", "--set", "tokenize.size=1", "--run", new): "a level needs at least 2 codes",
        ("run", "--set", "adopt.steps=5", "--run", new): "adopt",
        ("adapt", run.path, "--set", "adapt.stepz=3"): "adapt.stepz",
        ("personalize", run.path, "--set", "personalize.stepz=3"): "personalize.stepz",
        ("personalize", run.path, "--set", "personalize.methods=[e3p]"): "there is no method 'e3p'",
        ("prepare", new, "--source", "netflix"): "prepare.source",
        ("evaluate", run.path, "--set", "evaluate.max_instances=many"): "evaluate.max_instances",
    }
    for (command, message), (said, code, loaded) in zip(wrong.items(), started(*wrong), strict=True):
        assert code == 2, command
        assert message in said, command
        assert not loaded & (SECONDS | MORE), command
    assert not new.exists()


def test_a_list_needs_neither_transformers_nor_what_trains_and_measures(small_run):
    """Seconds of imports, of which an answer uses nothing; torch's own compiler (`sympy` comes with it) is not woken either."""
    _, run = small_run
    ((said, code, loaded),) = started(("recommend", run.path, "--user", "u1", "--query", "even", "--json"))
    assert code == 0, said
    assert "torch" in loaded
    assert not loaded & (SECONDS - {"torch", "faiss"} | {"sympy", "bm25s"})

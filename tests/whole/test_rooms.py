"""The rooms of the design: who may import whom. Parsed from the sources, so lazy imports count too."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.check import rooms_of
from tests.support.paths import ROOT
from tests.support.sources import imported, imported_by

TESTS = ROOT / "tests"
MAY_SEE = {
    "recsys": {"recsys"},
    "semantic_ids": {"recsys", "semantic_ids"},
    "llm": {"recsys", "semantic_ids", "llm"},
    "evaluation": {"recsys", "evaluation"},
    "serving": {"recsys", "semantic_ids", "llm", "evaluation", "serving"},
}


def rooms_among(names: Iterable[str]) -> set[str]:
    return {name.split(".")[0] for name in names} & MAY_SEE.keys()


def test_a_wrong_direction_would_be_seen():
    lazy = "def f():\n    from serving.cli import main\n    import llm.backbone.sid_model as m"
    assert rooms_among(imported(lazy)) == {"serving", "llm"}


@pytest.mark.parametrize("room", sorted(MAY_SEE))
def test_a_room_sees_only_what_it_may(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    wrong = {
        str(path.relative_to(ROOT)): sorted(others)
        for path in files
        if (others := rooms_among(imported_by(path)) - MAY_SEE[room])
    }
    assert wrong == {}


def with_supports(file: Path) -> set[Path]:
    """A file of tests, the conftests above it, and every module of tests/support that one of them imports."""
    found, waiting = (
        set(),
        [file, *(folder / "conftest.py" for folder in file.parents if TESTS in (folder, *folder.parents))],
    )
    while waiting:
        path = waiting.pop()
        if path in found or not path.exists():
            continue
        found.add(path)
        names = imported_by(path)
        waiting += [ROOT / f"{name.replace('.', '/')}.py" for name in names if name.startswith("tests.")]
    return found


def test_what_a_test_loads_by_its_supports_would_be_seen():
    loaded = with_supports(TESTS / "serving" / "test_text_tasks.py")
    assert {"conftest.py", "text_files.py", "worlds.py", "made_once.py"} <= {path.name for path in loaded}


@pytest.mark.parametrize("room", sorted(MAY_SEE))
def test_the_tests_of_a_room_load_only_what_it_may(room):
    """Their conftests and supports too. What needs more than its room belongs into tests/whole."""
    files = sorted((TESTS / room).rglob("*.py"))
    assert files
    wrong = {}
    for file in files:
        for path in with_supports(file):
            rooms = rooms_among(imported_by(path)) - MAY_SEE[room]
            if rooms:
                wrong[str(file.relative_to(ROOT))] = (str(path.relative_to(ROOT)), sorted(rooms))
    assert wrong == {}


def test_no_test_imports_a_test():
    """What tests share is in tests/support."""
    wrong = {
        str(path.relative_to(ROOT)): sorted(others)
        for path in TESTS.rglob("*.py")
        if (
            others := {
                name
                for name in imported_by(path)
                if name.split(".")[0] == "tests" and not name.startswith("tests.support")
            }
        )
    }
    assert wrong == {}


def test_folders_of_tests_stay_small():
    folders = [path for path in (TESTS, *TESTS.rglob("*")) if path.is_dir() and path.name != "__pycache__"]
    assert {
        str(path.relative_to(ROOT)): n for path in folders if (n := len(list(path.glob("test_*.py")))) > 15
    } == {}
    assert all((path / "__init__.py").exists() for path in folders if any(path.glob("*.py")))


def test_modules_stay_readable():
    """No module, and no file of tests, is far over 300 lines."""
    long = {
        str(path.relative_to(ROOT)): n
        for room in (*MAY_SEE, "tests")
        for path in (ROOT / room).rglob("*.py")
        if (n := len(path.read_text().splitlines())) > 350
    }
    assert long == {}


def test_the_command_line_starts_without_torch():
    """Help in half a second instead of ten."""
    code = "import sys, serving.cli; print([name for name in ('torch', 'transformers', 'pandas', 'sklearn') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


def test_the_quick_check_takes_the_rooms_of_what_differs():
    sources = {
        "tests/llm/test_words.py": "from tests.support.prompts import builder",
        "tests/recsys/test_run.py": "",
    }
    assert rooms_of(["README.md", "configs/demo.yaml", "tests/whole/test_rooms.py"], sources) == []
    assert rooms_of(["serving/cli.py", "recsys/run.py"], sources) == ["recsys", "serving"]
    assert rooms_of(["tests/evaluation/test_report.py"], sources) == ["evaluation"]
    assert rooms_of(["tests/support/prompts.py"], sources) == ["llm"]

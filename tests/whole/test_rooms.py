"""The rooms of the design: who may import whom. Parsed from the sources, so lazy imports count too."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

MAY_SEE = {
    "recsys": {"recsys"},
    "semantic_ids": {"recsys", "semantic_ids"},
    "llm": {"recsys", "semantic_ids", "llm"},
    "evaluation": {"recsys", "evaluation"},
    "serving": {"recsys", "semantic_ids", "llm", "evaluation", "serving"},
}


def imported_rooms(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            names.add(node.module or "")
    return {name.split(".")[0] for name in names} & MAY_SEE.keys()


def test_a_wrong_direction_would_be_seen():
    assert imported_rooms(
        "def f():\n    from serving.cli import main\n    import llm.backbone.sid_model as m"
    ) == {
        "serving",
        "llm",
    }


@pytest.mark.parametrize("room", sorted(MAY_SEE))
def test_a_room_sees_only_what_it_may(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    wrong = {
        str(path.relative_to(ROOT)): sorted(imported_rooms(path.read_text()) - MAY_SEE[room])
        for path in files
        if imported_rooms(path.read_text()) - MAY_SEE[room]
    }
    assert wrong == {}


def test_modules_stay_readable():
    """No module is far over 300 lines."""
    long = {
        str(path.relative_to(ROOT)): n
        for room in MAY_SEE
        for path in (ROOT / room).rglob("*.py")
        if (n := len(path.read_text().splitlines())) > 350
    }
    assert long == {}


def test_the_command_line_starts_without_torch():
    """Help in half a second instead of ten."""
    code = "import sys, serving.cli; print([name for name in ('torch', 'transformers', 'pandas', 'sklearn') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"

"""The walls inside the rooms: which folder may import which, no circles between files, and folders that stay small.

Parsed from the sources, so imports inside functions and under TYPE_CHECKING count too.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import networkx
import pytest

from tests.support.paths import ROOT
from tests.support.sources import imported, imported_by

MOST_MODULES = 15
ROOMS = ("recsys", "semantic_ids", "llm", "evaluation", "serving")
# of each room, from the ground up: a folder (or a module that stands in the room itself) imports from lower lines, and from its own
ORDER = {
    "recsys": (
        {"seeds", "config", "recommender", "terminal", "elsewhere", "progress"},
        {"artifacts", "door"},
        {"training", "run", "requests"},
        {"data"},
        {"embeddings", "text_tasks"},
        {"engagement"},
    ),
    "semantic_ids": (),  # one folder of fifteen modules; the circles are tested
    "llm": (
        {"backbone"},
        {"prompts"},
        {"decoding"},
        {"stage1"},
        {"methods"},
        {"align", "streams", "text_tasks"},
    ),
    "evaluation": (
        {"metrics", "statistics", "softmax", "product", "baselines", "calibration", "projection"},
        {"table", "value"},
        {"report"},
        {"engagement", "text_tasks", "compare", "audit"},
        {"music"},
    ),
    "serving": (
        {"config", "engines", "state"},
        {"answering"},
        {"stages"},
        {"report", "tracking"},
        {"pipeline", "playlists"},
        {"export", "refresh", "studies", "text_tasks", "user_state", "bench"},
        {"service"},
        {"value"},
        {"commands"},
        {"cli"},
    ),
}


@cache
def graph() -> networkx.DiGraph:
    """An arrow from each module to each that it imports. A folder's `__init__` imports nothing, so it is no module here."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if path.name != "__init__.py"
    }
    found = networkx.DiGraph()
    found.add_nodes_from(files)
    for name, path in files.items():
        found.add_edges_from((name, other) for other in imported_by(path) & files.keys())
    return found


def circles(arrows: networkx.DiGraph) -> list[list[str]]:
    return [sorted(some) for some in networkx.strongly_connected_components(arrows) if len(some) > 1]


def folders_of_room(room: str) -> networkx.DiGraph:
    """The arrows between the folders of a room (a module of the room itself counts as one), but those to itself."""
    found = networkx.DiGraph()
    for name, other in graph().edges:
        (start, one, *_), (end, two, *_) = name.split("."), other.split(".")
        if start == end == room and one != two:
            found.add_edge(one, two)
    return found


def test_a_circle_would_be_seen():
    lazy = "def f():\n    from a import c\nif TYPE_CHECKING:\n    import a.d"
    assert imported(lazy) & {"a.b", "a.c", "a.d"} == {"a.c", "a.d"}
    assert circles(networkx.DiGraph([("a.b", "a.c"), ("a.c", "a.d"), ("a.d", "a.b"), ("a.e", "a.b")])) == [
        ["a.b", "a.c", "a.d"]
    ]


def test_no_file_imports_itself_by_way_of_others():
    assert graph().number_of_edges() > 500
    assert circles(graph()) == []


@pytest.mark.parametrize("room", [room for room in ROOMS if ORDER[room]])
def test_folders_import_from_below(room):
    floor = {folder: number for number, folders in enumerate(ORDER[room]) for folder in folders}
    there = {
        path.stem
        for path in (ROOT / room).iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert floor.keys() == there - {"__init__"}, "every folder and module of the room has its place in ORDER"
    wrong = sorted((a, b) for a, b in folders_of_room(room).edges if floor[b] > floor[a])
    assert wrong == []
    assert circles(folders_of_room(room)) == []


def test_folders_stay_small():
    counts = Counter(
        path.parent.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if path.name != "__init__.py"
    )
    assert {folder: n for folder, n in counts.items() if n > MOST_MODULES} == {}


def packages() -> list[Path]:
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("__init__.py"))


@pytest.mark.parametrize("path", packages(), ids=lambda path: path.parent.relative_to(ROOT).as_posix())
def test_a_folder_says_what_is_here_what_it_may_import_and_what_to_read_first(path):
    tree = ast.parse(path.read_text())
    text = ast.get_docstring(tree) or ""
    if path.parent.name == "serving":  # the front door: its two names are loaded when they are asked for
        assert "from serving import Recommender" in text
        return
    assert 3 <= len(text.splitlines()) <= 8
    assert "May import" in text
    assert "Read first" in text
    assert len(tree.body) == 1, "it imports nothing"


def folder_of(module: str) -> str:
    """The folder that a module stands in, or `room/` where that is the room itself."""
    folder = module.rpartition(".")[0]
    return f"{folder}/" if folder in ROOMS else folder


@pytest.mark.parametrize("folder", sorted({folder_of(module) for module in graph()} - {"serving/"}))
def test_what_a_folder_imports_is_what_it_says_that_it_may(folder):
    text = ast.get_docstring(ast.parse((ROOT / folder.replace(".", "/") / "__init__.py").read_text())) or ""
    said = re.findall(r"`([^`]+)`", text.partition("May import:")[2].partition("Read first:")[0])
    said.append(folder.rstrip("/"))
    wrong = {
        (a, b)
        for a, b in graph().edges
        if folder_of(a) == folder
        and not any(f"{folder_of(b)}.".startswith((f"{name}.", f"{name}/.")) for name in said)
        and not ("/" in folder_of(b) and folder_of(b).rstrip("/") in said)
    }
    assert wrong == set()


def test_every_folder_of_modules_is_a_package():
    folders = {path.parent for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []

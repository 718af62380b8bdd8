"""What sources import, each parsed once in a session."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path


@cache
def imported(source: str) -> frozenset[str]:
    """The modules that a source imports, lazily or not: `import a.b`, `from a import b` and `from a.b import c` all mean a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


@cache
def imported_by(path: Path) -> frozenset[str]:
    return imported(path.read_text(encoding="utf-8"))

"""The tour: one module a line, the line being the first of the module's own docstring.

python docs/site/tour.py        writes docs/tour.md again; a test says when that is due
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("recsys", "semantic_ids", "llm", "evaluation", "serving")
ASIDE = ("May import:", "Read first:")  # lines of a folder's docstring that a newcomer wants too
HEAD = """\
# Tour

One module a line, in the words of its own docstring; `python docs/site/tour.py` writes this page from the sources, and a
test says when that is due. A room imports from rooms before it alone, lazily or not:

    recsys  ←  semantic_ids  ←  llm  ←  serving          recsys  ←  evaluation  ←  serving

So `llm` may import `recsys` and `semantic_ids`, and `evaluation` may import `recsys`; `serving` sees all. What a folder may
import stands below its name (`llm.methods` is that folder with what is in it; `recsys/` are the modules of the room itself).
A room's tests are in `tests/ROOM/`, whole runs in `tests/whole/`. The words of this house (session, reading, listener, …) are in the
[glossary](glossary.md); how to add something, file by file, is in [contributing](contributing.md).
"""


def docstring(path: Path) -> list[str]:
    """The lines of a module's docstring; raises `ValueError` naming a module that has none."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not text:
        raise ValueError(f"{path}: a module's docstring says what it is for; this one has none")
    return text.splitlines()


def folders(root: Path, room: str) -> Iterator[tuple[Path, list[Path]]]:
    """The room and the folders in it, each with its modules, parents before children."""
    for folder in sorted({path.parent for path in (root / room).rglob("*.py")}):
        yield folder, sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")


def asides(about: list[str]) -> list[str]:
    """The asides of a folder's docstring, each with the lines that it goes on in."""
    text = "\n".join(about[1:])
    starts = [match.start() for match in re.finditer("|".join(ASIDE), text)]
    ends = [*starts[1:], len(text)]
    return [" ".join(text[start:end].split()) for start, end in zip(starts, ends, strict=True)]


def tour(root: Path = ROOT) -> str:
    """The whole page."""
    parts = [HEAD]
    for room in ROOMS:
        for folder, modules in folders(root, room):
            name = folder.relative_to(root).as_posix()
            about = docstring(folder / "__init__.py")
            parts.append(f"{'##' if name == room else '###'} {name}/\n\n{about[0]}\n")
            parts += [f"{line}\n" for line in asides(about)]
            lines = [f"- `{path.relative_to(root).as_posix()}`: {docstring(path)[0]}" for path in modules]
            parts.append("\n".join(lines) + "\n")
    return "\n".join(part for part in parts if part.strip())


if __name__ == "__main__":
    (ROOT / "docs" / "tour.md").write_text(tour(), encoding="utf-8")

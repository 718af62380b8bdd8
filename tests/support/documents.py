"""The README and the pages of docs/ as a test reads them: blocks of code, marks, command lines, words in code spans."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.paths import ROOT

MARK = re.compile(r"<!-- not run: (?P<reason>.+) -->")  # on the line above a block that no test can run
FENCE = re.compile(r"^```(?P<language>\S*)\s*$")
SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """One block of code; `reason` says why it is not run (None: it is)."""

    page: str
    line: int
    language: str
    code: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> Iterator[list[str]]:
        """The words of each command line, its comment left out."""
        for line in self.code.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def pages() -> list[str]:
    """Written by hand: the README, the pages of docs/ but the tour, and what findings are."""
    found = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
    return ["README.md", "findings/README.md", *(page for page in found if page != "docs/tour.md")]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """The page's blocks, in order."""
    found: list[Block] = []
    above, opened, lines = "", None, text_of(page).splitlines()
    for number, line in enumerate(lines, 1):
        fence = FENCE.match(line)
        if fence and opened is None:
            mark = MARK.fullmatch(above)
            opened = (number, fence["language"], mark["reason"] if mark else None)
        elif fence and opened is not None:
            at, language, reason = opened
            found.append(Block(page, at, language, "\n".join(lines[at : number - 1]), reason))
            opened = None
        above = line
    assert opened is None, f"{page}:{opened[0]} opens a block that nothing closes" if opened else ""
    return found


def spans(page: str) -> set[str]:
    """What stands in backticks outside of blocks."""
    inside, prose = False, []
    for line in text_of(page).splitlines():
        if FENCE.match(line):
            inside = not inside
        elif not inside:
            prose.append(line)
    return set(SPAN.findall("\n".join(prose)))

"""Docstrings are plain sentences with shapes in them: `[R, n]` is no link, and `<BOS>` no tag, when Markdown reads them."""

from __future__ import annotations

from typing import Any

from griffe import Extension, Object


def plain(text: str) -> str:
    """`text` with brackets and angles escaped outside of code spans and indented code."""
    return "\n".join(line if line.startswith("    ") else _line(line) for line in text.split("\n"))


def _line(line: str) -> str:
    parts = line.split("`")
    parts[::2] = [part.replace("[", r"\[").replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)


class PlainDocstrings(Extension):
    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = plain(obj.docstring.value)

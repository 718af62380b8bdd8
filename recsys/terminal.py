"""Text that somebody else wrote, on the terminal: titles, queries, ids, file names, settings of a run that was sent.

It is shown as it is. Square brackets are no markup, `:smile:` is no picture, and what would move the cursor, clear the screen,
write the window's title or turn the direction of reading is shown as an escape, as Python writes it: `\\x1b`, `\\u202e`.
"""

from __future__ import annotations

import json
import re
from typing import Any

from rich.text import Text

# C0, DEL and C1; line and paragraph separators; marks that turn the direction of reading; halves of characters
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_CONTROL_BUT_LINES = re.compile(_CONTROL.pattern.replace("\x00-\x1f", "\x00-\x09\x0b-\x1f"))


def escaped(text: Any, lines: bool = False) -> str:
    """The text with control characters shown as escapes; `lines`: it may have several, as our own messages do.

    >>> print(escaped("Kind of Blue [remastered]\\x1b[2J"))
    Kind of Blue [remastered]\\x1b[2J
    """
    pattern = _CONTROL_BUT_LINES if lines else _CONTROL
    return pattern.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), str(text))


def shown(text: Any, style: str = "", lines: bool = False) -> Text:
    """The same for rich, which parses what is not a `Text` as markup: for cells, titles and lines of a console."""
    return Text(escaped(text, lines), style=style)


def title(text: Any) -> Text:
    """The title of a rich table, in the style that those have."""
    return shown(text, "table.title")


def as_json(value: Any) -> str:
    """JSON for people and machines: letters of any script as they are, control characters as JSON's escapes."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    return _CONTROL_BUT_LINES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)

"""Untrusted text on a terminal: as it is, with control characters as escapes."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from rich.table import Table

from recsys import terminal
from recsys.door.notices import Coverage, Notices
from recsys.terminal import as_json, escaped, shown

HOSTILE = (
    "Kind of Blue [remastered] [/i] [bold]x[/bold] :smile: \\[y]\\ \x1b[2J\x07\x9b1m\u202eevil\r\n\t\x7f"
)
PLAIN = "Kind of Blue [remastered] [/i] [bold]x[/bold] :smile: \\[y]\\ \\x1b[2J\\x07\\x9b1m\\u202eevil\\r\\n\\t\\x7f"


def printed(what) -> str:
    console = Console(file=io.StringIO(), width=400, force_terminal=False)
    console.print(what)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_text_reaches_the_terminal_letter_by_letter():
    assert escaped(HOSTILE) == PLAIN
    assert printed(shown(HOSTILE)) == PLAIN + "\n"
    table = Table(title=terminal.title(HOSTILE))
    table.add_column(shown(HOSTILE))
    table.add_row(shown(HOSTILE))
    assert printed(table).count(PLAIN) == 3


@pytest.mark.parametrize("text", ["Ça va", "東京", "नमस्ते", "می‌خواهم", "👩‍🚀", "שלום", "a b", ""])
def test_letters_of_every_script_stay(text):
    assert escaped(text) == text


def test_our_own_messages_keep_their_lines_and_others_dont():
    assert escaped("a\nb\tc", lines=True) == "a\nb\\tc"
    assert escaped("a\nb") == "a\\nb"
    assert escaped("\ud800") == "\\ud800"  # half a character, which no terminal can be sent


def test_json_stays_json_and_says_the_same():
    value = {"title": HOSTILE, "é": ["\u2028", "\ud83d"]}
    text = as_json(value)
    assert json.loads(text) == value
    assert not set(text) & set("\x1b\x07\x9b\x7f\u202e\u2028")
    assert "é" in text


def test_notices_of_the_door_log_no_control_character(caplog):
    notices = Notices()
    notices.add("title", 1, f"the title {HOSTILE}")
    notices.read(f"the column {HOSTILE}")
    notices.require(Coverage("titles", 1, 2, HOSTILE), 0.1, "x", "y")
    text = caplog.text
    assert text.count(PLAIN) == 3
    assert not set(text) & set("\x1b\x07\x9b\x7f\u202e")

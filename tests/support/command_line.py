"""The command line called in this process."""

from __future__ import annotations

import sys

from serving.cli import main

# -- the command line -------------------------------------------------------------------------------------------


def prelude(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["prelude", *map(str, arguments)])
    code: int | str | None = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    out = capsys.readouterr()
    return int(code or 0), out.out, out.err

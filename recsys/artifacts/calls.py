"""How long a stage was worked at by calls that did not finish it: a note in the stage's partial folder, which the next call reads.

A call that ends in an error says when; one that was killed cannot, and counts up to the last file that it wrote.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

NAME = "calls.json"


def begin(folder: Path) -> None:
    """Note that a call begins. What calls before it have spent in `folder` is kept."""
    _write(folder, {"spent_s": spent(folder), "began_unix_s": time.time()})


def fail(folder: Path) -> None:
    """Note that the call that began has ended without finishing the stage."""
    path = folder / NAME
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        began = found.get("began_unix_s", time.time())
        _write(folder, {"spent_s": found["spent_s"] + time.time() - began})


def spent(folder: Path) -> float:
    """Seconds of all calls that have ended in `folder` without finishing its stage."""
    path = folder / NAME
    if not path.exists():
        return 0.0
    found = json.loads(path.read_text(encoding="utf-8"))
    if "began_unix_s" not in found:
        return found["spent_s"]
    last = max(file.stat().st_mtime for file in folder.rglob("*") if file.is_file())
    return found["spent_s"] + max(0.0, last - found["began_unix_s"])


def finish(folder: Path) -> float:
    """Seconds of the calls before the one that finishes the stage; the note is removed."""
    path = folder / NAME
    found = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    return found["spent_s"]


def _write(folder: Path, found: dict[str, float]) -> None:
    temporary = folder / f".{NAME}.tmp"
    temporary.write_text(json.dumps(found), encoding="utf-8")
    temporary.replace(folder / NAME)

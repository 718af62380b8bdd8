"""Hashes of large artifacts that were computed before, kept beside the run with what the file system says of each file.

    RUN/.verified.json     {"embed/item_vectors.safetensors": [size, mtime_ns, ctime_ns, inode, device, sha256], …}

A hash is taken from there where all of these are as they were; else the file is read again. The kernel moves ctime at every change of a
file, and gives nobody a way to set it back, so a change by way of the file system is seen, and a record that came with a folder from
elsewhere is worth nothing here. What is *not* seen is a disk that answers with other bytes than were written: delete the record, and
every byte is read again. Files below `LARGE` are read each time.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from recsys.artifacts.manifest import sha256_of
from recsys.artifacts.rewrite import write_text_atomically

NAME = ".verified.json"
LARGE = 16 << 20  # bytes; smaller ones take less than a fiftieth of a second


class VerifiedHashes:
    """The sha256 of files below a run directory, each byte read once as long as nothing touches its file."""

    def __init__(self, run: Path):
        self._run, self._path = run, run / NAME
        self._known: dict[str, list] | None = None

    def sha256(self, path: Path) -> str:
        before = self._state(path)
        if before[0] < LARGE:
            return sha256_of(path)
        name = os.path.relpath(path, self._run)
        known = self._read().get(name)
        if known is not None and known[:-1] == before:
            return known[-1]
        digest = sha256_of(path)
        if self._state(path) == before:
            self._remember(name, [*before, digest])
        return digest

    @staticmethod
    def _state(path: Path) -> list[int]:
        found = path.stat()
        return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]

    def _read(self) -> dict[str, list]:
        if self._known is None:
            try:
                found = json.loads(self._path.read_text(encoding="utf-8"))
            except (OSError, ValueError):  # not there, or damaged: everything is read
                found = {}
            whole = found if isinstance(found, dict) else {}
            self._known = {
                name: row for name, row in whole.items() if isinstance(row, list) and len(row) == 6
            }
        return self._known

    def _remember(self, name: str, row: list) -> None:
        known = self._read() | {name: row}
        self._known = {name: row for name, row in known.items() if (self._run / name).exists()}
        try:
            write_text_atomically(self._path, json.dumps(self._known, indent=1))
        except OSError:  # a run that may only be read is hashed at every load
            return

"""Files replaced whole: one by a rename, several by a journal and renames.

A `Rewrite` stages the new files in `.rewrite/new/`, then writes `.rewrite/journal.json`, which is the commit,
and then renames. A process that is killed before the commit has changed nothing; after it, `finish` does what
is left, and doing a part of it twice changes nothing. `Run` calls `finish` before anything else looks at the
files.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

FOLDER = ".rewrite"


def write_text_atomically(path: Path, text: str) -> None:
    """Write `text` under a temporary name beside `path`, flush it to disk, and rename it into place."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class Rewrite:
    """Changes to files below `root`, all or none. Whoever makes one holds the run's lock."""

    def __init__(self, root: Path):
        finish(root)
        self.root, self.folder = root, root / FOLDER
        self.replaced: list[str] = []
        self.removed: list[str] = []

    def new(self, name: str) -> Path:
        """Where to write what shall stand at `name`, a path relative to the root."""
        path = self.folder / "new" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.replaced.append(name)
        return path

    def remove(self, name: str) -> None:
        """Have the file or folder `name` gone after the commit."""
        self.removed.append(name)

    def commit(self) -> None:
        self.folder.mkdir(exist_ok=True)
        for name in self.replaced:
            to_disk(self.folder / "new" / name)
        deed = {"replace": self.replaced, "remove": self.removed}
        write_text_atomically(self.folder / "journal.json", json.dumps(deed, indent=1))
        to_disk(self.folder)
        finish(self.root)


def is_committed(root: Path) -> bool:
    """True if a rewrite was committed and has not been finished."""
    return (root / FOLDER / "journal.json").exists()


def finish(root: Path) -> None:
    """Do what is left of a committed rewrite; drop what was staged for one that was never committed."""
    folder, journal = root / FOLDER, root / FOLDER / "journal.json"
    if journal.exists():
        deed = json.loads(journal.read_text(encoding="utf-8"))
        for name in deed["replace"]:
            if (folder / "new" / name).exists():  # else it was renamed before the kill
                os.replace(folder / "new" / name, root / name)
        for name in deed["remove"]:
            if (root / name).is_dir():
                shutil.rmtree(root / name)
            else:
                (root / name).unlink(missing_ok=True)
        for changed in {(root / name).parent for name in deed["replace"] + deed["remove"]}:
            to_disk(changed)
        journal.unlink()
    if folder.exists():
        shutil.rmtree(folder)


def to_disk(path: Path) -> None:
    """Flush a file, or the names in a folder, so that a power failure cannot undo it after what follows."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

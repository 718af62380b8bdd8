"""Files replaced whole: one by a rename, several by a journal and renames.

A `Rewrite` stages the new files in `.rewrite/new/`, then writes `.rewrite/journal.json`, which is the commit, and then
renames. A process that is killed before the commit has changed nothing; after it, `finish` does what is left, and doing
a part of it twice changes nothing. `Run` calls `finish`, under its lock, before anything else looks at the files.

A journal is an order to replace and delete, so nobody else's is run. Its names pass `inside`, and it names the folder that it was
written in (the inode of `.rewrite`): one that came with a copied, unpacked or received folder names another, and is refused. Whoever
has moved a run of their own between a kill and its end says so with `adopt`.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

from recsys.artifacts.paths import RunError, inside

FOLDER = ".rewrite"
JOURNAL = f"{FOLDER}/journal.json"


class ForeignRewriteError(RunError):
    """A journal that was not written in this folder, or is not one; it is not run."""


def write_text_atomically(path: Path, text: str) -> None:
    """Write `text` under a temporary name beside `path`, flush it to disk, and rename it into place."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8", opener=no_link) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class Rewrite:
    """Changes to files below `root`, all or none. Whoever makes one holds the run's lock."""

    def __init__(self, root: Path):
        finish(root)
        self.root, self.folder = root, inside(root, FOLDER, root)
        self.replaced: list[str] = []
        self.removed: list[str] = []

    def new(self, name: str) -> Path:
        """Where to write what shall stand at `name`, a path relative to the root. Raises `OutsideError` for one outside of it."""
        inside(self.root, name, self.root)
        path = self.folder / "new" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.replaced.append(name)
        return path

    def remove(self, name: str) -> None:
        """Have the file or folder `name` gone after the commit. Raises `OutsideError` for one outside of the root."""
        inside(self.root, name, self.root)
        self.removed.append(name)

    def staged(self, name: str) -> Path:
        """Where what shall stand at `name` was written."""
        return self.folder / "new" / name

    def below(self, folder: str) -> Part:
        """The same changes, seen from a folder of the root ("": the root itself)."""
        return Part(self, folder)

    def commit(self) -> None:
        self.folder.mkdir(exist_ok=True)
        for name in self.replaced:
            to_disk(self.folder / "new" / name)
        _write_journal(self.root, {"replace": self.replaced, "remove": self.removed})
        to_disk(self.folder)
        finish(self.root)


class Part:
    """Changes below a folder of a `Rewrite`'s root, by names relative to it; they are committed with all others."""

    def __init__(self, whole: Rewrite, folder: str):
        self.whole, self.before = whole, f"{folder}/" if folder else ""
        self.replaced: list[str] = []
        self.removed: list[str] = []

    def new(self, name: str) -> Path:
        self.replaced.append(name)
        return self.whole.new(self.before + name)

    def remove(self, name: str) -> None:
        self.removed.append(name)
        self.whole.remove(self.before + name)

    def staged(self, name: str) -> Path:
        return self.whole.staged(self.before + name)


def is_committed(root: Path) -> bool:
    """True if a rewrite was committed and has not been finished. Raises `ForeignRewriteError` for one of another folder."""
    return _journal(root) is not None


def finish(root: Path) -> None:
    """Do what is left of a rewrite that was committed here; drop what was staged for one that was never committed.

    Raises `ForeignRewriteError` for a journal of another folder, and `OutsideError` for one that names what is not in `root`;
    both before anything is done.
    """
    deed = _journal(root)
    folder = root / FOLDER
    if deed is not None:
        said_by = root / JOURNAL
        targets = {name: inside(root, name, said_by) for name in deed["replace"] + deed["remove"]}
        staged = {name: inside(root, f"{FOLDER}/new/{name}", said_by) for name in deed["replace"]}
        for name in deed["replace"]:
            if staged[name].exists():  # else it was renamed before the kill
                os.replace(staged[name], targets[name])
        for name in deed["remove"]:
            if targets[name].is_dir() and not targets[name].is_symlink():
                shutil.rmtree(targets[name])
            else:
                targets[name].unlink(missing_ok=True)
        for changed in {path.parent for path in targets.values()}:
            to_disk(changed)
        said_by.unlink()
    if folder.exists():
        shutil.rmtree(inside(root, FOLDER, root))


def adopt(root: str | Path) -> None:
    """Complete, inside `root` alone, a rewrite whose journal was written before the folder was moved or copied here.

    To be called by whoever knows that the run, and the change that was under way, are their own.
    """
    root = Path(root)
    _write_journal(root, _read(root))
    finish(root)


def _write_journal(root: Path, deed: dict[str, Any]) -> None:
    folder = inside(root, FOLDER, root)
    deed = {"replace": deed["replace"], "remove": deed["remove"], "folder": folder.stat().st_ino}
    write_text_atomically(folder / "journal.json", json.dumps(deed, indent=1))


def _journal(root: Path) -> dict[str, Any] | None:
    """What is left to do here; None where nothing is."""
    if not os.path.lexists(root / JOURNAL):
        return None
    deed = _read(root)
    if deed.get("folder") != (root / FOLDER).stat().st_ino:
        raise ForeignRewriteError(
            f"{root / JOURNAL} orders files of {root} to be replaced or deleted, and was not written in this folder: it is not "
            "run. If somebody sent you the folder, don't use it: get it whole. If it is your own, copied or moved while it was "
            "rewritten, complete that: python -c 'import sys; from recsys.artifacts.rewrite import adopt; adopt(sys.argv[1])' "
            f"{shlex.quote(str(root))}"
        )
    return deed


def _read(root: Path) -> dict[str, Any]:
    path = inside(root, JOURNAL, root)
    try:
        deed = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ForeignRewriteError(f"{path} is damaged ({error}); it is not run") from None
    lists = [deed.get(part) for part in ("replace", "remove")] if isinstance(deed, dict) else []
    if len(lists) != 2 or not all(isinstance(some, list) for some in lists):
        raise ForeignRewriteError(f"{path} is not the journal of a rewrite; it is not run")
    return deed


def no_link(path: str | Path, flags: int) -> int:
    """An opener for `open`: what is written goes into no file that a link of that name, left there by others, points to."""
    if os.path.islink(path):
        os.unlink(path)
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def to_disk(path: Path) -> None:
    """Flush a file, or the names in a folder, so that a power failure cannot undo it after what follows."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

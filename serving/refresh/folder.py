"""A version's folder: hard links to what the version before it has, new files where something changed, and its commit."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recsys.artifacts import versions
from recsys.artifacts.manifest import manifest_text, rehashed, sha256_of
from recsys.artifacts.paths import RunError
from recsys.artifacts.rewrite import to_disk
from recsys.run import Run

UNCHANGED = ("config.yaml",)
NO_ROOM = os.strerror(errno.ENOSPC)


class Draft:
    """A version at work: `RUN/versions/.partial-NAME`, a run directory that nobody else reads."""

    def __init__(self, parent: Run, name: str):
        self.parent, self.home = parent, parent.home
        self.path = parent.home / versions.FOLDER / f".partial-{name}"
        self.changed: dict[str, dict[str, str | None]] = {}

    def begin(self) -> None:
        """Link all that answers depend on; what a killed refresh left is dropped, also that of another night."""
        drop_partial(self.home)
        self.path.mkdir(parents=True)
        (self.home / versions.SHARED).mkdir(exist_ok=True)
        for stage, record in self.records().items():
            for name in record["artifacts"]:
                self.parent.artifact(stage, name)  # its hash is checked here, once
                self._link(f"{stage}/{name}")
            self._link(f"{stage}/stage.json")
        for name in UNCHANGED:
            self._link(name)
        os.symlink(Path("..", "..", versions.SHARED), self.path / versions.SHARED)

    def records(self) -> dict[str, dict[str, Any]]:
        """The parent's finished stages, but the journal, which all versions share."""
        paths = sorted(self.parent.path.glob("*/stage.json"))
        names = [path.parent.name for path in paths if path.parent.name != versions.SHARED]
        return {name: record for name in names if (record := self.parent.record(name)) is not None}

    def write(self, stage: str, name: str, write: Callable[[Path], Any]) -> None:
        """Have `write(path)` make an artifact anew. A link is let go of first: what it points to is another version's."""
        path = self.path / stage / name
        temporary = path.with_name(f".{path.name}.new")
        write(temporary)
        os.replace(temporary, path)
        self.changed.setdefault(stage, {})[name] = sha256_of(path)

    def commit(self, number: int, facts: Mapping[str, Any]) -> Path:
        """Records, manifest and facts, all on the disk, and the folder under its number; returns that."""
        self.seal(facts)
        path = versions.folder_of(self.home, number)
        os.rename(self.path, path)
        to_disk(path.parent)
        return path

    def seal(self, facts: Mapping[str, Any]) -> None:
        """Make what is written so far a run directory that can be loaded, all of it on the disk."""
        after = rehashed(self.records(), self.changed)
        for stage, record in after.items():
            self._new(f"{stage}/stage.json", json.dumps(record, indent=1))
        self._new("manifest.json", manifest_text(after, self.parent.deletions(), self.parent.exported()))
        self._new(versions.FACTS, json.dumps(dict(facts), indent=1, ensure_ascii=False))
        for stage, names in self.changed.items():
            for name in names:
                to_disk(self.path / stage / name)
            to_disk(self.path / stage)
        to_disk(self.path)

    def _new(self, name: str, text: str) -> None:
        path = self.path / name
        path.unlink(missing_ok=True)
        path.write_text(text, encoding="utf-8")
        to_disk(path)

    def _link(self, name: str) -> None:
        source, target = self.parent.path / name, self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                raise
            shutil.copyfile(source, target)  # a file system that has no hard links


def drop_partial(home: Path) -> None:
    """Drop what refreshes that were killed, or refused, have left. Whoever calls holds the run's lock."""
    for path in (home / versions.FOLDER).glob(".partial-*"):
        shutil.rmtree(path)


@contextmanager
def clear_if_full(message: str) -> Iterator[None]:
    """Turn a write's failure for want of room into a `RunError`: `message`, where {} is that the disk is full, and what to do."""
    try:
        yield
    except Exception as error:
        # libraries that write by themselves have exceptions of their own, and the system's words in them
        if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT) and NO_ROOM not in str(error):
            raise
        raise RunError(
            message.format(f"the disk is full ({NO_ROOM})") + ". Make room and call it again"
        ) from None


def free_bytes(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def refuse_full_disk(home: Path, needed: int) -> None:
    """Raises `RunError` where there is less room than a night is known to need."""
    if (free := free_bytes(home)) < needed:
        raise RunError(
            f"{home}: a refresh needs about {needed / 2**20:,.0f} MiB and the disk has {free / 2**20:,.0f} MiB left; make room, or drop "
            f"versions that are not needed any more: prelude refresh {home} --keep 2"
        )

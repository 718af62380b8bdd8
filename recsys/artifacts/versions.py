"""Versions of a run: states that `prelude refresh` has made of it, and the one pointer that says which of them serves.

    RUN/versions/
      0001/ 0002/ …    run directories, never changed once they stand there (but by the deletion of a person); files that a
                       refresh did not change are hard links to those of the version before; `live` is a link to RUN/live
      current.json     {"serves": 2, "before": [0, 1]}; 0 is RUN itself. Replaced whole: that is what publishes, and goes back
      .partial-…/      a refresh at work, or one that was killed: nobody reads it

What a run was trained on stands in RUN and is read there by every stage; who answers reads the version (`recsys.run.Run.serving`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from recsys.artifacts.manifest import hash_json
from recsys.artifacts.paths import RunError
from recsys.artifacts.rewrite import to_disk, write_text_atomically

FOLDER, POINTER, FACTS = "versions", "current.json", "version.json"
ANSWERING = (
    "prepare",
    "embed",
    "tokenize",
    "adapt",
    "personalize",
    "align",
    "combine",
)  # stages that versions have
SHARED = "live"  # what all versions have in common: the journal of feedback


class Pointer(NamedTuple):
    """Which version serves, and which did before it, oldest first."""

    serves: int
    before: tuple[int, ...]


def home_of(path: Path) -> Path:
    """The run that a version is of; a run that is none is its own."""
    above = path.parent.parent
    is_version = path.parent.name == FOLDER and (above / "manifest.json").is_file()
    return above if is_version else path


def root_of(path: Path) -> Path:
    """The folder in which all that a run reads and writes lies.

    A variant of compare-ids, RUN/ids/NAME, shares stages of RUN by links, a version its journal: both are a part of RUN.
    """
    above = path.parent.parent
    is_variant = path.parent.name == "ids" and (above / "manifest.json").is_file()
    return above if is_variant else home_of(path)


def folder_of(home: Path, number: int) -> Path:
    return home if number == 0 else home / FOLDER / f"{number:04}"


def numbers(home: Path) -> list[int]:
    """The versions that stand there, ascending, RUN itself (0) not among them."""
    return sorted(int(path.name) for path in (home / FOLDER).glob("[0-9]*") if path.name.isdigit())


def pointer(home: Path) -> Pointer:
    """Raises `RunError` for a pointer that is damaged, or names a version that is not there."""
    path = home / FOLDER / POINTER
    if not path.exists():
        return Pointer(0, ())
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        now = Pointer(int(found["serves"]), tuple(int(one) for one in found["before"]))
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} is damaged ({error!r}); delete it to serve {home} as it was trained"
        ) from None
    if not (folder_of(home, now.serves) / "manifest.json").is_file():
        raise RunError(f"{path} says that version {now.serves} serves, and it is not there")
    return now


def point(home: Path, number: int, before: tuple[int, ...]) -> None:
    """Have version `number` serve from now on, by one rename. Whoever calls holds the run's lock."""
    text = json.dumps({"serves": number, "before": list(before)})
    write_text_atomically(home / FOLDER / POINTER, text)
    to_disk(home / FOLDER)


def serving(path: Path) -> Path:
    """The folder that answers for the run at `path`: its current version, or the run itself.

    Raises `RunError` where a stage that answers depend on was made again since: the version is of artifacts that are no more.
    """
    if home_of(path) != path:  # a version that was asked for by its own folder
        return path
    found = folder_of(path, pointer(path).serves)
    if found != path and facts(found)["trained"] != trained(path):
        raise RunError(
            f"{found} was refreshed from other artifacts than {path} has now (a stage was run again); refresh again from the run "
            f"as it is now: prelude refresh {path} --back-to 0, then prelude refresh {path} …"
        )
    return found


def after_training(home: Path, stage: str) -> None:
    """Have the run itself serve, where a stage that answers depend on was made again: its versions are of what it was before."""
    if stage in ANSWERING and (home / FOLDER / POINTER).exists() and (now := pointer(home)).serves:
        point(home, 0, ())
        print(
            f"{home}: stage '{stage}' was made again, so the run as it is trained now serves, and no more version {now.serves}, which was "
            "refreshed from what it was before; refresh it again",
            file=sys.stderr,
        )


def facts(folder: Path) -> dict[str, Any]:
    """What a version says of itself. Raises `RunError` where it says nothing that can be read."""
    try:
        return json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{folder} is damaged: {FACTS} cannot be read ({error})") from None


def trained(home: Path) -> dict[str, str]:
    """What a version is a version of: fingerprints of the stages that it extends, which no deletion of a person changes."""
    found = {}
    for stage in ("tokenize", "adapt"):
        path = home / stage / "stage.json"
        if path.exists():
            found[stage] = hash_json(json.loads(path.read_text(encoding="utf-8"))["artifacts"])[:16]
    return found

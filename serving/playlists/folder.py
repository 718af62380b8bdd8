"""The folder of a playlist run: whose it is, beginning in it, beginning again, and what is done put in place.

    DIR/.partial/plan.json   what the run was begun with
    DIR/.partial/TOKEN/      its work; the token is of the plan, so that a worker that outlives its job (on
                             another machine of a cluster) finds no place to write to in the work of a job
                             with another plan
    DIR/.partial-deleted/    while a run is deleted: what there is of it, here and beside it. It is the first
                             thing that a deletion makes and the last that it takes away, and nothing begins
                             while it is there

A process may be killed anywhere in between; the next one finishes what was begun, a deletion too.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recsys.artifacts.paths import inside
from recsys.artifacts.rewrite import no_link, to_disk, write_text_atomically
from serving.playlists.plan import fingerprint_of, refuse_another

RESULTS = ("playlists", "rejected", "manifest.json")  # the manifest last: with it the run is finished
WORK = ".partial"
DELETED = ".partial-deleted"


def work_folder(out: Path, plan: dict[str, Any]) -> Path:
    """Where the work of a plan is done."""
    return inside(out, f"{WORK}/{fingerprint_of(plan)[:16]}", out)


def refuse_strangers(out: Path) -> None:
    """Never write among, or delete, what is not ours, nor through a link: raises `ValueError` naming it."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; --out is a folder")
    for name in (*RESULTS, WORK, DELETED):
        inside(out, name, out)
    there = [name for name in RESULTS if (out / name).exists()]
    ours = (out / WORK / "plan.json").exists() or (out / DELETED).exists()
    if "manifest.json" in there and not ours:
        try:
            ours = "fingerprint" in json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        except (ValueError, OSError):
            ours = False
    if there and not ours:
        raise ValueError(
            f"{out / there[0]} is there and not of a run of playlists; give an empty or new --out"
        )


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Raises `ValueError` while another process writes `out`."""
    with open(out / ".lock", "a+", opener=no_link) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{out} is being written by another prelude process; wait for it to end"
            ) from None
        yield


def unfinished_plan(out: Path) -> dict[str, Any] | None:
    """The plan that a run in `out` was begun with, if it is neither finished nor being deleted."""
    path = out / WORK / "plan.json"
    if (out / DELETED).exists() or (out / "manifest.json").exists() or not path.exists():
        return None
    return json.loads(path.read_text(encoding="utf-8"))


def begin(out: Path, plan: dict[str, Any], restart: bool) -> dict[str, Any] | None:
    """Make `out`, which is locked, one of this plan; the manifest, if that is finished.

    `restart`: whatever it was.
    """
    if restart or (out / DELETED).exists():
        delete(out)
    if (out / "manifest.json").exists():
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        refuse_another(manifest, plan, out)
        _remove(out / WORK)  # a kill after the last rename leaves it
        return manifest
    if (before := unfinished_plan(out)) is not None:
        refuse_another(before, plan, out)
        return None
    _remove(out / WORK)  # without a plan nobody knows what it is of
    (out / WORK).mkdir()
    write_text_atomically(out / WORK / "plan.json", json.dumps(plan, indent=1))
    to_disk(out)
    return None


def delete(out: Path) -> None:
    """Take away all that `out` has of a run.

    A kill leaves `.partial-deleted`, and whoever comes next does the rest.
    """
    (out / DELETED).mkdir(exist_ok=True)
    to_disk(out)
    for name in (*RESULTS, WORK):
        if (out / name).exists():
            os.rename(out / name, out / DELETED / name)
    to_disk(out)
    _remove(out / DELETED)


def publish(out: Path, work: Path) -> None:
    """Move what is done into place; what an earlier call has moved stays."""
    for name in RESULTS:
        if (work / "done" / name).exists():
            os.rename(work / "done" / name, out / name)
            to_disk(out)
    _remove(out / WORK)


def _remove(path: Path) -> None:
    """A folder and all in it, the folder last.

    An error is an error: what cannot be deleted would be taken for the next run's.
    """
    if path.exists():
        shutil.rmtree(path)

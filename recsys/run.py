"""The run directory: where a run's artifacts live, and how we know that they are whole and up to date.

    runs/demo/
      config.yaml          as resolved, every default written out
      manifest.json        per stage: what it was made from, the sha256 of each artifact; deletions of persons
      prepare/ embed/ …    one folder per finished stage (its own copy of the manifest entry is in stage.json)
      .partial-adapt/      a stage at work; its checkpoint/ is what a killed stage resumes from

A stage writes into `.partial-<name>`; the rename to `<name>` is the commit. A stage whose fingerprint (its
configuration, the hashes of the stages it reads, the hashes of outside files) has not changed is not run
again.

Of several processes (`recsys.training.distributed`) the main one alone writes here: what the others put into
a stage's folder is dropped. All of them must make the same calls in the same order, and see the same files.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from recsys.artifacts import calls, versions
from recsys.artifacts.manifest import FORMAT, hash_json, manifest_text, read_mapping, sha256_of
from recsys.artifacts.paths import RunError, drop_links, inside, plain_name
from recsys.artifacts.rewrite import finish, is_committed, no_link, write_text_atomically
from recsys.artifacts.verified import VerifiedHashes
from recsys.config import StageConfig
from recsys.training import distributed

OTHERS = ".others"  # in a stage's partial folder: folders of the processes that are not the main one


class Run:
    """One run directory. `Run.create` makes or reopens one for writing, `Run.open` opens a finished one for reading."""

    def __init__(self, path: Path):
        self.path = path
        self.home = versions.home_of(
            path
        )  # the run that this is a version of, whose lock is theirs; else this run
        self._verified: set[Path] = set()
        self.sha256 = VerifiedHashes(path).sha256

    @classmethod
    def create(cls, path: str | Path) -> Run:
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file; a run is a directory")
        path.mkdir(parents=True, exist_ok=True)
        return cls(path)._after_rewrites()

    @classmethod
    def open(cls, path: str | Path) -> Run:
        path = Path(path)
        if not path.is_dir():
            raise RunError(f"there is no run at {path}; make one with: prelude run CONFIG --run {path}")
        if not (path / "manifest.json").exists():
            raise RunError(f"{path} is not a run: it has no manifest.json (no stage has finished there)")
        return cls(path)._after_rewrites()

    @classmethod
    def serving(cls, path: str | Path) -> Run:
        """The version of a run that answers now (`recsys.artifacts.versions`); a run that was never refreshed is its own."""
        return cls.open(versions.serving(cls.open(path).path))

    def _after_rewrites(self) -> Run:
        """Complete a rewrite that was killed here after its commit; one that came with the folder is refused (`RunError`)."""

        def complete() -> None:
            if is_committed(self.home):
                with self.lock():
                    pass

        distributed.by_main(complete)
        return self

    def inside(self, name: str, said_by: str | Path | None = None, folder: str = "") -> Path:
        """The path of a file or folder of the run (below its `folder`), which lies in it or the run it is of. Raises `OutsideError`."""
        root = versions.root_of(self.path)
        return inside(root, name, self.path if said_by is None else said_by, self.path / folder)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the whole resolved configuration as `config.yaml`. Raises `RunError` for an exported run."""
        self.refuse_if_exported()
        text = yaml.safe_dump(dict(config), sort_keys=False, width=100)
        distributed.by_main(lambda: write_text_atomically(self.path / "config.yaml", text))

    def read_config(self) -> dict[str, Any]:
        return read_mapping(self.inside("config.yaml"))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run against another command that would write it; raises `RunError` if one does."""
        with open(self.home / ".lock", "a+", opener=no_link) as file:
            distributed.by_main(lambda: self._hold(file))
            yield

    def _hold(self, file: IO[str]) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            why = "is being written by another prelude process; wait for it to end"
            raise RunError(f"{self.path} {why}") from None
        finish(self.home)

    # -- stages ----------------------------------------------------------------------------------------------

    def record(self, stage: str) -> dict[str, Any] | None:
        """The manifest entry of a finished stage, or None."""
        path = self.path / stage / "stage.json"
        if not path.exists():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise RunError(
                f"{path} is damaged ({error}); delete {path.parent} and run the stage again"
            ) from None

    def stage(
        self,
        name: str,
        config: StageConfig,
        needs: Sequence[str] = (),
        outside: Mapping[str, str] | None = None,
    ) -> StageRun:
        """Open stage `name`. `needs` are the stages it reads; `outside` maps names of outside inputs to their hashes."""
        upstream = {}
        for need in needs:
            entry = self.record(need)
            if entry is None:
                raise RunError(
                    f"stage '{name}' of {self.path} needs stage '{need}', which has not finished there"
                )
            upstream[need] = entry["artifacts"]
        made_from = {
            "format": FORMAT,
            "stage": name,
            "config": config.model_dump(mode="json"),
            "stages": {need: hash_json(artifacts) for need, artifacts in upstream.items()},
            "outside": dict(outside or {}),
        }
        return StageRun(self, name, made_from)

    def artifact(self, stage: str, name: str) -> Path:
        """The path of an artifact, its hash checked once per `Run` object.

        Raises `RunError` if the stage has not finished, or the file is missing or differs from the manifest.
        """
        entry = self.record(stage)
        expected = None if entry is None else entry["artifacts"].get(name)
        if expected is None:
            raise self._lacks(stage, None if entry is None else name)
        path = self.inside(name, self.path / stage / "stage.json", folder=stage)
        if path in self._verified:
            return path
        if not path.exists():
            raise RunError(f"{path} is missing; delete {path.parent} and run: prelude {stage} {self.path}")
        if self.sha256(path) != expected:
            raise RunError(
                f"{path} does not match its hash in the manifest (damaged or edited); "
                f"delete {path.parent} and run: prelude {stage} {self.path}"
            )
        self._verified.add(path)
        return path

    def _lacks(self, stage: str, name: str | None) -> RunError:
        """Why there is no such stage (`name` None) or artifact."""
        if self.exported():
            what = f"stage '{stage}'" if name is None else f"'{name}' of stage '{stage}'"
            return RunError(
                f"{self.path} was exported for serving, without {what}; ask the run it comes from"
            )
        if name is None:
            return RunError(f"{self.path} has no finished stage '{stage}'; run: prelude {stage} {self.path}")
        return RunError(f"stage '{stage}' of {self.path} made no artifact '{name}'")

    def unfinished_seconds(self, stage: str) -> float:
        """Seconds of calls of a stage that were killed or failed: before it finished, and since."""
        finished = (self.record(stage) or {}).get("unfinished_seconds", 0.0)
        return finished + calls.spent(self.path / f".partial-{stage}")

    def read_json(self, stage: str, name: str) -> Any:
        return json.loads(self.artifact(stage, name).read_text(encoding="utf-8"))

    def update_manifest(self) -> None:
        """Gather the stages' own records into `manifest.json`."""
        paths = sorted(self.path.glob("*/stage.json"))
        stages = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}
        text = manifest_text(stages, self.deletions(), self.exported())
        write_text_atomically(self.path / "manifest.json", text)

    def manifest(self) -> dict[str, Any]:
        """What `manifest.json` holds; {} before a stage has finished. Raises `RunError` for a damaged one."""
        path = self.path / "manifest.json"
        if not path.exists():
            return {}
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunError(f"{path} is damaged ({error})") from None

    def deletions(self) -> list[dict[str, Any]]:
        """The deletions of persons from this run, oldest first, as the manifest records them."""
        return self.manifest().get("deletions", [])

    def exported(self) -> dict[str, Any] | None:
        """What an exported or imported run was exported from (`serving.export.folder`); None for one's own."""
        return self.manifest().get("exported")

    def refuse_if_exported(self) -> None:
        """Raises `RunError` for a run that was exported: it has what serving needs, and nothing to train with."""
        if self.exported():
            raise RunError(
                f"{self.path} was exported for serving: it has what answers need and nothing to train with, so no stage runs "
                "there. Ask it (prelude recommend, playlists, update); to train, make a run: prelude run CONFIG --run DIR"
            )

    def finish_commits(self) -> None:
        """Commit every stage that was killed between its record and its rename."""
        for path in self.path.glob(".partial-*/stage.json"):
            made_from = json.loads(path.read_text(encoding="utf-8"))["made_from"]
            stage = plain_name(made_from["stage"], path)
            if path.parent.name == f".partial-{stage}":
                StageRun(self, stage, made_from)._finish_interrupted_commit()


class StageRun:
    """One stage of one run, about to be run or already done."""

    def __init__(self, run: Run, name: str, made_from: dict[str, Any]):
        self.run, self.name, self.made_from = run, name, made_from
        self.fingerprint = hash_json(made_from)
        self.path, self.partial = run.inside(name), run.inside(f".partial-{name}")
        self.started = time.monotonic()  # what is read and checked before anything is written counts too

    def is_done(self) -> bool:
        """True if the stage finished with this fingerprint and every artifact still has its hash."""
        return distributed.by_main(self._is_done)

    def _is_done(self) -> bool:
        self._finish_interrupted_commit()
        entry = self.run.record(self.name)
        if entry is None or entry["fingerprint"] != self.fingerprint:
            return False
        there = {self._inside(name): digest for name, digest in entry["artifacts"].items()}
        return all(path.exists() and self.run.sha256(path) == digest for path, digest in there.items())

    def _inside(self, name: str) -> Path:
        return self.run.inside(name, self.path / "stage.json", folder=self.name)

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Yield the folder to write artifacts into; commit it on a clean exit, keep its `checkpoint/` on any other. Raises `RunError` in an exported run.

        A process that is not the main one gets a folder of its own, which is dropped, so that nobody needs to
        ask who writes.
        """
        self.run.refuse_if_exported()
        distributed.by_main(self._clear)
        folder = self.partial
        if not distributed.is_main():
            self._check_is_shared()
            folder = self.partial / OTHERS / str(distributed.number())
            folder.mkdir(parents=True)
        try:
            yield folder
        except BaseException:
            if distributed.is_main():
                calls.fail(self.partial)
            raise
        distributed.by_main(lambda: self._commit(time.monotonic() - self.started))
        self.run._verified.clear()

    def _clear(self) -> None:
        if not self._is_ours():
            shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(exist_ok=True)
        drop_links(self.partial)
        calls.begin(self.partial)
        for left_over in self.partial.iterdir():  # all but the checkpoint is written afresh
            if left_over.name not in ("checkpoint", "fingerprint", calls.NAME):
                shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink()
        (self.partial / "fingerprint").write_text(self.fingerprint)

    def _is_ours(self) -> bool:
        path = self.partial / "fingerprint"
        return path.exists() and path.read_text() == self.fingerprint

    def _check_is_shared(self) -> None:
        if not self._is_ours():
            raise RunError(
                f"process {distributed.number()} does not see what the main process wrote to {self.partial}; the run "
                "directory must be on a file system that all machines share"
            )

    @property
    def checkpoint(self) -> Path:
        """Folder for what a killed stage resumes from; it is dropped when the stage commits.
        All processes have the same one.
        """
        path = self.partial / "checkpoint"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _commit(self, seconds: float) -> None:
        for dropped in ("checkpoint", OTHERS):
            shutil.rmtree(self.partial / dropped, ignore_errors=True)
        (self.partial / "fingerprint").unlink()
        before = calls.finish(self.partial)
        files = sorted(path for path in self.partial.rglob("*") if path.is_file())
        entry = {
            "fingerprint": self.fingerprint,
            "made_from": self.made_from,
            "artifacts": {path.relative_to(self.partial).as_posix(): sha256_of(path) for path in files},
            "seconds": round(seconds, 2),
            "finished_unix_s": time.time(),
        }
        if before > 0:  # of calls that were killed or failed, from whose checkpoint this one may have gone on
            entry["unfinished_seconds"] = round(before, 2)
        write_text_atomically(self.partial / "stage.json", json.dumps(entry, indent=1))
        self._swap_in()

    def _swap_in(self) -> None:
        old = self.run.path / f".old-{self.name}"
        shutil.rmtree(old, ignore_errors=True)
        if self.path.exists():
            os.rename(self.path, old)
        os.rename(self.partial, self.path)
        shutil.rmtree(old, ignore_errors=True)
        versions.after_training(self.run.path, self.name)
        self.run._verified.clear()
        self.run.update_manifest()

    def _finish_interrupted_commit(self) -> None:
        """A kill between writing `stage.json` and the rename leaves a whole stage under its partial name."""
        if (self.partial / "stage.json").exists():
            entry = json.loads((self.partial / "stage.json").read_text(encoding="utf-8"))
            if entry["fingerprint"] == self.fingerprint:
                self._swap_in()

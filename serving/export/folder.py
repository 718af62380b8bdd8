"""A finished run as one small folder that answers without training or data: export, import, verification.

    DIR/
      config.yaml, manifest.json   of the methods that are there; `exported` says what they come from
      prepare/ embed/ … live/      the artifacts that answers depend on, and a stage.json each, as in any run
      outside/                     copies of files that methods read besides (summaries)
      SHA256SUMS                   of every other file; `sha256sum -c SHA256SUMS` checks them without Prelude

The folder is a run directory: `Recommender.load(DIR)` answers from where it lies, and refuses what does not
match its hash. No stage runs there. Of a backbone that was downloaded its name and hash are there and not its
weights, of one that was trained whole the weights. The same run gives the same bytes each time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from llm.methods.stage2 import OUTSIDE
from recsys.artifacts import versions
from recsys.artifacts.manifest import FORMAT, hash_json, manifest_text, rehashed, sha256_of
from recsys.artifacts.paths import RunError, inside
from recsys.artifacts.rewrite import FOLDER as REWRITE
from recsys.artifacts.rewrite import to_disk
from recsys.artifacts.sums import SUMS, deletions_since, sums_text
from recsys.artifacts.user_rows import forget_everyone
from recsys.data.card import facts
from recsys.data.catalogue import TOTALS
from recsys.data.dataset import Dataset
from recsys.run import Run
from serving.config.combine import ALONE
from serving.config.truth import config_of
from serving.export.plan import REPORTS, ExportPlan, plan_export
from serving.playlists.plan import absorbed_by, identity_of
from serving.state.place import FOLDER as LIVE
from serving.state.place import alone, copy_state, file_of

OF_USERS = ("events.parquet", "users.parquet", "queries.parquet")  # of stage prepare
ABOUT = ("source", "time", "exclude_seen", "held_out_queries")  # what prepare.json keeps without users


@dataclass(frozen=True)
class Summary:
    """What an exported or imported run holds."""

    path: Path
    sizes: dict[str, int]  # folder ("": the top) -> bytes
    exported: dict[str, Any]  # as the manifest has it

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())


def export_run(
    path: str | Path, out: str | Path, methods: Sequence[str] | None = None, without_users: bool = False
) -> Summary:
    """Write what a run answers with to the new folder `out`, whole or not at all.

    `methods`: only these of the trained methods; default: all. `without_users`: no ids, events, queries or
    rows of users. Raises `ValueError` for an unknown method or a place that is taken, and `RunError` naming
    an artifact that is damaged.
    """
    run, out = Run.serving(path), Path(out)
    if out.resolve().is_relative_to(run.home.resolve()):
        raise ValueError(f"{out} is inside the run; export to a place outside it")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists, and is not overwritten; choose another --out or delete it")
    with run.lock(), alone(run.home):
        plan = plan_export(run, methods, without_users)
        with _whole(out) as folder:
            _write(run, plan, folder)
    return summary(out)


def import_run(folder: str | Path, to: str | Path) -> bool:
    """Verify an exported run and copy it to the run directory `to`, whole or not at all;
    False where `to` holds it already.

    Raises `RunError` naming the file that is damaged, missing or added, and where `to` holds something else.
    """
    source, to = Path(folder), Path(to)
    files = verify(source)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        if not (to / SUMS).is_file() or (to / SUMS).read_bytes() != (source / SUMS).read_bytes():
            _refuse_to_bring_back(source, to)
            raise RunError(f"{to} holds something else; choose another --run, or delete it")
        verify(to)
        return False
    with _whole(to) as partial:
        for name in (*files, SUMS):
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, partial / name)
        verify(partial)
    return True


def verify(folder: Path) -> list[str]:
    """Names of an exported run's files, every one there and with its hash, and no other file beside them.

    Nothing is written or run, whatever the folder holds. Raises `RunError` naming the first that is not so.
    """
    sums = folder / SUMS
    if not sums.is_file():
        raise RunError(
            f"{folder} is no exported run: it has no {SUMS}; make one with: prelude export RUN --out DIR"
        )
    if os.path.lexists(folder / REWRITE):
        raise RunError(
            f"{folder} holds a change of its files that was not finished ({REWRITE}), and it is not run here; if the run is "
            "your own, the next command that writes it (prelude user, update) finishes it, else get it again"
        )
    again, later = _remedy(folder), f"export this run: prelude export {folder} --out DIR"
    names: dict[str, str] = {}
    for number, line in enumerate(sums.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        found = re.fullmatch(r"([0-9a-f]{64})  (.+)", line)
        parts = PurePosixPath(found[2]).parts if found else ()
        if not found or PurePosixPath(found[2]).is_absolute() or any(part.startswith(".") for part in parts):
            raise RunError(
                f"{sums}:{number}: expected a sha256 and a file's name (damaged or edited); {again}"
            )
        inside(folder, found[2], f"{sums}:{number}")
        names[found[2]] = found[1]
    for name in _files(folder):
        if name not in (*names, SUMS) and not Path(name).name.startswith("."):
            raise RunError(
                f"{folder / name} is not in {SUMS}: it came after the export; delete it, or {later}"
            )
    for name, digest in names.items():
        if not (folder / name).is_file():
            raise RunError(f"{folder / name} is missing, and {SUMS} names it; {again}")
        if sha256_of(folder / name) != digest and name.startswith(f"{LIVE}/"):
            raise RunError(
                f"{folder / name} is not as {SUMS} has it: feedback came after the export, or it is damaged; {later}"
            )
        if sha256_of(folder / name) != digest:
            raise RunError(f"{folder / name} does not match its hash in {SUMS} (damaged or edited); {again}")
    run = Run(folder)
    manifest = run.manifest()
    if not manifest.get("exported"):
        raise RunError(f"{folder / 'manifest.json'} does not say what was exported; {again}")
    if manifest["format"] != FORMAT:
        raise RunError(
            f"{folder} was exported by another Prelude (format {manifest['format']}, this one reads "
            f"{FORMAT}); {again}"
        )
    config_of(run)
    return list(names)


def _remedy(folder: Path) -> str:
    """What to do about a damaged export. Where persons were deleted from it since, what it came from still has them."""
    try:
        deleted = deletions_since(Run(folder).manifest())
    except (RunError, AttributeError, TypeError):  # the manifest itself is damaged
        deleted = 1
    if not deleted:
        return "get it again from where it was exported, or export the run again"
    return (
        "take another copy of this very folder. Persons were deleted from it, or may have been: the run that it was exported "
        "from, and older copies, still hold them, and they have to be deleted there before it is exported again"
    )


def _refuse_to_bring_back(source: Path, to: Path) -> None:
    """Raises `RunError` where `to` is this very export, less persons who were deleted from it."""
    there, here = Run(to).manifest(), Run(source).manifest()
    deleted = deletions_since(there)
    if deleted and there["exported"].get("identity") == here["exported"].get("identity"):
        raise RunError(
            f"{to} is this export, and {deleted} deletion(s) of persons were made in it since: importing "
            f"{source} again would bring them back. Delete them from the run it was exported from, and export that again"
        )


def summary(path: Path) -> Summary:
    """What an exported run holds."""
    sizes: dict[str, int] = {}
    for name in _files(path):
        top = PurePosixPath(name).parts[0] if "/" in name else ""
        sizes[top] = sizes.get(top, 0) + (path / name).stat().st_size
    return Summary(path, sizes, Run(path).exported() or {})


# -- writing -------------------------------------------------------------------------------------------------


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """Yield a folder beside `target` to write into; on a clean exit it becomes `target`,
    on any other it is gone.
    """
    partial = target.with_name(f".partial-{target.name}")
    shutil.rmtree(partial, ignore_errors=True)  # of a call that was killed
    partial.mkdir(parents=True)
    try:
        yield partial
        for name in _files(partial):
            to_disk(partial / name)
        os.rename(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    to_disk(target.parent)


def _files(folder: Path) -> list[str]:
    """Paths of all files below a folder, relative to it, in order."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _write(run: Run, plan: ExportPlan, folder: Path) -> None:
    records = {stage: record for stage in plan.artifacts if (record := run.record(stage))}
    changed: dict[str, dict[str, str | None]] = {}
    for stage, names in plan.artifacts.items():
        (folder / stage).mkdir()
        for name in names:
            target = inside(folder / stage, name, run.path / stage / "stage.json")
            target.parent.mkdir(parents=True, exist_ok=True)
            _writer(run, plan, stage, name)(run.artifact(stage, name), target)
        if stage == "prepare" and plan.without_users:
            _write_nobody(run, folder / stage)
        hashes = {name: sha256_of(folder / stage / name) for name in _files(folder / stage)}
        changed[stage] = dict.fromkeys(records[stage]["artifacts"]) | hashes
    after = rehashed(records, changed)
    if plan.outside:
        after[OUTSIDE] = _copy_outside(plan, folder / OUTSIDE)
    if not plan.without_users and file_of(run.home).exists():
        copy_state(run.home, folder)
    for stage, record in after.items():
        (folder / stage / "stage.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    text = yaml.safe_dump(plan.config, sort_keys=False, width=100)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    text = manifest_text(after, run.deletions(), _exported(run, plan))
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    (folder / SUMS).write_text(
        sums_text({name: sha256_of(folder / name) for name in _files(folder)}), encoding="utf-8"
    )


def _writer(run: Run, plan: ExportPlan, stage: str, name: str) -> Callable[[Path, Path], Any]:
    """How an artifact is written: as it is, or less what is not exported."""
    if plan.without_users and stage == "prepare" and name in (*OF_USERS, "prepare.json"):
        return lambda source, target: None  # `_write_nobody` does
    if stage in REPORTS and name == REPORTS[stage][0]:
        return lambda source, target: _narrow_report(source, target, stage, plan)
    if stage == "combine" and name == "combine.json":
        return lambda source, target: _narrow_products(source, target, plan)
    return forget_everyone if plan.without_users else shutil.copyfile


def _write_nobody(run: Run, folder: Path) -> None:
    """The data without users: what speaks of items, and the run's clock."""
    rest, report = Dataset.load(run).without_users(), run.read_json("prepare", "prepare.json")
    rest.save_users(folder)
    rest.item_totals.save(folder)
    last = report["time_range"][1]
    kept = {name: report[name] for name in ABOUT if name in report}
    text = json.dumps(kept | facts(rest) | {"time_range": [last, last]}, indent=1)
    (folder / "prepare.json").write_text(text, encoding="utf-8")
    assert (folder / TOTALS).exists()


def _narrow_report(source: Path, target: Path, stage: str, plan: ExportPlan) -> None:
    """A stage's report without the methods that are not exported; the same bytes where all are."""
    report, part = json.loads(source.read_text(encoding="utf-8")), REPORTS[stage][1]
    settings = plan.config[stage]
    names = {f"{one['key']}-{seed}" for one in settings[part] for seed in settings["seeds"]}
    _keep(report, part, names, source, target)


def _narrow_products(source: Path, target: Path, plan: ExportPlan) -> None:
    """The weights of products without those whose generator, or its replica, is not exported."""
    report = json.loads(source.read_text(encoding="utf-8"))
    generators, seed = plan.config["combine"]["generators"], plan.config["personalize"]["seeds"][0]
    names = {ALONE, *(f"{key}-{seed}" for key in generators)}
    if not set(report["products"]) <= names:
        report.pop("query_products", None)  # of the first generator, which may not be here
    _keep(report, "products", names, source, target)


def _keep(report: dict[str, Any], part: str, names: set[str], source: Path, target: Path) -> None:
    if set(report[part]) <= names:
        shutil.copyfile(source, target)
        return
    report[part] = {name: facts for name, facts in report[part].items() if name in names}
    target.write_text(json.dumps(report, indent=1), encoding="utf-8")


def _copy_outside(plan: ExportPlan, folder: Path) -> dict[str, Any]:
    """Copy outside files; returns a stage's record of them, so that they are verified as artifacts are."""
    folder.mkdir()
    for name, path in plan.outside.items():
        shutil.copyfile(path, inside(folder, name, "config.yaml"))
    artifacts = {name: sha256_of(folder / name) for name in sorted(plan.outside)}
    made_from = {"format": FORMAT, "stage": OUTSIDE, "config": {}, "stages": {}, "outside": artifacts}
    return {
        "fingerprint": hash_json(made_from),
        "made_from": made_from,
        "artifacts": artifacts,
        "seconds": 0.0,
        "finished_unix_s": 0.0,
    }


def _exported(run: Run, plan: ExportPlan) -> dict[str, Any]:
    """What the manifest says of where the exported run comes from.

    No time: the same run gives the same bytes.
    """
    report, settings = run.read_json("adapt", "adapt.json"), plan.config["adapt"]
    backbone = {"name": settings["backbone"]["name"], "sha256": report["backbone_hash"]}
    facts: dict[str, Any] = {
        "run": run.home.resolve().name,
        "identity": identity_of(run, *absorbed_by(run)),  # of all that the run answers with
        "prelude": _version(),
        "backbone": backbone | {"weights_are_here": settings["train"] == "full"},
        "methods": plan.methods,
        "without_users": plan.without_users,
        "left_out": plan.left_out,
    }
    if run.path != run.home:
        facts["version"] = {"number": int(run.path.name), "table": versions.facts(run.path)["table"]}
    if run.deletions():  # before this export; those that come after it are the export's own
        facts["deletions"] = len(run.deletions())
    if plan.models:
        facts["models"] = plan.models
    return facts


def _version() -> str:
    try:
        return version("prelude-recsys")
    except PackageNotFoundError:
        return "not installed"

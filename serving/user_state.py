"""What a run holds of one person: to be looked at, handed over, or deleted.

A person's rows are found by the conventions of `recsys.artifacts.user_rows`, in every artifact of every
stage, so a new method takes part by saving its rows in one of those forms. A deletion is one `Rewrite`: all
artifacts, their hashes and the manifest change together, or nothing does, and a kill loses nothing.

Afterwards the person's integer is an empty place: no id leads to it, and no row stands there. Everybody else
keeps their integer and their vectors, and finished stages stay finished.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from evaluation.table.kept import BETWEEN
from evaluation.table.results import Results
from recsys.artifacts import versions
from recsys.artifacts.manifest import manifest_text, rehashed, sha256_of
from recsys.artifacts.rewrite import Part, Rewrite, write_text_atomically
from recsys.artifacts.sums import SUMS, sums_after
from recsys.artifacts.user_rows import Columns, Person, forget, rows_of
from recsys.artifacts.verified import NAME as VERIFIED
from recsys.data.card import facts, of_dataset
from recsys.data.dataset import Dataset
from recsys.data.later_events import TO_COME
from recsys.data.splits import ROLE_NAMES
from recsys.run import Run
from serving.answering.known import checked_id, known_user
from serving.answering.live import LiveState
from serving.answering.recommender import forget_loaded
from serving.report.publish import with_costs, write_run_report
from serving.state import own, place

# of stage prepare, which the Dataset itself writes
OWN = ("events.parquet", "users.parquet", "queries.parquet")
PICTURE = "evaluate/prefixes.json"  # vectors of sampled users, for the t-SNE picture of the report
# What killed stages and writes left: nobody's artifacts, but they may have rows.
LEFT_OVERS = (".partial-*", "versions/.partial-*", ".old-*", ".*.tmp", "*/.*.tmp")

STAYS = """What stays, because it is no row of anybody's:
  - weights and item vectors that were trained on everyone's events, theirs among them, and figures in results.json that
    average over users. To be rid of these traces too, delete the folders embed to evaluate of the run and run it again.
  - items that only they had, and counts of rows that prepare dropped.
What changes for others: popularity, recency, item-kNN and the cold-start order of embedding retrieval and SASRec are counted
from the events when a run is loaded, now without theirs. Every trained method answers every other user as before, but for PER-PCS where
they were a sharer: whoever was assembled from their pieces is assembled from the others'.
What is outside the run: the source files and embeddings you brought still hold the person, so this run refuses to prepare
again; exports that you made, and the run that this one was exported from: delete the person there too, or they come back with it;
and services that have the run loaded, which must load it again. Feedback of theirs has lost its batch's id and hash: sent once more, it
is new, so whoever sends feedback must not send it again."""


@dataclass(frozen=True)
class Holding:
    """Rows of one artifact (a path inside the run) that are a person's, and what there is to say of them."""

    artifact: str
    rows: int
    facts: dict[str, Any]


def show(run: Run, user_id: str) -> list[Holding]:
    """What each artifact of the run holds of a person.

    Raises `ValueError` for an id that the run does not know.
    """
    data = Dataset.load(run)
    person = _person(data, run, user_id)
    found = [Holding(name, _length(rows), _facts(rows, data)) for name, rows in _holdings(run, person)]
    return found + [
        Holding(name, len(rows), own.facts(rows)) for name, rows in own.held_of(run, person.user_id).items()
    ]


def export(run: Run, user_id: str, out: Path) -> int:
    """Write all that the run holds of a person as one JSON file; returns the number of rows in it.

    `artifacts` maps each artifact's path to its rows, one object a row; items are given by id and title,
    roles by name, times as they are stored (whole Unix seconds, where the data has a clock). Raises
    `ValueError` if `out` exists or lies in the run, and for an unknown id.
    """
    if out.exists():
        raise ValueError(f"{out} exists, and is not overwritten; choose another --out or delete it")
    if not out.parent.is_dir():
        raise ValueError(f"{out} cannot be written: there is no folder {out.parent}")
    if out.resolve().is_relative_to(run.path.resolve()):
        raise ValueError(f"{out} is inside the run; a person's data is exported to a place outside it")
    data = Dataset.load(run)
    person = _person(data, run, user_id)
    artifacts = {name: _records(rows, data) for name, rows in _holdings(run, person)}
    artifacts |= own.held_of(run, person.user_id)
    whole = {
        "user_id": person.user_id,
        "run": run.path.resolve().name,
        "exported_unix_s": int(time.time()),
        "artifacts": artifacts,
    }
    write_text_atomically(out, json.dumps(whole, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
    return sum(map(len, artifacts.values()))


def delete(run: Run, user_id: str) -> dict[str, Any]:
    """Rewrite every artifact that holds a row of the person's; returns the manifest's record of the deletion.

    The report is removed, as its pictures hold users' vectors: `remake_report` draws it again. So is
    unfinished work of killed stages. Raises `ValueError` for an unknown id, `RunError` for a damaged artifact
    or while the run is written.
    """
    run = Run(run.home)
    with run.lock(), place.alone(run.path):
        run.finish_commits()
        whole, person = Rewrite(run.path), _person(Dataset.load(run), run, user_id)
        in_state = own.held_of(run, person.user_id)
        for number in versions.numbers(run.path):
            version = Run(versions.folder_of(run.path, number))
            _delete_from(
                version, person, whole.below(version.path.relative_to(run.path).as_posix()), in_state
            )
        record = _delete_from(run, person, whole.below(""), in_state)
        if in_state:  # who is to be forgotten there, if this process does not come to it
            whole.new(place.LEAVING).write_text(json.dumps(person.user_id), encoding="utf-8")
        whole.commit()
        if in_state:
            own.forget(run)
    forget_loaded()  # of this process
    return record


def _delete_from(run: Run, person: Person, rewrite: Part, in_state: Collection[str]) -> dict[str, Any]:
    """The changes of a run, or of one of its versions, without their commit."""
    data = Dataset.load(run)
    if person.number < data.n_users:  # else only the state knows them
        _without_dataset_rows(run, data, person, rewrite)
    for name in _artifacts(run):
        if rows_of(run.path / name, person):
            forget(run.path / name, person, rewrite.new(name))
    _without_old_picture(run, rewrite)
    _without_example(run, person, rewrite)
    for pattern in (*LEFT_OVERS, "report.html", VERIFIED):
        for path in sorted(run.path.glob(pattern)):
            rewrite.remove(path.relative_to(run.path).as_posix())
    return _record_deletion(run, person, rewrite, in_state)


def remake_report(run: Run) -> bool:
    """Write `report.html` again, from what is left, if the run has been evaluated; False if not."""
    if run.record("evaluate") is None:
        return False
    results = Results.read(run.artifact("evaluate", "results.json"))
    write_run_report(run, with_costs(run, results))
    return True


# -- finding -------------------------------------------------------------------------------------------------


def _person(data: Dataset, run: Run, user_id: str) -> Person:
    # the journal may know somebody whom the data does not
    known = known_user(LiveState(run, data).histories, user_id)
    name = checked_id(user_id, "user_id")
    if known is None and name and own.held_of(run, name):
        known = name, TO_COME  # nothing of theirs is history
    if known is None:
        raise ValueError(
            f"user {user_id!r} is unknown to {run.path}: it holds nothing under that id; ids are those of "
            "the "
            "interactions file, and a deleted one is unknown too"
        )
    return Person(*known)


def _artifacts(run: Run) -> Iterator[str]:
    """Paths of all artifacts of finished stages that may hold rows of users, each checked by its hash."""
    for record in sorted(run.path.glob("*/stage.json")):
        stage = record.parent.name
        for name in (run.record(stage) or {})["artifacts"]:
            if name.endswith((".parquet", ".safetensors", ".json")) and not (
                stage == "prepare" and name in OWN
            ):
                run.artifact(stage, name)
                yield f"{stage}/{name}"


def _holdings(run: Run, person: Person) -> Iterator[tuple[str, Columns]]:
    for name in (*(f"prepare/{name}" for name in OWN), *_artifacts(run)):
        rows = rows_of(run.path / name, person)
        if rows:
            yield name, rows
    if _is_example(run, person):
        yield "config.yaml", {"example.user": [person.user_id]}


def _length(rows: Columns) -> int:
    return len(next(iter(rows.values())))


def _facts(rows: Columns, data: Dataset) -> dict[str, Any]:
    """First and last time, roles, shapes of vectors;
    where there is one row, its plain values (a group, a label; not a table's figures) and its item, by id and title.
    """
    facts: dict[str, Any] = {}
    for name, values in rows.items():
        if name in ("time", "times", "timestamp"):
            facts |= {"first": min(values), "last": max(values)}
        elif name == "role":
            counts = Counter(values)
            facts["roles"] = {ROLE_NAMES[role]: counts[role] for role in sorted(counts)}
        elif np.ndim(values[0]):
            facts[name] = f"{' × '.join(map(str, np.shape(values[0])))} values"
        elif name == "item":
            if len(values) == 1:
                facts["item"] = f"{data.catalogue.item_ids[values[0]]} ({data.catalogue.titles[values[0]]})"
        elif len(values) == 1 and name not in ("user", "users", "user_id") and BETWEEN not in name:
            facts[name] = values[0]
    return facts


def _records(rows: Columns, data: Dataset) -> list[dict[str, Any]]:
    """One object a row, for a reader: items by id and title, roles by name, no integers of the run's own."""
    columns: Columns = {}
    if "item" in rows:
        columns["item_id"] = [str(data.catalogue.item_ids[item]) for item in rows["item"]]
        columns["title"] = [data.catalogue.titles[item] for item in rows["item"]]
    if "role" in rows:
        columns["role"] = [ROLE_NAMES[role] for role in rows["role"]]
    ours = ("user", "users", "item", "role")
    columns |= {name: values for name, values in rows.items() if name not in ours}
    return [{name: _plain(values[at]) for name, values in columns.items()} for at in range(_length(rows))]


def _plain(value: Any) -> Any:
    """A value as JSON has it: what is not a number (a missing rating) is null."""
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)


# -- deleting ------------------------------------------------------------------------------------------------


def _without_dataset_rows(run: Run, data: Dataset, person: Person, rewrite: Part) -> None:
    """The tombstone, and prepare.json's counts.

    Its time range stays: it is the run's clock, and others' moment.
    """
    rest = data.without(person.number)
    rest.save_users(rewrite.new("prepare/events.parquet").parent)
    for name in OWN[1:]:
        rewrite.new(f"prepare/{name}")
    report = run.read_json("prepare", "prepare.json") | facts(rest)
    if "card" in report:
        report["card"] |= of_dataset(rest)
    report = _unnamed(report, person.user_id)
    rewrite.new("prepare/prepare.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    if (
        run.record("embed") is not None
    ):  # what brought vectors cover has a first example, who may be the person
        before = run.read_json("embed", "embed.json")
        after = _unnamed(before, person.user_id)
        if after != before:
            rewrite.new("embed/embed.json").write_text(json.dumps(after, indent=1), encoding="utf-8")


def _unnamed(value: Any, user_id: str) -> Any:
    """A report without a person's id where its sentences quote it, as all of them do."""
    if isinstance(value, dict):
        return {key: _unnamed(inner, user_id) for key, inner in value.items()}
    if isinstance(value, list):
        return [_unnamed(inner, user_id) for inner in value]
    return value.replace(f"'{user_id}'", "(deleted)") if isinstance(value, str) else value


def _without_old_picture(run: Run, rewrite: Part) -> None:
    """Runs made before pictures said whose vector is whose: none of them is kept."""
    record = run.record("evaluate")
    if record is None or Path(PICTURE).name not in record["artifacts"] or PICTURE in rewrite.replaced:
        return
    picture = run.read_json("evaluate", Path(PICTURE).name)
    if picture is not None and "users" not in picture:
        rewrite.new(PICTURE).write_text("null")


def _is_example(run: Run, person: Person) -> bool:
    if not (run.path / "config.yaml").exists():
        return False
    return str((run.read_config().get("example") or {}).get("user")) == person.user_id


def _without_example(run: Run, person: Person, rewrite: Part) -> None:
    if _is_example(run, person):
        config = run.read_config()
        config["example"]["user"] = None
        text = yaml.safe_dump(config, sort_keys=False, width=100)
        rewrite.new("config.yaml").write_text(text, encoding="utf-8")


def _record_deletion(run: Run, person: Person, rewrite: Part, in_state: Collection[str]) -> dict[str, Any]:
    """Stage the stages' new records and the manifest, which says when and what was rewritten,
    and not of whom.
    """
    deletion: dict[str, Any] = {
        "unix_s": int(time.time()),
        "people": 1,
        "rewritten": sorted([*rewrite.replaced, *in_state]),
        "removed": sorted(rewrite.removed),
    }
    changed: dict[str, dict[str, str | None]] = {}
    for path in list(rewrite.replaced):
        stage, _, name = path.partition("/")
        if name:
            changed.setdefault(stage, {})[name] = sha256_of(rewrite.staged(path))
    records = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(run.path.glob("*/stage.json"))
    }
    after = rehashed(records, changed)
    own.without_batches(run, after, person.user_id)
    for stage, record in after.items():
        if record != records[stage]:
            text = json.dumps(record, indent=1)
            rewrite.new(f"{stage}/stage.json").write_text(text, encoding="utf-8")
    text = manifest_text(after, [*run.deletions(), deletion], run.exported())
    rewrite.new("manifest.json").write_text(text, encoding="utf-8")
    _new_sums(run, rewrite)
    return deletion


def _new_sums(run: Run, rewrite: Part) -> None:
    """An exported or imported run is whole after a deletion as it was before."""
    if not (run.path / SUMS).is_file():
        return
    changed = {name: sha256_of(rewrite.staged(name)) for name in rewrite.replaced}
    text = sums_after(run.inside(SUMS).read_text(encoding="utf-8"), changed | dict.fromkeys(rewrite.removed))
    rewrite.new(SUMS).write_text(text, encoding="utf-8")

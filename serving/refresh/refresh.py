"""`prelude refresh`: today's items, embeddings and events, as a version of the run that serves as a whole or not at all.

    items, vectors  →  a draft beside the versions  →  the gate  →  one rename and one pointer: it serves  →  events into RUN/live

Nothing is trained. Wherever a refresh is killed, the version before serves, or the new one does; the same command again goes on, and
does nothing where all is done. Two at once: the second is told that the first is at work.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llm.decoding.newcomers import NAME as NEWCOMERS
from llm.decoding.newcomers import content_of
from recsys.artifacts import versions
from recsys.artifacts.manifest import hash_json
from recsys.artifacts.paths import RunError
from recsys.artifacts.rewrite import write_text_atomically
from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset
from recsys.door.sources import source_hash
from recsys.run import Run
from serving.answering.feedback_files import FeedbackFile, read_feedback
from serving.answering.live import Update
from serving.answering.methods import Methods
from serving.answering.recommender import Recommender, forget_loaded
from serving.config.run import RunConfig
from serving.config.truth import config_of
from serving.refresh.calibrate import fit_weights
from serving.refresh.changes import Absent, Changes, no_changes, read_changes
from serving.refresh.folder import Draft, clear_if_full, drop_partial, refuse_full_disk
from serving.refresh.gate import Bounds, Verdict, judge_answers, judge_items
from serving.refresh.had import counts_of, shape_of_counts, since_they_came, to_be_absorbed
from serving.refresh.items import Coded, code_items, extend_records
from serving.refresh.spaces import BOUND
from serving.refresh.vectors import Brought, add_users, brought_items

ABSORBED = "absorbed.json"  # in RUN/versions: hashes of the files of events that refreshes have absorbed
INPUTS = ("items", "events", "user_embeddings", "item_embeddings")


@dataclass(frozen=True)
class Choices:
    """How a night is read, beside its files."""

    absent: Absent = "retire"  # items that the items file does not name
    recode: bool = (
        False  # items whose title, text or vector changed are coded anew, and answered with as newcomers
    )
    accept: tuple[str, ...] = ()  # reasons of the gate that do not stop this night
    most_residual: float = BOUND
    method: str | None = None  # what the gate asks; None: what each version answers with by default
    bounds: Bounds = field(default_factory=Bounds)


@dataclass(frozen=True)
class Version:
    """What a refresh came to. `number`: the version that serves now, 0: the run as it was trained."""

    number: int
    published: bool  # is it one that this call has put there
    facts: dict[str, Any]  # what the version says of itself, or would
    refused: dict[str, str] = field(default_factory=dict)  # the gate's reasons, where it was not published
    said: tuple[str, ...] = ()
    update: Update | None = None  # what became of the events
    seconds: float = 0.0


def refresh(
    run: str | Path,
    items: str | Path | None = None,
    events: str | Path | None = None,
    user_embeddings: str | Path | None = None,
    item_embeddings: str | Path | None = None,
    dry_run: bool = False,
    choices: Choices | None = None,
) -> Version:
    """Make today's version of a run and have it serve; see the module. Files are those that the door reads, read as the run's own were.

    `dry_run` does all of it but the last: nothing is published or absorbed. Raises `DataError` by place for a file that cannot be read,
    `ValueError` for embeddings of another space, and `RunError` while another process writes the run, or without room on the disk.
    """
    started, choices = time.monotonic(), choices or Choices()
    home = Run.open(Run.open(run).home)
    given = dict(zip(INPUTS, (items, events, user_embeddings, item_embeddings), strict=True))
    files = {name: Path(path) for name, path in given.items() if path is not None}
    if home.exported():
        raise RunError(f"{home.path} was exported; refresh the run that it comes from, and export that again")
    if not files:
        raise ValueError(
            "nothing to refresh from: give --items, --events, --user-embeddings or --item-embeddings"
        )
    night = _Night(home, files, choices, dry_run)
    with home.lock():
        with clear_if_full(
            f"{home.path}: {{}}; the version before goes on, and nothing of this night is left"
        ):
            found = night.publish()
        with clear_if_full(
            f"{home.path}: {{}}; version {found.number} serves, its events are not all taken in"
        ):
            update = None if found.refused or dry_run else night.absorb()
    return replace(found, update=update, seconds=time.monotonic() - started)


def go_back(run: str | Path, to: int | None = None) -> int:
    """Have the version before serve again, or version `to` (0: the run as it was trained); returns its number.

    Nothing is copied or lost: what was absorbed stays, events of items that the version lacks are left out of histories, and the newer
    version is there to go to again. Raises `ValueError` where there is no such version.
    """
    home = Run.open(Run.open(run).home)
    with home.lock():
        now = versions.pointer(home.path)
        if to is None and not now.before:
            raise ValueError(f"{home.path} serves version {now.serves}, and none served before it")
        to = now.before[-1] if to is None else to
        if to != 0 and to not in versions.numbers(home.path):
            there = ", ".join(map(str, [0, *versions.numbers(home.path)]))
            raise ValueError(f"{home.path} has no version {to}; it has {there}")
        if to == now.serves:
            return to
        back = (
            now.before[: len(now.before) - now.before[::-1].index(to) - 1]
            if to in now.before
            else (*now.before, now.serves)
        )
        versions.point(home.path, to, back)
    forget_loaded()
    return to


def keep_newest(run: str | Path, keep: int) -> list[int]:
    """Drop versions but the `keep` newest and the one that serves; returns the numbers of those that went."""
    home = Run.open(Run.open(run).home)
    with home.lock():
        now, there = versions.pointer(home.path), versions.numbers(home.path)
        gone = [number for number in there[: max(0, len(there) - keep)] if number != now.serves]
        versions_left = tuple(number for number in now.before if number not in gone)
        versions.point(home.path, now.serves, versions_left)
        for number in gone:
            folder = versions.folder_of(home.path, number)
            doomed = folder.with_name(f".partial-{folder.name}")
            folder.rename(doomed)  # a version that is half there is none
            shutil.rmtree(doomed)
    return gone


class _Night:
    """One refresh at work."""

    def __init__(self, home: Run, files: dict[str, Path], choices: Choices, dry_run: bool):
        self.home, self.files, self.choices, self.dry_run = home, files, choices, dry_run
        self.inputs = {name: source_hash(path) for name, path in files.items()}
        self.said: list[str] = []

    def publish(self) -> Version:
        """Under the run's lock: the version of these inputs, built where there is none, and pointed to."""
        now = versions.pointer(self.home.path)
        parent = Run.serving(self.home.path)
        made = hash_json(
            [self.inputs, [self.choices.absent, self.choices.recode, self.choices.most_residual]]
        )
        facts = {} if now.serves == 0 else versions.facts(parent.path)
        if facts.get("made_from") == made:
            return Version(
                now.serves, False, facts, said=(f"the same inputs as version {now.serves}, which serves",)
            )
        if (again := self._built_before(made, now.serves)) is not None:
            if not self.dry_run:
                versions.point(self.home.path, again, (*now.before, now.serves))
                forget_loaded()
            return Version(again, not self.dry_run, versions.facts(versions.folder_of(self.home.path, again)),
                           said=(f"the same inputs as version {again}, which serves again",))  # fmt: skip
        if set(self.files) == {"events"}:
            return Version(now.serves, False, facts, said=("the items are as they were: events alone",))
        refuse_full_disk(self.home.path, 2 * sum(path.stat().st_size for path in parent.path.glob("embed/*")))
        draft = Draft(parent, made[:12])
        draft.begin()
        try:
            return self._publish(draft, now, made)
        finally:
            drop_partial(self.home.path)

    def _built_before(self, made: str, serves: int) -> int | None:
        """A version of the same inputs on top of what serves now, that was gone back from."""
        for number in versions.numbers(self.home.path):
            facts = versions.facts(versions.folder_of(self.home.path, number))
            if (
                facts["made_from"] == made
                and facts["parent"] == serves
                and facts["trained"] == versions.trained(self.home.path)
            ):
                return number
        return None

    def _publish(self, draft: Draft, now: versions.Pointer, made: str) -> Version:
        started = time.monotonic()
        config = config_of(draft.parent)
        changes, coded, brought = self._build(draft, config)
        before = versions.facts(draft.parent.path)["since_training"] if now.serves else {}
        facts: dict[str, Any] = {
            "made_from": made,
            "parent": now.serves,
            "trained": versions.trained(self.home.path),
            "inputs": self.inputs,
            "items": len(changes.after) - len(changes.after.retired),
            "changes": changes.counts(),
            "coded": coded.facts,
            "embeddings": brought.facts,
            "since_training": {
                name: coded.facts[name] + before.get(name, 0) for name in ("coded", "beside_their_node")
            },
            "table": coded.table.all_hash(),
            "table_items": coded.table.n_items,
        }
        number = max(versions.numbers(self.home.path), default=0) + 1
        verdict = self._judge(draft, changes, coded, facts, number)
        facts |= {
            "gate": verdict.figures,
            "seconds": round(time.monotonic() - started, 2),
            "made_unix_s": int(time.time()),
        }
        refused = verdict.against(self.choices.accept)
        if refused or self.dry_run:
            return Version(now.serves, False, facts, refused, tuple(self.said))
        draft.commit(number, facts)
        versions.point(self.home.path, number, (*now.before, now.serves))
        forget_loaded()
        return Version(number, True, facts, said=tuple(self.said))

    def _build(self, draft: Draft, config: RunConfig) -> tuple[Changes, Coded, Brought]:
        """The draft's artifacts."""
        run = draft.parent
        data = Dataset.load(run)
        changes = no_changes(data.catalogue)
        if "items" in self.files:
            changes = read_changes(self.files["items"], data.catalogue, config.prepare, self.choices.absent)
        brought = brought_items(run, changes, self.files.get("item_embeddings"), self.choices.most_residual)
        before = (
            run.read_json("adapt", NEWCOMERS)
            if NEWCOMERS in (run.record("adapt") or {"artifacts": {}})["artifacts"]
            else {}
        )
        again = np.union1d(changes.changed, brought.moved) if self.choices.recode else np.zeros(0, np.int64)
        again = again[again < (data.catalogue.n_trained or len(data.catalogue))]
        coded = code_items(draft, config, changes, brought.vectors, again)
        self._write_newcomers(draft, config, changes.after, coded, before, brought.alignment is not None)
        if "user_embeddings" in self.files:
            brought.facts["users"] = add_users(
                draft, data, self.files["user_embeddings"], brought, self.choices.most_residual
            )
        return changes, coded, brought

    def _write_newcomers(
        self,
        draft: Draft,
        config: RunConfig,
        after: Catalogue,
        coded: Coded,
        before: dict[str, Any],
        has_vectors: bool,
    ) -> None:
        """The newcomers' weights: those of the version before, or, of the first that has some, fitted on the run's own items; and
        how often each was had since it came.
        """
        again = before.get("again", {}) | {str(item): codes for item, codes in coded.again.items()}
        if coded.table.n_items == coded.table.n_base and not again:
            return
        if not before:
            own = Methods(self.home, config)
            report = self.home.read_json("embed", "embed.json")
            is_brought = has_vectors or report.get("items") == "brought"
            content = content_of(coded.vectors, coded.table.n_base, is_brought)
            weights, depth, facts = fit_weights(
                own.reading("no_context"), own.dataset, coded.table, content, config.seed
            )
            facts["shape_of_counts"] = shape_of_counts(own.dataset)
            before = {
                "depth": depth,
                "brought": is_brought,
                "weights": {"node": weights.node, "content": weights.content, "offset": weights.offset},
                "fit": facts,
            }
        newcomers = np.array([*map(int, again), *range(coded.table.n_base, coded.table.n_items)], np.int64)
        newcomers = np.setdiff1d(newcomers, after.retired)  # who returns comes anew: nobody could have had it
        coming = to_be_absorbed(self._events.events if "events" in self.files else [], after)
        had = since_they_came(counts_of(self.home, after), coming, newcomers, before, coded.table.n_base)
        text = json.dumps(before | {"again": again} | had, indent=1)
        draft.write("adapt", NEWCOMERS, lambda path: path.write_text(text, encoding="utf-8"))

    def _judge(
        self, draft: Draft, changes: Changes, coded: Coded, facts: dict[str, Any], number: int
    ) -> Verdict:
        verdict, bounds = Verdict(), self.choices.bounds
        served = len(changes.before) - len(changes.before.retired)
        judge_items(verdict, changes.counts(), served, coded, bounds)
        draft.seal(facts)
        after = Recommender.load(draft.path)
        extend_records(draft, after.methods)
        if "events" in self.files and not verdict.refused:
            judge_answers(
                verdict,
                Recommender.load(self.home.path),
                after,
                self._events.events,
                self.choices.method,
                bounds,
            )
        return verdict

    @cached_property
    def _events(self) -> FeedbackFile:
        return read_feedback(self.home, self.files["events"], {})

    def absorb(self) -> Update | None:
        """The events into RUN/live, once, whatever is deleted or gone back to meanwhile."""
        if "events" not in self.files:
            return None
        digest, path = self.inputs["events"], self.home.path / versions.FOLDER / ABSORBED
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        if digest in known:
            return Update(f"refresh-{digest[:16]}", False)
        file = self._events
        done = Recommender.load(self.home.path).update(
            file.events, f"refresh-{digest[:16]}", place=file.place
        )
        path.parent.mkdir(exist_ok=True)
        write_text_atomically(path, json.dumps([*known, digest]))
        forget_loaded()
        return done

"""Peers one after the other: split, environment, script, lists, figures. A peer that has finished is not run again."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsys.artifacts.paths import RunError
from recsys.data.config import PrepareConfig
from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.data.splits import TEST, VALIDATION, SplitConfig
from recsys.run import Run
from serving.bench.peers.catalogue import BEAUTY, ML, Peer
from serving.bench.peers.contract import KEPT, REPORT, whole
from serving.bench.peers.environments import ROOT, PeerError, python_of, run_script
from serving.bench.peers.judge import Question, judge
from serving.bench.peers.split import write_split, write_vectors

ASKED, BEGUN = "asked.json", "begun.json"  # what a finished peer was run with, and one that has begun


@dataclass(frozen=True)
class Settings:
    """What all peers of one table share."""

    seconds: float = 1200.0  # of CPU for training, at most: it ends with the epoch in which they are spent
    patience: int = 10  # validations without a better one before training ends; 0: never
    validation: int = 5000  # validation requests at most, a seeded sample; 0: all
    threads: int = 2
    seed: int = 0


def prepared(data: str, folder: Path, beauty: Path | None) -> Run:
    """The run whose split is used: a run's folder, or `ml-latest-small` or `beauty`, prepared in `folder`.

    Raises `ValueError` for Beauty without its folder, and `RunError` for what is no run.
    """
    split = SplitConfig(kind="leave_last_out", personalize_fraction=0.0)
    if data == ML:
        config = PrepareConfig(split=split)
    elif data == BEAUTY:
        if beauty is None:
            raise ValueError(
                "beauty needs its files: set PRELUDE_DATA to the folder that has amazon2014/Beauty"
            )
        config = PrepareConfig(source="amazon", path=beauty, split=split)
    else:
        return Run.open(data)
    run = Run.create(folder / "run")
    prepare(config, run)
    return run


def run_peers(
    peers: Iterable[Peer],
    data: str,
    run: Run,
    out: Path,
    settings: Settings,
    show: Callable[[str], None],
    only: Container[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Figures of one peer after the other, by `judge`; of one that could not be had or failed, `{"failed": why}`.

    `only`: the keys of those that are run; of the others there are figures where they have finished, and else nothing.
    """
    work = out / Path(data).name
    name = write_split(run, work, settings.validation, settings.seed)
    question = Question.read(work)
    for peer in peers:
        facts = {"peer": peer.key, "name": peer.name, "source": peer.source}
        left_out = only is not None and peer.key not in only
        try:
            folder = work / "peers" / peer.key
            asked = _asked(peer, data, name, settings)
            _check_split(peer, run)
            if not _is_finished(folder, asked):
                if left_out:
                    continue
                show(f"{peer.name} on {data}")
                if peer.vectors:
                    write_vectors(run, work)
                _run(peer, folder, work / "split", out / "venvs", asked, settings, show)
            yield facts | judge(question, folder)
        except (PeerError, ValueError, RunError) as error:
            if left_out:
                continue
            show(f"{peer.name}: {error}")
            yield facts | {"failed": str(error)}


def _asked(peer: Peer, data: str, split: str, settings: Settings) -> dict[str, Any]:
    """All that a peer's figures depend on: its settings, the split, its script and its pins."""
    shared = {"seconds": settings.seconds, "patience": settings.patience, "threads": settings.threads}
    files = [ROOT / f"{peer.module.replace('.', '/')}.py", *([peer.pins] if peer.pins else [])]
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return {"settings": {**shared, "seed": settings.seed, **peer.of(data)}, "split": split, "files": hashes}


def _check_split(peer: Peer, run: Run) -> None:
    """A finished run's rows must not have learned from what is held out here. Raises `ValueError`."""
    given = peer.settings.get("", {}).get("run")
    if given is not None and not is_same_split(run, Run.open(given)):
        raise ValueError(
            f"{given} has other events or holds out others; prepare both alike, or give its folder as --data"
        )


def is_same_split(run: Run, other: Run) -> bool:
    """Have two runs the same events, and are the same of them validation and test?"""
    here, there = Dataset.load(run), Dataset.load(other)
    held_out = [np.where(np.isin(one.roles, (VALIDATION, TEST)), one.roles, 0) for one in (here, there)]
    columns = [
        (one.users, one.items, one.times, roles) for one, roles in zip((here, there), held_out, strict=True)
    ]
    return all(np.array_equal(a, b) for a, b in zip(*columns, strict=True))


def _is_finished(folder: Path, asked: dict[str, Any]) -> bool:
    return (folder / REPORT).exists() and _says(folder / ASKED, asked)


def _says(note: Path, asked: dict[str, Any]) -> bool:
    return note.exists() and json.loads(note.read_text()) == asked


def _goes_on(note: Path, asked: dict[str, Any]) -> bool:
    """Was a training begun as it is asked for now? Its seconds may differ: nothing of a training depends on when it is to end."""
    if not note.exists():
        return False
    begun = json.loads(note.read_text())
    begun["settings"]["seconds"] = asked["settings"]["seconds"]
    return begun == asked


def _clear(folder: Path, asked: dict[str, Any]) -> None:
    """Of a peer that was killed or asked otherwise nothing is left but where it goes on, if it was begun the same."""
    goes_on = _goes_on(folder / BEGUN, asked)
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name == KEPT and goes_on:
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    whole(folder / BEGUN, lambda path: path.write_text(json.dumps(asked, indent=1)))


def _run(
    peer: Peer, folder: Path, split: Path, venvs: Path, asked: dict[str, Any], settings: Settings,
    show: Callable[[str], None],
) -> None:  # fmt: skip
    _clear(folder, asked)
    python = python_of(peer.pins, venvs.absolute(), show)
    arguments = [str(split.absolute()), str(folder.absolute()), json.dumps(asked["settings"])]
    run_script(
        python, peer.module, arguments, folder.absolute() / "log.txt", settings.threads, show
    )  # fmt: skip
    if not (folder / REPORT).exists():
        raise PeerError(f"{peer.name} ended without a report (see {folder / 'log.txt'})")
    whole(folder / ASKED, lambda path: path.write_text(json.dumps(asked, indent=1)))

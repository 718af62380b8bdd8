"""Online-Full: feedback absorbed into all of TAP-PER (P_u, P_q and the bridge), as a new run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from llm.decoding.recommender import SidRecommender
from llm.methods.base import save_personalizer
from recsys.artifacts.manifest import sha256_of
from recsys.artifacts.rewrite import to_disk, write_text_atomically
from recsys.run import Run
from serving.answering.absorb import update
from serving.answering.live import Given, Update, checked_events, digest_of, place_in_list
from serving.answering.recommender import Recommender
from serving.state.place import FOLDER, copy_state, file_of, one_at_a_time


def online_full(
    path: Path, given: Sequence[Given], out: Path, place: Callable[[int], str] = place_in_list
) -> Update:
    """Train P_u of the events' users, P_q and the bridge on the events, into a new run.

    Training goes on from the run's weights. Events that `update` has absorbed before are trained on too, and
    stand in the histories once. Stages that do not change are linked (copied where the disk cannot link). The
    new run, `out`, has the old one's configuration, its journal and these events; the old run stays as it is.
    It is built beside `out` and renamed: killed, it begins again.
    """
    if out.exists():
        raise ValueError(f"{out} exists, and is not overwritten; choose another --out or delete it")
    events = checked_events(given, place)
    old = Run.open(path)
    partial = out.with_name(f".partial-{out.name}")
    shutil.rmtree(partial, ignore_errors=True)
    with old.lock(), one_at_a_time(old.path):
        _link(old.path, partial)
    run = Run.open(partial)
    service = Recommender.load(partial)
    answer = update(service, events, f"online-full {digest_of(events)}", full=True, place=place)
    if not answer.steps:
        shutil.rmtree(partial)
        raise ValueError(f"{path} was trained on these very events before (online-full), or there are none")
    _save_weights(service, run, answer)
    run.update_manifest()
    os.rename(partial, out)
    return answer


def _link(source: Path, target: Path) -> None:
    """Every finished stage and the configuration; files are linked: nothing writes into one that is there."""

    def link(one: str, other: str) -> None:
        try:
            os.link(one, other)
        except OSError:
            shutil.copy2(one, other)

    of_the_run = {
        "report.html",
        "results.json",
        "SHA256SUMS",
    }  # at its top; a stage's own results.json is an artifact

    def hidden(folder: str, names: list[str]) -> set[str]:
        top = {*of_the_run, FOLDER} if Path(folder) == source else set()
        return {name for name in names if name.startswith(".") or name in top}

    shutil.copytree(source, target, copy_function=link, ignore=hidden)
    if file_of(source).exists():  # which is written into
        copy_state(source, target)


def _save_weights(service: Recommender, run: Run, answer: Update) -> None:
    """Put the trained weights into the new run's personalize stage; its journal then goes with them."""
    assert answer.method is not None
    recommender = service.method(answer.method)
    assert isinstance(recommender, SidRecommender)
    assert recommender.reading.personalizer is not None
    module, seed = recommender.reading.personalizer, service.methods.config.personalize.seeds[0]
    path = run.path / "personalize" / f"{answer.method}-{seed}.safetensors"
    _write_durably(path, lambda temporary: save_personalizer(module, temporary))
    record = run.record("personalize")
    assert record is not None
    record["artifacts"] |= {path.name: sha256_of(path)}
    record["continued"] = [
        *record.get("continued", []),
        {"method": answer.method, "events": answer.batch_id, "steps": answer.steps},
    ]
    write_text_atomically(path.with_name("stage.json"), json.dumps(record, indent=1))


def _write_durably(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name, flush it to disk, and rename it into place."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # what lies there may be a link to somewhere else
    write(temporary)
    to_disk(temporary)
    os.replace(temporary, path)
